"""``geosiam batch``: many pairs."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any

import click

from geosiam.errors import IncompleteRunError
from geosiam_cli import options, output
from geosiam_cli.progress import batch_progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geosiam.batch.events import BatchEvent, BatchResult, OnEvent
    from geosiam.batch.plan import BatchPlan

BATCH_OPTIONS: dict[str, options.Decorator] = {
    "workers": click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one a core",
        help="Threads of all pairs together on this machine; no result depends on it.",
    ),
    "memory": click.option(
        "--memory",
        metavar="SIZE",
        show_default="most of what is free",
        help="Memory of all pairs together on this machine, such as 8GB.",
    ),
    "scheduler": click.option(
        "--scheduler",
        metavar="ADDRESS",
        show_default="none, this machine does the work",
        help="Dask scheduler whose workers run the pairs; they must find the scenes and DIR.",
    ),
    "time_limit": click.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        show_default="none",
        help="Give up a pair that takes longer.",
    ),
    "restart": click.option(
        "--restart/--resume",
        default=None,
        show_default="resume",
        help="Run every pair again, or only those that are missing, failed or changed.",
    ),
    "report": click.option(
        "--report/--no-report",
        default=None,
        show_default="report",
        help="Make DIR/report/index.html, a page to look through all results and to judge them.",
    ),
}
COMPARISON = tuple(name for name in options.COMPARISON if name != "workers")
PAIR_OPTIONS = (*options.POLYGONS, *COMPARISON, "on_error", "score_type")
TABLE = {**options.LIBRARY_OPTIONS, **BATCH_OPTIONS}


@options.command(
    "batch",
    examples=(
        "geosiam batch pairs.csv -o survey",
        "geosiam batch october/ november/ -o survey --dry-run",
        "geosiam batch flights/ --before template.tif -o survey --register",
        "geosiam batch https://host/catalog.json --asset visual -o survey --memory 8GB",
        "geosiam batch october/ november/ -o /shared/survey --scheduler tcp://host:8786",
    ),
)
@click.argument("source", metavar="MANIFEST|DIR|STAC")
@click.argument("after", metavar="[AFTER_DIR]", required=False)
@click.option("-o", "--output", "folder", type=options.PATH, required=True, metavar="DIR", help="Folder of results.")
@click.option("--before", metavar="SCENE", help="One scene to compare with every scene of DIR or STAC.")
@click.option("--pattern", metavar="REGEX", help="How file names say (?P<place>...), and maybe (?P<date>...).")
@click.option("--asset", metavar="KEY", help="Asset of STAC items to take, where they have several rasters.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, what has no partner, and what it takes.")
@click.option("--json-log", type=options.PATH, metavar="FILE", help="Append all that happens to FILE, as JSON lines.")
@options.library_options(*PAIR_OPTIONS, *BATCH_OPTIONS, table=TABLE)
@options.json_output
def command(
    *,
    source: str,
    after: str | None,
    folder: Path,
    before: str | None,
    pattern: str | None,
    asset: str | None,
    dry_run: bool,
    json_log: Path | None,
    chosen: dict[str, Any],
) -> None:
    """Find what changed in many pairs, whatever happens to some.

    The pairs are the rows of a manifest (before,after[,name,aoi,...] as CSV, JSON or Parquet); or two folders whose
    scenes belong together by name, place and date; or one folder, or a STAC document, of dates that follow each other.
    Results go to DIR/NAME/anomalies.gpkg and scores.tif, and those of all pairs together to DIR/survey.gpkg;
    DIR/report/index.html is a page to look through them. 'geosiam review' writes the verdicts given there back.

    A pair that fails, fails alone, is listed at the end, and the exit code is 4. The same command, given again, runs
    only what is missing, failed or changed; so it also goes on where it was interrupted.
    """
    from geosiam.batch.api import BatchOptions, estimate, plan_batch, run_batch
    from geosiam.options import DetectOptions

    detect = DetectOptions(**{name: chosen[name] for name in PAIR_OPTIONS if name in chosen})
    survey = BatchOptions(**{name: chosen[name] for name in BATCH_OPTIONS if name in chosen})
    with _terminable():
        plan = plan_batch(source, after, before=before, pattern=pattern, asset=asset)
        if dry_run:
            _show(plan, estimate(plan, detect=detect, options=survey).to_dict())
            return
        output.lines([*plan.notes, *(f"{lonely.scene}: {lonely.reason}" for lonely in plan.unmatched)])
        with batch_progress() as show, _logged(json_log, show) as on_event:
            found = run_batch(plan, folder, detect=detect, options=survey, on_event=on_event)
    _conclude(found)


def _conclude(found: BatchResult) -> None:
    output.result(list(found.files.values()), as_json=found.to_dict())
    output.lines(found.remarks)
    done = [pair for pair in found.pairs if pair.done]
    fresh = sum(pair.ran for pair in done)
    anomalies = sum(pair.record.count for pair in done if pair.record)
    output.remark(f"{len(done)} of {len(found.pairs)} pairs have results ({fresh} new), {anomalies} anomalies in all")
    if found.failed:
        output.lines([f"{pair.name}: {pair.error}" for pair in found.failed])
        fact = f"has {len(found.failed)} of {len(found.pairs)} pairs without results"
        remedy = "mend what is listed above and in summary.json; the same command tries only these"
        raise IncompleteRunError(found.folder, fact, remedy)


def _show(plan: BatchPlan, cost: dict[str, Any]) -> None:
    """Print what would be run: a paragraph a pair, then what would not, then the sum."""
    rows: list[dict[str, Any]] = [
        {
            "pair": pair.name,
            "before": f"{pair.before} {pair.before_date}".strip(),
            "after": f"{pair.after} {pair.date}".strip(),
            "size": "cannot be opened" if pair.shape is None else f"{pair.pixels / 1e6:.1f} Mpx",
            "takes": f"about {cost['pair_seconds'][pair.name]:.3g} s on one thread",
        }
        for pair in plan.pairs
    ]
    rows += [
        {"refused": fault.name, "before": fault.before, "after": fault.after, "why": fault.error}
        for fault in plan.faults
    ]
    rows += [{"unpaired": lonely.scene, "why": lonely.reason} for lonely in plan.unmatched]
    rows += [{"note": note} for note in plan.notes]
    rows.append({key: value for key, value in cost.items() if key != "pair_seconds"})
    output.result(rows, as_json={**plan.to_dict(), "estimate": cost})


@contextlib.contextmanager
def _logged(path: Path | None, show: OnEvent) -> Iterator[OnEvent]:
    """Send events to the log as well, if there is one."""
    if path is None:
        yield show
        return
    from geosiam.batch.events import JsonLog

    with JsonLog(path) as log:

        def both(event: BatchEvent) -> None:
            log(event)
            show(event)

        yield both


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which systemd and SLURM send, and SIGHUP end the survey as Ctrl-C does: in order."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signals = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    ours = [number for number in signals if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, interrupt) for number in ours}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
