"""All pairs of a survey, run to the end whatever happens to any of them."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from geosiam.batch.events import BatchEvent, Progress, append_line
from geosiam.batch.pool import Job
from geosiam.batch.state import LOG, Record, save_record

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.batch.events import OnEvent
    from geosiam.batch.plan import BatchPair
    from geosiam.batch.pool import Crew, Event
    from geosiam.batch.resources import Need
    from geosiam.options import DetectOptions

MOST_ATTEMPTS = 2
_TICK = 0.25


@dataclass
class Ticket:
    """A pair on its way through the survey.

    Parameters
    ----------
    pair
        What to run.
    folder
        Where its results go.
    identity
        Digest of what the results depend on.
    options
        How it is compared.
    restart
        What an interrupted run left in the folder is of no use: it had another identity.
    """

    pair: BatchPair
    folder: Path
    identity: str
    options: DetectOptions
    restart: bool = False
    attempts: int = 0
    begun: float = 0.0
    share: float = 0.0
    late: bool = False
    memory_times: float = 1.0


class Runner:
    """Runs tickets with a crew; the record of each says what became of it.

    Parameters
    ----------
    crew
        Who runs them.
    tickets
        What to run.
    skipped
        Number of pairs that needed nothing.
    time_limit
        Seconds that a pair may take; None: as long as it likes.
    on_event
        Called with everything that happens.
    """

    def __init__(
        self, crew: Crew, tickets: list[Ticket], *, skipped: int, time_limit: float | None, on_event: OnEvent | None
    ) -> None:
        self._crew = crew
        self._skipped = skipped
        self._time_limit = time_limit
        self._on_event = on_event
        self._all = tickets
        self._pixels = sum(ticket.pair.pixels for ticket in tickets)
        # The largest first: at the end, nothing waits for the one that was begun last.
        self._waiting = deque(sorted(tickets, key=lambda ticket: -ticket.pair.pixels))
        self._running: dict[str, Ticket] = {}
        self._start = time.monotonic()
        self._end_of_run: float | None = None  # what comes after the pairs is not part of their speed
        self._told = 0.0
        self._pixels_done = 0
        self._anomalies = 0
        self._finished = 0
        self._failed = 0
        self.records: dict[str, Record] = {}

    def run(self) -> dict[str, Record]:
        """Run all; return the record of each pair by its name."""
        self._tell("begin", "", {"to_run": len(self._all), "skipped": self._skipped})
        while self._waiting or self._running:
            self._dispatch()
            event = self._crew.next(_TICK if self._running else 0.0)
            if event is not None and (ticket := self._running.get(event.pair)) is not None:
                self._handle(ticket, event)
            self._end_late_ones()
            self._tell_progress()
        self._end_of_run = time.monotonic()
        return self.records

    def _dispatch(self) -> None:
        while self._waiting:
            ticket = self._waiting[0]
            need = self._crew.need(ticket.pair.shape, waiting=len(self._waiting), times=ticket.memory_times)
            if not self._crew.has_room(need):
                return
            self._waiting.popleft()
            self._begin(ticket, need)

    def _begin(self, ticket: Ticket, need: Need) -> None:
        ticket.attempts += 1
        ticket.begun = time.monotonic()
        log = ticket.folder / LOG
        try:
            ticket.folder.mkdir(exist_ok=True)
            if ticket.attempts == 1:
                log.unlink(missing_ok=True)
            save_record(ticket.folder, Record("started", ticket.identity, ticket.attempts))
        except OSError as error:
            self._fail(
                ticket, f"{ticket.folder}: cannot be written ({error.strerror}); check permissions and free space"
            )
            return
        pair = ticket.pair
        options = replace(ticket.options, workers=need.threads, scheduler=None, restart=ticket.restart)
        self._running[pair.name] = ticket
        process = self._crew.start(Job(pair.name, pair.before, pair.after, str(ticket.folder), options), need)
        details = {
            "before": pair.before,
            "after": pair.after,
            "attempt": ticket.attempts,
            "threads": need.threads,
            "pid": process,
        }
        self._note(ticket, "start", {**details, "options": options.to_dict()})
        self._tell("start", pair.name, details)

    def _handle(self, ticket: Ticket, event: Event) -> None:
        data = event.data
        if event.kind == "progress":
            ticket.share = data["done"] / data["total"] if data["total"] else 1.0
            ticket.restart = False  # what a second attempt finds is of this one
        elif event.kind == "log":
            self._note(ticket, "log", data)
            self._tell("log", ticket.pair.name, data)
        elif event.kind == "ready":
            self._tell("ready", ticket.pair.name, data)
        elif event.kind == "done":
            self._complete(ticket, data)
        elif event.kind == "failed":
            self._note(ticket, "failed", data)
            self._retry_or_fail(ticket, data["message"], transient=data["transient"])
        elif event.kind == "died":
            self._note(ticket, "died", data)
            ticket.memory_times *= 2  # it may have been memory: then fewer others run beside it
            self._retry_or_fail(ticket, self._cause(ticket, data), transient=not ticket.late)

    def _complete(self, ticket: Ticket, data: dict[str, Any]) -> None:
        facts = {**data["facts"], "memory_mb": data["peak_mb"]}
        record = Record("done", ticket.identity, ticket.attempts, facts)
        try:
            save_record(ticket.folder, record)
        except OSError as error:
            self._retry_or_fail(ticket, f"{ticket.folder}: cannot be written ({error.strerror})", transient=False)
            return
        self._note(ticket, "done", facts)
        self._anomalies += facts["count"]
        self._end(ticket, record)
        shown = {key: facts[key] for key in ("count", "area_m2", "seconds", "pixels", "shift_px", "warnings")}
        self._tell(
            "done", ticket.pair.name, {**shown, **{k: data[k] for k in ("held_mb", "peak_mb", "pid") if k in data}}
        )

    def _cause(self, ticket: Ticket, data: dict[str, Any]) -> str:
        if ticket.late:
            return f"{ticket.pair.name}: took longer than {self._time_limit:.0f} s; raise the limit, or look at its log"
        words = (data.get("stderr") or "").splitlines()
        fatal = [word for word in words if word.startswith("Fatal")] or words[-1:]
        last = f" ({fatal[0]})" if fatal else ""
        return f"{ticket.pair.name}: {data['reason']}{last}; see its log, or run it alone with geosiam detect"

    def _retry_or_fail(self, ticket: Ticket, message: str, *, transient: bool) -> None:
        if not transient or ticket.attempts >= MOST_ATTEMPTS:
            again = f" (tried {ticket.attempts} times)" if ticket.attempts > 1 else ""
            self._fail(ticket, message + again)
            return
        del self._running[ticket.pair.name]
        ticket.share = 0.0
        self._waiting.append(ticket)
        self._tell("retry", ticket.pair.name, {"reason": message})

    def _fail(self, ticket: Ticket, message: str) -> None:
        record = Record("failed", ticket.identity, ticket.attempts, error=message)
        with contextlib.suppress(OSError):
            save_record(ticket.folder, record)
        self._failed += 1
        self._end(ticket, record)
        self._tell("failed", ticket.pair.name, {"error": message, "attempts": ticket.attempts})

    def _end(self, ticket: Ticket, record: Record) -> None:
        self._running.pop(ticket.pair.name, None)
        self._pixels_done += ticket.pair.pixels
        self._finished += 1
        self.records[ticket.pair.name] = record

    def _end_late_ones(self) -> None:
        if self._time_limit is None:
            return
        now = time.monotonic()
        for ticket in self._running.values():
            if not ticket.late and now - ticket.begun > self._time_limit:
                ticket.late = True
                self._crew.end(ticket.pair.name)

    def _note(self, ticket: Ticket, event: str, data: dict[str, Any]) -> None:
        append_line(ticket.folder / LOG, event=event, pair=ticket.pair.name, **data)

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now - self._told >= _TICK:
            self._told = now
            self._tell("progress", "", {})

    def _tell(self, kind: str, pair: str, data: dict[str, Any]) -> None:
        if self._on_event is not None:
            self._on_event(BatchEvent(kind, pair, data, self.progress()))

    def progress(self) -> Progress:
        """Return how far the survey is."""
        running = tuple((name, ticket.share) for name, ticket in self._running.items())
        partly = sum(ticket.share * ticket.pair.pixels for ticket in self._running.values())
        return Progress(
            pairs=len(self._all),
            finished=self._finished,
            failed=self._failed,
            skipped=self._skipped,
            pixels=self._pixels,
            pixels_done=self._pixels_done + partly,
            anomalies=self._anomalies,
            seconds=(self._end_of_run or time.monotonic()) - self._start,
            running=running,
        )
