"""What is given as JSON: each value has the type that its description says, or is refused."""

from typing import Any, Final

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# What pydantic would convert into each kind, and what JSON calls that kind.
_REFUSED: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "int": ((bool, str), "integer"),
    "float": ((bool, str), "number"),
    "bool": ((int, float, str), "boolean"),
    "datetime": ((int, float), "datetime"),
    "date": ((int, float), "date"),
}
# A class's schema is handed out again for each use of the class, and has its checks by then.
_MARK: Final = {"given": True}
# Parts of a schema that hold values, not schemas.
_VALUES: Final = frozenset(("metadata", "default", "expected", "serialization", "config"))


def _checked(node: Any) -> Any:
    """Return a schema in which a check comes before each kind that `_REFUSED` names."""
    if isinstance(node, list):
        node[:] = [_checked(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("metadata") == _MARK:
        return node
    kind = node.get("type")
    is_schema = isinstance(kind, str)  # Else a form's fields by name, of which one may be "type".
    kept = _VALUES if is_schema else ()
    node.update({name: _checked(item) for name, item in node.items() if name not in kept})
    if not is_schema or kind not in _REFUSED:
        return node
    refused, noun = _REFUSED[kind]
    is_boolean = kind == "bool"

    def check(value: Any) -> Any:
        if isinstance(value, refused) and not (is_boolean and isinstance(value, bool)):
            raise PydanticCustomError(f"{kind}_type", f"Input should be a valid {noun}")
        return value

    return core_schema.no_info_before_validator_function(check, node, metadata=dict(_MARK))


class Given(BaseModel):
    """A body of a request, a part of one, or the arguments of an operation.

    Pydantic takes `true` and "1" for the integer 1, as befits an address, which is all text. In a
    body it is a mistake of the sender's, and one about money or stock. 1.0 is an integer, as JSON
    Schema has it. Models within a `Given` have to be `Given` themselves.
    """

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        _checked(handler.resolve_ref_schema(schema))
        return schema
