"""Arguments of an operation that arrive as JSON: checked against its signature, and back."""

import functools
from collections.abc import Mapping
from inspect import Parameter
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import to_jsonable_python

from deps.given import Given
from tools.errors import InvalidInput
from tools.registry import Operation


class _Arguments(Given, extra="forbid", allow_inf_nan=False):
    pass


@functools.cache
def model_of(operation: Operation) -> type[BaseModel]:
    """Return a model with one field per parameter; unknown fields are refused."""
    hints = get_type_hints(operation.run, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is Parameter.empty else parameter.default)
        for name, parameter in operation.parameters.items()
    }
    return create_model(operation.key.replace(".", "_"), __base__=_Arguments, **fields)


def parse(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Turn JSON into what `operation` is called with.

    Raises:
        InvalidInput: A field is missing, unknown or of the wrong type; `field` names the first.
    """
    try:
        parsed = model_of(operation).model_validate(dict(arguments))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{field}: {first['msg']}.", field=field) from error
    return {name: getattr(parsed, name) for name in operation.parameters}


def dump(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments into JSON values that `parse` accepts."""
    dumped: dict[str, Any] = to_jsonable_python(dict(arguments))
    return dumped
