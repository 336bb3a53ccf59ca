"""`plan_batch()`, `run_batch()` and `estimate()`: the stages of a batch in their order."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam.batch.events import BatchEvent, BatchResult, PairResult
from geosiam.batch.inventory import inspect_scenes, scenes_in, shapes_of
from geosiam.batch.manifest import read_manifest
from geosiam.batch.pairing import pair_folders, pair_series, pair_with_template
from geosiam.batch.pool import POLYGONS, SCORES
from geosiam.batch.resources import Resources, available_memory, parse_memory
from geosiam.batch.runner import PairTask, Runner, cost_model, start_pool
from geosiam.batch.stac_input import is_stac, read_stac
from geosiam.batch.state import identities, is_up_to_date, load_state
from geosiam.batch.summary import check_outputs, write_page, write_summaries
from geosiam.errors import OptionError, OutputError, SceneRefusedError
from geosiam.files import is_folder, locked
from geosiam.options import DetectOptions
from geosiam.runtime import default_workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from geosiam.batch.events import OnEvent
    from geosiam.batch.inventory import SceneEntry
    from geosiam.batch.plan import BatchPair, BatchPlan
    from geosiam.batch.state import PairState

LOCK = ".geosiam-batch.lock"
"""Name of the lock file in the folder of a batch."""

_PAIR_SECONDS = 0.4  # of a pair besides its blocks: checks, normalization, files (benchmarks/BATCH.md)


@dataclass(frozen=True)
class BatchOptions:
    """Options of running a batch; they do not affect the results of a pair.

    Parameters
    ----------
    workers
        Threads of all pairs together on this machine; None: one per core.
    memory
        Memory of all pairs together on this machine, such as ``"8GB"``; None: most of the free memory.
    scheduler
        Address of a Dask scheduler whose workers run the pairs; None: this machine runs them.
    time_limit
        Seconds after which a pair is stopped and has failed; None: no limit.
    restart
        Whether to run all pairs again, including those that are up to date.
    report
        Whether to write the page of the batch.

    Raises
    ------
    OptionError
        A value is invalid.
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
            raise OptionError("`workers`", f"is {self.workers}", "use 1 or more")
        if self.time_limit is not None and self.time_limit <= 0:
            raise OptionError("`time_limit`", f"is {self.time_limit:g} s", "use a number above 0")

    @property
    def budget(self) -> Resources:
        """Threads and bytes of memory of all pairs together on this machine."""
        memory = available_memory() if self.memory is None else parse_memory(self.memory)
        return Resources(self.workers or default_workers(), memory)


@dataclass(frozen=True)
class BatchEstimate:
    """The estimated cost of a batch.

    Parameters
    ----------
    pairs
        Number of pairs.
    mpx
        Megapixels of all before scenes.
    seconds
        Run time in seconds.
    side_by_side
        Number of pairs that run at once.
    memory_mb
        Memory of these pairs in MB.
    threads, memory_budget_mb
        Threads and MB of memory that the batch may take.
    pair_seconds
        Seconds of each pair on one thread, by its name.
    """

    pairs: int
    mpx: float
    seconds: float
    side_by_side: int
    memory_mb: int
    threads: int
    memory_budget_mb: int
    pair_seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


def plan_batch(
    source: str | os.PathLike[str],
    after: str | os.PathLike[str] | None = None,
    *,
    before: str | os.PathLike[str] | None = None,
    pattern: str | None = None,
    asset: str | None = None,
) -> BatchPlan:
    """Find the pairs of scenes to compare; only headers are read.

    Parameters
    ----------
    source
        Path of a manifest (CSV, TSV, JSON, Parquet) or of a folder of scenes, or path or URL of a STAC document.
    after
        Folder of after scenes, if `source` is the folder of before scenes.
    before
        A template scene, to compare with every scene of `source`.
    pattern
        Regular expression of the file names in folders; see :func:`~geosiam.batch.inventory.scenes_in`.
    asset
        Key of the asset of STAC items; see :func:`~geosiam.batch.stac_input.read_stac`.

    Raises
    ------
    InputError
        The source cannot be read, or there is no pair in it.
    """
    path = os.fspath(source)
    if "" in (path, after, before):
        raise OptionError("the name of a manifest, a folder or a scene", "is empty", "give one, or None for none")
    from_folder = "://" not in path and is_folder(path)
    if after is not None:
        if before is not None:
            raise OptionError("`before`", "cannot be used with two folders", "leave out one of them")
        plan = pair_folders(scenes_in(path, pattern), scenes_in(after, pattern))
    elif from_folder or is_stac(path):
        scenes = scenes_in(path, pattern) if from_folder else read_stac(path, asset)
        plan = pair_series(scenes) if before is None else pair_with_template(_template(before), scenes)
    elif before is not None:
        raise OptionError(path, "is a manifest, which names before scenes itself", "leave out `before`")
    else:
        plan = read_manifest(path)
    if not plan.pairs and not plan.faults:
        reasons = "; ".join(f"{Path(scene.scene).name}: {scene.reason}" for scene in plan.unmatched[:3])
        fact = f"has no two scenes that can be paired ({reasons or 'it is empty'})"
        raise SceneRefusedError(path, fact, "see docs/batch.md for how scenes are paired")
    return replace(_with_shapes(plan), source="" if from_folder else path)


