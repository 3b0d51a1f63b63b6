"""Runs turns: each to its end, whoever still listens, with its events numbered and kept.

The process that accepts a message runs the turn in a task of its own. Events are committed before
anyone is shown them, so that a client that comes back, to this process or another, gets the rest
and nothing twice. A process holds an advisory lock as long as it lives: when it dies, so does the
lock, and the next reader ends its turns as interrupted.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import asyncpg
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.usage import RunUsage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agents import coordinator
from agents.coordinator import Said
from agents.model import choose_model
from db.models.chat import TurnState
from deps import background
from deps.core import Actor, Deps
from deps.postgres import DatabaseUnavailable
from deps.signal import Signals
from tools import turn as turns
from tools.errors import DomainError, NotFound, Unavailable
from tools.turn import Answer, Begun, Event

log = logging.getLogger(__name__)

TURN_TIMEOUT_S: Final = 90.0
RUNNING_MAX: Final = 500
# Words arrive faster than it is worth a commit each, and a short turn ends before its first is due.
FLUSH_AFTER_S: Final = 0.04
FLUSH_EVERY_S: Final = 0.08
BEAT_S: Final = 5.0
# How long a follower trusts that it would have been woken.
LOOK_S: Final = 1.0
LOOK_ELSEWHERE_S: Final = 0.25
HEARTBEAT_S: Final = 15.0
STOP_S: Final = 2.0
# Turns of one process that may be at the database for their own rows: the pool is for their tools.
WRITERS_MAX: Final = 4
END_TRIES_MAX: Final = 5
# What the database raises when it is away, by way of a session or of the hot pool.
AWAY: Final = (
    SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseUnavailable, OSError,
)  # fmt: skip


@dataclass(eq=False)
class Run:
    """A turn while it runs here. `events` are those that are committed."""

    begun: Begun
    actor: Actor
    task: asyncio.Task[None] | None = None
    answer: Answer = field(default_factory=Answer)
    events: list[Event] = field(default_factory=list)
    pending: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    added: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_cancelled: bool = False
    is_over: bool = False
    # Something else was told in between, such as what became of an approval: the events held here
    # are not all there are.
    has_gap: bool = False

    def add(self, said: Said) -> None:
        self.answer.take(said.name, said.data)
        self.pending.append((said.name, said.data))
        self.added.set()

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        taken, self.pending = _joined(self.pending), []
        self.added.clear()
        return taken

    def keep(self, events: list[tuple[str, dict[str, Any]]], last: int) -> None:
        first = last - len(events) + 1
        self.has_gap |= first != self.events[-1].number + 1
        self.events += [
            Event(number=first + i, turn_id=self.begun.id, name=name, data=data)
            for i, (name, data) in enumerate(events)
        ]


def _joined(events: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Join words that wait for the same commit: they would be shown together anyway."""
    joined: list[tuple[str, dict[str, Any]]] = []
    for name, data in events:
        if name == "text" and joined and joined[-1][0] == "text" and not data.get("replace"):
            before = joined[-1][1]
            joined[-1] = ("text", before | {"delta": before["delta"] + data["delta"]})
        else:
            joined.append((name, data))
    return joined


