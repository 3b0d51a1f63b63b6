"""The servers a command uses: those named in the environment, else embedded ones."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deps.embedded_postgres import EmbeddedPostgres
from deps.embedded_valkey import EmbeddedValkey
from deps.settings import Settings

DATABASE = "shopkeeper"


class CommandFailed(Exception):
    """A command cannot do what was asked. The message is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Servers:
    database_url: str
    redis_url: str
    are_embedded: bool


@contextmanager
def open_servers(settings: Settings) -> Iterator[Servers]:
    """Start the embedded servers that the environment does not replace, and stop them in the end.

    Blocks for as long as they take, on purpose: a start that a signal interrupts half-way through
    would leave processes behind.

    Raises:
        EmbeddedError: One cannot run here.
    """
    with ExitStack() as stack:
        postgres, valkey = embedded(settings)
        database_url, redis_url = settings.database_url, settings.redis_url
        if database_url is None:
            database_url = stack.enter_context(postgres).dsn(DATABASE)
        if redis_url is None:
            redis_url = stack.enter_context(valkey).url
        yield Servers(database_url, redis_url, are_embedded=settings.database_url is None)


def embedded(settings: Settings) -> tuple[EmbeddedPostgres, EmbeddedValkey]:
    home = data_dir(settings)
    return EmbeddedPostgres(home / "postgres"), EmbeddedValkey(home / "valkey")


def data_dir(settings: Settings) -> Path:
    return settings.data_dir.expanduser().absolute()
