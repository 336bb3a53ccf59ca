"""`run_batch()`: all pairs of a plan to the end, and what came of them as tables, layers and items."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.batch.backends import cost_of, engaged
from geosiam.batch.events import BatchEvent, BatchResult, PairResult
from geosiam.batch.inventory import described, scenes_in, shapes_of
from geosiam.batch.manifest import read_manifest
from geosiam.batch.pairing import pair_folders, pair_series, pair_with_template
from geosiam.batch.pool import POLYGONS, SCORES
from geosiam.batch.resources import Budget, memory_available, parse_memory
from geosiam.batch.runner import Runner, Ticket
from geosiam.batch.stac_input import is_stac, read_stac
from geosiam.batch.state import identities, is_finished, load_record
from geosiam.batch.summary import collect, renewed_page
from geosiam.errors import OptionError, OutputError, SceneRefusedError
from geosiam.files import locked
from geosiam.options import DetectOptions
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from geosiam.batch.events import OnEvent
    from geosiam.batch.inventory import SceneEntry
    from geosiam.batch.plan import BatchPair, BatchPlan
    from geosiam.batch.resources import Need
    from geosiam.batch.state import Record

LOCK = ".geosiam-batch.lock"
_PAIR_SECONDS = 0.4  # what a pair takes besides its blocks: checks, radiometry, files (benchmarks/BATCH.md)


@dataclass(frozen=True)
class BatchOptions:
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


def run_batch(
    plan: BatchPlan,
    folder: str | os.PathLike[str],
    *,
    detect: DetectOptions = DetectOptions(),
    options: BatchOptions = BatchOptions(),
    on_event: OnEvent | None = None,
) -> BatchResult:
    """Run all pairs of a plan that are not done yet, each in a worker process, and collect what came of all.

    A pair that fails, whatever way, fails alone. A call that is interrupted goes on with the same call.

    Parameters
    ----------
    plan
        Of :func:`geosiam.batch.api.plan_batch`.
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
        result = BatchResult(root, pairs, plan.unpaired, plan.notes, files, remarks, time.monotonic() - start)
        tell("end", {"done": len(pairs) - len(result.failed), "failed": [pair.name for pair in result.failed]})
        return result


def _teller(runner: Runner | None, on_event: OnEvent | None) -> Callable[[str, dict[str, Any]], None]:
    """Return what tells of the survey as a whole, if it ran anything and anybody listens."""

    def tell(kind: str, data: dict[str, Any]) -> None:
        if runner is not None and on_event is not None:
            on_event(BatchEvent(kind, "", data, runner.progress()))

    return tell


def estimate(
    plan: BatchPlan, *, detect: DetectOptions = DetectOptions(), options: BatchOptions = BatchOptions()
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
    remedy = "wait for it or choose another output folder"
    with contextlib.ExitStack() as context:
        try:
            root.mkdir(parents=True, exist_ok=True)
            context.enter_context(locked(root / LOCK, root, writer="batch", remedy=remedy))
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(root, f"cannot be written ({error.strerror})", "choose another output folder") from error
        yield


def _tickets(
    pairs: Sequence[BatchPair], root: Path, detect: DetectOptions, options: BatchOptions
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
    plan: BatchPlan, root: Path, kept: dict[str, Record], fresh: dict[str, Record]
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


def plan_batch(
    source: str | os.PathLike[str],
    after: str | os.PathLike[str] | None = None,
    *,
    before: str | os.PathLike[str] | None = None,
    pattern: str | None = None,
    asset: str | None = None,
) -> BatchPlan:
    """Find out which scenes are to be compared; nothing of them but their headers is read.

    Parameters
    ----------
    source
        A manifest (CSV, TSV, JSON, Parquet), a folder of scenes, or a STAC document (path or URL).
    after
        Folder of after-scenes, where `source` is the folder of before-scenes.
    before
        One template scene, to compare with every scene of `source`.
    pattern
        How file names in folders say place and date; see :func:`~geosiam.batch.inventory.scenes_in`.
    asset
        Which asset of STAC items to take; see :func:`~geosiam.batch.stac_input.read_stac`.

    Raises
    ------
    InputError
        The source cannot be used, or there is no pair in it.
    """
    given = os.fspath(source)
    is_folder = "://" not in given and Path(given).is_dir()
    if after is not None:
        if before is not None:
            raise OptionError("two folders", "were given together with one before-scene", "leave out one of them")
        plan = pair_folders(scenes_in(given, pattern), scenes_in(after, pattern))
    elif is_folder or is_stac(given):
        scenes = scenes_in(given, pattern) if is_folder else read_stac(given, asset)
        plan = pair_series(scenes) if before is None else pair_with_template(_template(before), scenes)
    elif before is not None:
        raise OptionError(given, "is a manifest, which names its before-scenes itself", "leave out --before")
    else:
        plan = read_manifest(given)
    if not plan.pairs and not plan.faults:
        raise SceneRefusedError(given, _nothing(plan), "see docs/batch.md on how scenes are paired")
    return _sized(plan)


def _template(before: str | os.PathLike[str]) -> SceneEntry:
    path = os.fspath(before)
    remote = "://" in path or path.startswith("/vsi")
    (scene,) = described([path if remote else os.path.abspath(path)])  # noqa: PTH100 - may be a pattern of tiles
    return scene


def _sized(plan: BatchPlan) -> BatchPlan:
    """Look up the sizes that the source did not tell."""
    unknown = [pair.before for pair in plan.pairs if pair.shape is None]
    shapes = dict(zip(unknown, shapes_of(unknown), strict=True))
    return replace(plan, pairs=tuple(replace(p, shape=p.shape or shapes.get(p.before)) for p in plan.pairs))


def _nothing(plan: BatchPlan) -> str:
    reasons = "; ".join(f"{Path(lonely.scene).name}: {lonely.reason}" for lonely in plan.unpaired[:3])
    return f"has no two scenes that belong together ({reasons or 'it is empty'})"
