"""What people add in their own words: why they do something, or what the next ought to know."""

from typing import Final

from tools.errors import InvalidInput

CHARS_MAX: Final = 500


def needed(reason: str) -> str:
    """Return a reason that must be given, trimmed.

    Raises:
        InvalidInput: There is none, or it is too long.
    """
    trimmed = reason.strip()
    if not 1 <= len(trimmed) <= CHARS_MAX:
        raise InvalidInput(f"reason must have 1 to {CHARS_MAX} characters.", field="reason")
    return trimmed


def optional(text: str, field: str = "reason") -> str:
    """Return a remark that may be left out, trimmed.

    Raises:
        InvalidInput: It is too long.
    """
    trimmed = text.strip()
    if len(trimmed) > CHARS_MAX:
        raise InvalidInput(f"{field} must have at most {CHARS_MAX} characters.", field=field)
    return trimmed
