"""The desks of the agents, as a process has them that imported nothing before."""

import subprocess
import sys

_UNREACHED = """
import api.app
from agents.base import tool_name
from agents.domains import AGENTS
from tools.surface import load_operations

offered = {name for agent in AGENTS.values() for set_ in agent.toolsets
           for name in getattr(getattr(set_, "wrapped", set_), "tools", {})}
assert len(offered) > 100
print(*(key for key, op in load_operations().items() if tool_name(op) not in offered))
"""


def test_every_operation_is_at_some_desk_of_the_server() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _UNREACHED], check=True, capture_output=True, text=True, timeout=120
    )
    assert found.stdout.split() == []
