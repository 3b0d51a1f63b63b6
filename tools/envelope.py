"""From an envelope back to the event it carries, whichever version of the shop wrote it."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from deps.bus import Envelope
from deps.core import Event
from tools.events import EVENTS

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

# (type, version it was written in) → the payload one version later. A row is added with every
# change that a default cannot express, and none is ever removed: the outbox keeps every payload.
UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {}


class UnreadableEvent(Exception):
    """The type is unknown, the version is from the future or the payload breaks the schema."""


def load(
    envelope: Envelope,
    *,
    events: Mapping[str, type[Event]] = EVENTS,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> Event:
    """Return the event in its newest version.

    Raises:
        UnreadableEvent: Nothing here can read it. A newer release, or a new row in `UPCASTERS`,
            may: such events become dead letters, to be replayed.
    """
    kind = events.get(envelope.type)
    if kind is None:
        raise UnreadableEvent(f"unknown event type {envelope.type}")
    if envelope.schema_version > kind.version:
        raise UnreadableEvent(
            f"{envelope.type} version {envelope.schema_version} is newer than {kind.version}"
        )
    payload = dict(envelope.payload)
    for version in range(envelope.schema_version, kind.version):
        upcast = upcasters.get((envelope.type, version))
        if upcast is None:
            raise UnreadableEvent(f"no way from version {version} of {envelope.type}")
        payload = upcast(payload)
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise UnreadableEvent(f"invalid {envelope.type}: {problems}") from error