def run_batch(
    plan: BatchPlan,
    folder: str | os.PathLike[str],
    *,
    options: BatchOptions = BatchOptions(),
    detect: DetectOptions = DetectOptions(),
    on_event: OnEvent | None = None,
) -> BatchResult:
    """Run all pairs that are not up to date in worker processes, and write the results of all pairs together.

    A pair that fails or crashes does not affect the others. An interrupted call resumes when it is made again.

    Parameters
    ----------
    plan
        Plan that :func:`plan_batch` returned.
    folder
        Folder of the results; it is created if it does not exist.
    options
        How the batch is run.
    detect
        How pairs are compared, unless they have options of their own; ``workers``, ``scheduler`` and ``restart`` are
        ignored.
    on_event
        Called with every event, in the caller's thread.

    Raises
    ------
    InputError
        The folder, the model, the device or the cluster cannot be used. Errors of a pair are in its result instead.
    """
    start = time.monotonic()
    root = Path(folder).absolute()
    with _locked(root):
        check_outputs(plan, detect, root)
        tasks, states = _tasks(plan.pairs, root, detect, options)
        up_to_date = len(states)
        runner: Runner | None = None
        if tasks:
            with start_pool(root, detect, options.budget, options.scheduler) as pool:
                runner = Runner(pool, tasks, skipped=up_to_date, time_limit=options.time_limit, on_event=on_event)
                states |= runner.run()

        def emit(kind: str, **data: object) -> None:
            if runner is not None and on_event is not None:
                on_event(BatchEvent(kind, "", data, runner.progress()))

        emit("collect")
        pairs = _pair_results(plan, root, states, ran={task.pair.name for task in tasks})
        files, remarks = write_summaries(plan, pairs, root)
        if options.report:
            emit("report")
            page, remark = write_page(plan, pairs, root)
            files |= {} if page is None else {"page": page}
            remarks += () if remark is None else (remark,)
        result = BatchResult(root, pairs, plan.unmatched, plan.notes, files, remarks, time.monotonic() - start)
        emit("end", done=len(pairs) - len(result.failed), failed=[pair.name for pair in result.failed])
        return result


def estimate(
    plan: BatchPlan, *, options: BatchOptions = BatchOptions(), detect: DetectOptions = DetectOptions()
) -> BatchEstimate:
    """Estimate time and memory of a batch on this machine, by scoring one small block.

    Parameters
    ----------
    plan
        Plan that :func:`plan_batch` returned.
    options, detect
        As in :func:`run_batch`.

    Raises
    ------
    InputError
        The model or the device cannot be used.
    """
    cost, budget = cost_model(detect), options.budget
    demands = [cost.demand(pair.shape, budget.threads) for pair in plan.pairs]
    seconds = [cost.seconds_per_pixel * pair.pixels + _PAIR_SECONDS for pair in plan.pairs]
    at_once: list[Resources] = []
    for demand in sorted(demands, key=lambda demand: -demand.memory):
        if budget.has_room(at_once, demand):
            at_once.append(demand)
    return BatchEstimate(
        pairs=len(plan.pairs),
        mpx=round(sum(pair.pixels for pair in plan.pairs) / 1e6, 1),
        seconds=round(sum(seconds) / budget.threads, 1),
        side_by_side=len(at_once),
        memory_mb=round(sum(demand.memory for demand in at_once) / 1e6),
        threads=budget.threads,
        memory_budget_mb=round(budget.memory / 1e6),
        pair_seconds={pair.name: round(second, 1) for pair, second in zip(plan.pairs, seconds, strict=True)},
    )


def _template(before: str | os.PathLike[str]) -> SceneEntry:
    path = os.fspath(before)
    is_remote = "://" in path or path.startswith("/vsi")
    (scene,) = inspect_scenes([path if is_remote else os.path.abspath(path)])  # noqa: PTH100 - may be a pattern of tiles
    return scene


def _with_shapes(plan: BatchPlan) -> BatchPlan:
    """Look up the sizes of before scenes that the source did not name."""
    unknown = [pair.before for pair in plan.pairs if pair.shape is None]
    shapes = dict(zip(unknown, shapes_of(unknown), strict=True))
    return replace(plan, pairs=tuple(replace(p, shape=p.shape or shapes.get(p.before)) for p in plan.pairs))


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Create the folder of a batch, and lock it against other batches."""
    remedy = "wait for it or choose another output folder"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(root, f"cannot be written ({error.strerror})", "choose another output folder") from error
    with locked(root / LOCK, root, writer="batch", remedy=remedy):
        yield


def _tasks(
    pairs: Sequence[BatchPair], root: Path, detect: DetectOptions, options: BatchOptions
) -> tuple[list[PairTask], dict[str, PairState]]:
    """Return the pairs to run, and the states of the pairs that are up to date."""
    tasks: list[PairTask] = []
    up_to_date: dict[str, PairState] = {}
    for pair, identity in zip(pairs, identities(pairs, detect), strict=True):
        folder = root / pair.name
        state = load_state(folder)
        if state is not None and not options.restart and is_up_to_date(folder, state, identity):
            up_to_date[pair.name] = state
            continue
        may_resume = state is not None and identity != "" and state.identity == identity and not options.restart
        tasks.append(PairTask(pair, folder, identity, pair.options(detect), restart=not may_resume))
    return tasks, up_to_date


def _pair_results(plan: BatchPlan, root: Path, states: dict[str, PairState], ran: set[str]) -> tuple[PairResult, ...]:
    results = []
    for pair in plan.pairs:
        state = states[pair.name]
        is_done = state.status == "done"
        results.append(
            PairResult(
                name=pair.name,
                before=pair.before,
                after=pair.after,
                status=state.status,
                site=pair.site,
                before_date=pair.before_date,
                date=pair.date,
                ran=pair.name in ran,
                attempts=state.attempts,
                scores=root / pair.name / SCORES if is_done else None,
                anomalies=root / pair.name / POLYGONS if is_done else None,
                record=state.record,
                error=state.error,
                identity=state.identity,
            )
        )
    refused = [PairResult(fault.name, fault.before, fault.after, "failed", error=fault.error) for fault in plan.faults]
    return (*results, *refused)
