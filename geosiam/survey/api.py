"""`run_survey()`: all pairs of a plan to the end, and what came of them as tables, layers and items."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.detection.lock import FileLock
from geosiam.errors import OptionError, OutputError
from geosiam.options import DetectOptions
from geosiam.processors import default_workers
from geosiam.survey.budget import Budget, memory_available, parse_memory
from geosiam.survey.collect import collect
from geosiam.survey.engage import cost_of, engaged
from geosiam.survey.jobs import POLYGONS, SCORES
from geosiam.survey.ledger import identities, is_finished, load_record
from geosiam.survey.page import renewed_page
from geosiam.survey.results import PairResult, SurveyEvent, SurveyResult
from geosiam.survey.runner import Runner, Ticket

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from geosiam.survey.budget import Need
    from geosiam.survey.ledger import Record
    from geosiam.survey.pairs import SurveyPair, SurveyPlan
    from geosiam.survey.results import OnEvent

LOCK = ".geosiam-batch.lock"
_PAIR_SECONDS = 0.4  # what a pair takes besides its blocks: checks, radiometry, files (benchmarks/BATCH.md)


@dataclass(frozen=True)
class SurveyOptions:
    """How a survey is run; none of it changes what comes of a pair.

    Parameters
    ----------
    workers
        Threads that all pairs together may use on this machine; None: one a core.
    memory
        Memory that all pairs together may use on this machine, such as ``"8GB"``; None: most of what is free.
    scheduler
        Address of a Dask scheduler whose workers run the pairs; None: this machine does.
    time_limit
        Seconds that a pair may take before it is given up; None: as many as it needs.
    restart
        Run every pair again, also those that need nothing.
    report
        Make the page of the survey when its pairs have been run.
    """

    workers: int | None = None
    memory: str | None = None
    scheduler: str | None = None
    time_limit: float | None = None
    restart: bool = False
    report: bool = True

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_memory(self.memory)
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"{self.workers} workers", "cannot do any work", "use 1 or more")
        if self.time_limit is not None and self.time_limit <= 0:
            raise OptionError(f"time limit {self.time_limit:g}", "leaves no time", "use a number of seconds above 0")

    @property
    def budget(self) -> Budget:
        """Threads and bytes of this machine."""
        memory = memory_available() if self.memory is None else parse_memory(self.memory)
        return Budget(self.workers or default_workers(), memory)


def run_survey(
    plan: SurveyPlan,
    folder: str | os.PathLike[str],
    *,
    detect: DetectOptions = DetectOptions(),
    options: SurveyOptions = SurveyOptions(),
    on_event: OnEvent | None = None,
) -> SurveyResult:
    """Run all pairs of a plan that are not done yet, each in a worker process, and collect what came of all.

    A pair that fails, whatever way, fails alone. A call that is interrupted goes on with the same call.

    Parameters
    ----------
    plan
        Of :func:`geosiam.survey.source.plan_survey`.
    folder
        Where results go; made if it is absent.
    detect
        How pairs are compared, where they do not say so themselves; its ``workers``, ``scheduler`` and ``restart``
        have no meaning here.
    options
        How the survey is run.
    on_event
        Called with everything that happens, in the caller's thread.

    Raises
    ------
    InputError
        The folder, the model, the device or the cluster cannot be used; what is wrong with a pair is told in its
        result instead.
    """
    start = time.monotonic()
    root = Path(folder).absolute()
    with _locked(root):
        tickets, kept = _tickets(plan.pairs, root, detect, options)
        runner: Runner | None = None
        fresh: dict[str, Record] = {}
        if tickets:
            with engaged(root, detect, options.budget, options.scheduler) as crew:
                runner = Runner(crew, tickets, skipped=len(kept), time_limit=options.time_limit, on_event=on_event)
                fresh = runner.run()
        tell = _teller(runner, on_event)
        tell("collect", {})
        pairs = _pair_results(plan, root, kept, fresh)
        files, remarks = collect(plan, pairs, root)
        if options.report:
            tell("report", {})
            page, remark = renewed_page(plan, pairs, root)
            files |= {} if page is None else {"page": page}
            remarks += () if remark is None else (remark,)
        result = SurveyResult(root, pairs, plan.unpaired, plan.notes, files, remarks, time.monotonic() - start)
        tell("end", {"done": len(pairs) - len(result.failed), "failed": [pair.name for pair in result.failed]})
        return result


def _teller(runner: Runner | None, on_event: OnEvent | None) -> Callable[[str, dict[str, Any]], None]:
    """Return what tells of the survey as a whole, if it ran anything and anybody listens."""

    def tell(kind: str, data: dict[str, Any]) -> None:
        if runner is not None and on_event is not None:
            on_event(SurveyEvent(kind, "", data, runner.progress()))

    return tell


def estimate(
    plan: SurveyPlan, *, detect: DetectOptions = DetectOptions(), options: SurveyOptions = SurveyOptions()
) -> dict[str, Any]:
    """Return how long a survey takes on this machine and how much memory, as JSON can hold it.

    Times are an extrapolation of one small block scored now, and the usual time of everything else.
    """
    cost, budget = cost_of(detect), options.budget
    needs = [cost.need(pair.shape, budget.threads) for pair in plan.pairs]
    seconds = [cost.seconds_per_pixel * pair.pixels + _PAIR_SECONDS for pair in plan.pairs]
    beside = _beside(budget, needs)
    return {
        "pairs": len(plan.pairs),
        "mpx": round(sum(pair.pixels for pair in plan.pairs) / 1e6, 1),
        "seconds": round(max(sum(seconds) / budget.threads, max(seconds, default=0) / budget.threads), 1),
        "side_by_side": len(beside),
        "memory_mb": round(sum(need.memory for need in beside) / 1e6),
        "threads": budget.threads,
        "memory_budget_mb": round(budget.memory / 1e6),
        "pair_seconds": {pair.name: round(second, 1) for pair, second in zip(plan.pairs, seconds, strict=True)},
    }


def _beside(budget: Budget, needs: list[Need]) -> list[Need]:
    running: list[Need] = []
    for need in sorted(needs, key=lambda need: -need.memory):
        if budget.has_room(running, need):
            running.append(need)
    return running


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Make the folder, and keep it for this process."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK)
        free = lock.acquire()
    except OSError as error:
        raise OutputError(root, f"cannot be written ({error.strerror})", "choose another output folder") from error
    if not free:
        raise OutputError(root, "is being written by another batch", "wait for it or choose another output folder")
    try:
        yield
    finally:
        lock.release()


def _tickets(
    pairs: Sequence[SurveyPair], root: Path, detect: DetectOptions, options: SurveyOptions
) -> tuple[list[Ticket], dict[str, Record]]:
    """Return what is to be run, and the records of what is not."""
    tickets = []
    finished: dict[str, Record] = {}
    for pair, identity in zip(pairs, identities(pairs, detect), strict=True):
        folder = root / pair.name
        record = load_record(folder)
        if record is not None and not options.restart and is_finished(folder, record, identity):
            finished[pair.name] = record
            continue
        stale = options.restart or record is None or record.identity != identity
        tickets.append(Ticket(pair, folder, identity, pair.options(detect), restart=stale))
    return tickets, finished


def _pair_results(
    plan: SurveyPlan, root: Path, kept: dict[str, Record], fresh: dict[str, Record]
) -> tuple[PairResult, ...]:
    results = []
    for pair in plan.pairs:
        record = fresh.get(pair.name) or kept[pair.name]
        done = record.status == "done"
        results.append(
            PairResult(
                name=pair.name,
                before=pair.before,
                after=pair.after,
                status=record.status,
                site=pair.site,
                before_date=pair.before_date,
                date=pair.date,
                ran=pair.name in fresh,
                attempts=record.attempts,
                scores=root / pair.name / SCORES if done else None,
                anomalies=root / pair.name / POLYGONS if done else None,
                facts=record.facts,
                error=record.error,
                identity=record.identity,
            )
        )
    refused = [PairResult(fault.name, fault.before, fault.after, "failed", error=fault.error) for fault in plan.faults]
    return (*results, *refused)
