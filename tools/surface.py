"""What the shop can be asked: importing every module that registers operations."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

import tools
from tools.registry import OPERATIONS, Operation


@functools.cache
def load_operations() -> Mapping[str, Operation]:
    """Import every module of `tools` and return the registry, complete."""
    for module in pkgutil.iter_modules(tools.__path__):
        importlib.import_module(f"tools.{module.name}")
    return OPERATIONS
