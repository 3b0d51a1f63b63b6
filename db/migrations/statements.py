"""Shared by migrations: SQL files, a statement at a time as asyncpg wants, and enum values."""

from pathlib import Path

from alembic import op


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


def set_values(table: str, column: str, enum: str, values: list[str]) -> None:
    """Let an enum column hold `values` and no others; rows that break it make this fail."""
    listed = ", ".join(f"'{value}'" for value in values)
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{enum}")
    op.execute(
        f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_{enum} CHECK ({column} IN ({listed}))"
    )
