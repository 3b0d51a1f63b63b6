"""SQL files for migrations, a statement at a time: asyncpg prepares one statement at a time."""

from pathlib import Path


def statements(name: str) -> list[str]:
    """Split `name`, a file beside this one, at the semicolons outside `$$`."""
    parts: list[str] = []
    current: list[str] = []
    is_quoted = False
    for line in (Path(__file__).parent / name).read_text().splitlines():
        if line.startswith("--"):
            continue
        current.append(line)
        is_quoted ^= line.count("$$") % 2 == 1
        if not is_quoted and line.rstrip().endswith(";"):
            parts.append("\n".join(current))
            current = []
    assert not "".join(current).strip(), f"{name} ends inside a statement"
    return parts