class Runner:
    """All turns of one process. `deps` are the process's own; each turn runs as its asker."""

    def __init__(self, deps: Deps) -> None:
        self.signals = Signals(deps.cache, "chat")
        self._deps = deps
        self._number = secrets.randbelow(2**31 - 1)
        self._runs: dict[UUID, Run] = {}
        self._presence: asyncio.Task[None] | None = None
        self._present = asyncio.Event()
        self._strays: set[UUID] = set()
        self._writers = asyncio.Semaphore(WRITERS_MAX)
        self._is_closing = False

    async def start(
        self,
        deps: Deps,
        conversation_id: UUID | None,
        said: str,
        *,
        channel: str,
        turn_id: UUID | None = None,
        thread_key: str | None = None,
        model: Model | None = None,
    ) -> Begun:
        """Begin a turn as `deps.actor` and let it run; the caller need not stay.

        Args:
            deps: Whose actor asks.
            conversation_id: Absent: the one of `thread_key`, or a new one.
            said: What the person wrote.
            channel: Where: sse, websocket, agui, vercel.
            turn_id: The client's own id of it; repeating it begins nothing new.
            thread_key: What another protocol's client calls the conversation.
            model: Instead of the configured one.

        Raises:
            NotFound: No such conversation, or someone else's.
            TurnRunning: One runs already.
            TooManyRequests: The actor has too many running, or the conversation is used up.
            Unavailable: This process runs as many as it can, or is about to stop.
        """
        if self._is_closing or len(self._runs) >= RUNNING_MAX:
            raise Unavailable("The assistant is busy; please try again in a moment.")
        await self._be_present()
        async with self._writers:
            begun = await turns.begin(
                deps, conversation_id, said, runner=self._number, channel=channel,
                remember=remember_broken, turn_id=turn_id, thread_key=thread_key,
            )  # fmt: skip
        conversation_id = begun.conversation_id
        if begun.is_repeat:
            return begun
        run = Run(begun, deps.actor)
        opening = {"id": str(begun.id), "number": begun.number, "text": said}
        run.events.append(
            Event(number=begun.first_event, turn_id=begun.id, name="turn", data=opening)
        )
        self._runs[conversation_id] = run
        run.task = asyncio.create_task(self._run(deps, run, said, model), name=f"turn {begun.id}")
        self.signals.send(str(conversation_id))
        return begun

    async def cancel(self, deps: Deps, conversation_id: UUID) -> UUID | None:
        """Stop the running turn of a conversation; its answer so far is kept.

        Returns:
            Its id, or None when none runs. On another process it may take a moment to stop.

        Raises:
            NotFound: No such conversation, or someone else's.
        """
        async with deps.begin() as uow:
            turn_id = await turns.cancel(uow, conversation_id)
        if turn_id is not None:
            self._stop(conversation_id, turn_id)
            self.signals.send("cancel")
        return turn_id

    def _stop(self, conversation_id: UUID, turn_id: UUID) -> None:
        run = self._runs.get(conversation_id)
        if run is not None and run.begun.id == turn_id and not (run.is_over or run.is_cancelled):
            run.is_cancelled = True
            if run.task is not None:
                run.task.cancel()

    async def follow(
        self,
        deps: Deps,
        conversation_id: UUID,
        after: int,
        *,
        turn_id: UUID | None = None,
        is_live: bool = False,
    ) -> AsyncGenerator[Event | None, None]:
        """Yield the events after number `after`, as they are committed, on whichever process.

        None is yielded when nothing happened for a while, so that the connection is seen to live.

        Args:
            deps: The actor's; whose conversation it is is checked at each look.
            conversation_id: What to follow.
            after: The last number seen, 0 for none.
            turn_id: Only this turn's events; the stream ends with its `done`.
            is_live: Go on when nothing runs.

        Raises:
            NotFound: No such conversation, or someone else's.
        """
        topic, loop = str(conversation_id), asyncio.get_running_loop()
        run: Run | None = None
        told_at = loop.time()
        async with self.signals.waiter(topic) as woken:
            while True:
                woken.clear()
                # Kept, since the end of a turn is told when its run has already left the list.
                run = self._runs.get(conversation_id) or run
                found = _here(run, deps.actor, after) or await self._look(
                    deps, conversation_id, after
                )
                if found.is_reset:
                    yield Event(number=after, turn_id=None, name="reset", data={})
                for event in found.events:
                    after = event.number
                    if turn_id is None or event.turn_id == turn_id:
                        yield event
                        if turn_id is not None and event.name == "done":
                            return
                if not found.events:
                    if not found.is_running and (turn_id is not None or not is_live):
                        return
                    here = conversation_id in self._runs
                    elsewhere = found.is_running and not here
                    with suppress(TimeoutError):
                        await asyncio.wait_for(
                            woken.wait(), LOOK_ELSEWHERE_S if elsewhere else LOOK_S
                        )
                    if loop.time() - told_at > HEARTBEAT_S:
                        told_at = loop.time()
                        yield None
                else:
                    told_at = loop.time()

    async def _look(self, deps: Deps, conversation_id: UUID, after: int) -> turns.News:
        async with self._writers, deps.begin() as uow:
            return await turns.news(uow, conversation_id, after, remember_broken)

    async def aclose(self) -> None:
        """Stop what runs, as interrupted: the process is about to end."""
        self._is_closing = True
        running = [run.task for run in self._runs.values() if run.task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=STOP_S)
        await self.signals.aclose()
        if self._presence is not None:
            await background.end(self._presence)
        self._present.set()  # Whoever waited to begin is told at once that it is over.

    # --- one turn ------------------------------------------------------------------------------

    async def _run(self, deps: Deps, run: Run, said: str, model: Model | None) -> None:
        conversation_id = run.begun.conversation_id
        try:
            turn = coordinator.begin(run.begun.state, conversation_id)
            writer = asyncio.create_task(self._write(deps, run))
            try:
                state, failure = await self._answer(deps, run, said, turn, model)
            finally:
                await background.end(writer)
            await asyncio.shield(self._end(deps, run, said, turn, state, failure))
        except NotFound:
            log.info("a conversation was deleted while a turn of it ran")
        except AWAY:
            # The database is away. Disowned at the next beat, the turn is ended by its next reader.
            log.exception("a chat turn could not be kept")
        finally:
            run.is_over = True
            self._runs.pop(conversation_id, None)
            self.signals.send(str(conversation_id))

    async def _answer(
        self, deps: Deps, run: Run, said: str, turn: coordinator.Turn, model: Model | None
    ) -> tuple[TurnState, DomainError | None]:
        chosen = model or choose_model(deps.settings, deps.actor)
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await coordinator.answer(deps, chosen, said, turn, run.add)
            return TurnState.DONE, None
        except DomainError as error:
            return TurnState.FAILED, error
        except TimeoutError:
            return TurnState.FAILED, Unavailable("That took too long; please try again.")
        except asyncio.CancelledError:
            if not (run.is_cancelled or self._is_closing):
                raise
            return (TurnState.CANCELLED if run.is_cancelled else TurnState.INTERRUPTED), None
        except Exception:
            # The edge of the task: a bug ends here, in the log, and the person is told something.
            log.exception("a chat turn failed")
            return TurnState.FAILED, Unavailable("Something went wrong on our side.")

    async def _write(self, deps: Deps, run: Run) -> None:
        while True:
            await run.added.wait()
            await asyncio.sleep(FLUSH_AFTER_S)
            await asyncio.shield(self._flush(deps, run))
            await asyncio.sleep(FLUSH_EVERY_S - FLUSH_AFTER_S)

    async def _flush(self, deps: Deps, run: Run) -> None:
        conversation_id = run.begun.conversation_id
        async with run.writing:
            events = run.take()
            try:
                async with self._writers:
                    written = await turns.add(deps, conversation_id, run.begun.id, events)
            except AWAY:
                log.warning("events of a chat turn wait for the database", exc_info=True)
                run.pending = [*events, *run.pending]
                run.added.set()
                return
            if written is not None:
                run.keep(events, written[0])
                self.signals.send(str(conversation_id))
        if written is None or written[1]:
            # Ended by somebody else, or to be cancelled: either way nobody waits for more.
            self._stop(conversation_id, run.begun.id)

    async def _end(
        self,
        deps: Deps,
        run: Run,
        said: str,
        turn: coordinator.Turn,
        state: TurnState,
        failure: DomainError | None,
    ) -> None:
        if failure is not None:
            log.warning("chat turn failed: %s", failure.error_code())
            run.add(Said("error", {"code": failure.error_code(), "detail": str(failure)}))
        note = _NOTES.get(state, "") if failure is None else str(failure)
        parts = (run.answer.text, note)
        answer = replace(run.answer, text="\n\n".join(part for part in parts if part))
        conversation_id = run.begun.conversation_id

        def remember(stored: dict[str, Any]) -> dict[str, Any]:
            if not turn.messages:
                return remember_broken(stored, conversation_id, said, answer.text)
            return coordinator.merged(stored, conversation_id, turn)

        async with run.writing:
            last = run.take()
            for tries in range(END_TRIES_MAX):
                try:
                    async with self._writers:
                        number = await turns.finish(
                            deps, run.begun, state, answer, last, remember,
                            error_code=failure.error_code() if failure else None,
                        )  # fmt: skip
                    break
                except AWAY:
                    # Safe to repeat: a turn that is over is not ended again.
                    if tries + 1 == END_TRIES_MAX or self._is_closing:
                        raise
                    await asyncio.sleep(LOOK_S)
        if number is not None:
            done = ("done", {"turn_id": str(run.begun.id), "state": state.value})
            run.keep([*last, done], number)

    # --- this process --------------------------------------------------------------------------

    async def _be_present(self) -> None:
        if self._presence is None or self._presence.done():
            self._present.clear()
            self._presence = asyncio.create_task(self._stay_present(), name="chat presence")
        if not self._present.is_set():
            try:
                await asyncio.wait_for(self._present.wait(), BEAT_S)
            except TimeoutError as error:
                raise Unavailable("The assistant can not answer now; please try again.") from error
        if self._is_closing:
            raise Unavailable("The assistant is about to stop; please try again in a moment.")

    async def _stay_present(self) -> None:
        """Hold this process's lock on a connection of its own, and look after its turns."""
        engine = self._deps.db.kw["bind"]
        assert isinstance(engine, AsyncEngine)
        while True:
            try:
                async with engine.connect() as pooled:
                    await pooled.execution_options(isolation_level="AUTOCOMMIT")
                    try:
                        await turns.be_present(pooled, self._number)
                        self._present.set()
                        async with self.signals.waiter("cancel") as woken:
                            while True:
                                await self._beat(pooled)
                                woken.clear()
                                with suppress(TimeoutError):
                                    await asyncio.wait_for(woken.wait(), BEAT_S)
                    finally:
                        # Not back to the pool: the lock must go when we do.
                        await pooled.invalidate()
            except AWAY:
                log.warning("the chat's connection was lost; it is made again", exc_info=True)
                await asyncio.sleep(LOOK_S)

    async def _beat(self, connection: AsyncConnection) -> None:
        running = await turns.beat(connection, self._number)
        # Twice, because one may have been begun a moment ago and not be among ours yet.
        strays = running.keys() - {run.begun.id for run in self._runs.values()}
        for turn_id in strays & self._strays:
            await turns.disown(connection, turn_id)
        self._strays = strays
        for conversation_id, run in list(self._runs.items()):
            if running.get(run.begun.id):
                self._stop(conversation_id, run.begun.id)


def _here(run: Run | None, actor: Actor, after: int) -> turns.News | None:
    """Return the news from memory: of a run of this process, for whom it runs for."""
    if run is None or run.actor != actor or run.has_gap or after + 1 < run.begun.first_event:
        return None
    news = [event for event in run.events if event.number > after]
    if not news and run.is_over:
        return None
    return turns.News(news, is_running=True)


_NOTES = {TurnState.CANCELLED: "Stopped.", TurnState.INTERRUPTED: turns.INTERRUPTED}


def remember_broken(
    stored: dict[str, Any], conversation_id: UUID, asked: str, shown: str
) -> dict[str, Any]:
    """Let the agents know of a turn that broke off: what was asked, and what people saw."""
    turn = coordinator.Turn(
        conversation=coordinator.load({}, conversation_id),
        messages=[
            ModelRequest(parts=[UserPromptPart(asked)]),
            ModelResponse(parts=[TextPart(shown or "(no answer)")]),
        ],
        usage=RunUsage(),
    )
    return coordinator.merged(stored, conversation_id, turn)
