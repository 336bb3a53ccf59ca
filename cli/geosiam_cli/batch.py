"""``geosiam batch``: find what changed in many pairs of scenes."""

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
    "workers": options.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="one thread per core",
        help="Threads for all pairs together on this machine; no result depends on it.",
    ),
    "memory": options.option(
        "--memory",
        metavar="SIZE",
        show_default="80 % of what is free",
        help="Memory for all pairs together on this machine, such as 8GB, 8GiB or 500M.",
    ),
    "scheduler": options.option(
        "--scheduler",
        metavar="ADDRESS",
        show_default="this machine",
        help="Dask scheduler whose workers run the pairs, such as tcp://host:8786; they must find the scenes and DIR "
        "under the same paths.",
    ),
    "time_limit": options.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        show_default="none",
        help="Give up a pair that takes longer.",
    ),
    "restart": options.option(
        "--restart/--resume",
        default=None,
        show_default="resume",
        help="Run every pair again, or only those that are missing, failed or changed.",
    ),
    "report": options.option(
        "--report/--no-report",
        default=None,
        show_default="report",
        help="Write DIR/report/index.html, a page to review all results, or not.",
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
@options.argument("source", metavar="MANIFEST|DIR|STAC")
@options.argument("after", metavar="[AFTER_DIR]", required=False)
@options.output("Folder for the results.", name="folder", metavar="DIR")
@options.option("--before", metavar="SCENE", help="Compare this one scene with every scene of DIR or STAC.")
@options.option(
    "--pattern", metavar="REGEX", help="How file names encode (?P<place>...) and, optionally, (?P<date>...)."
)
@options.option("--asset", metavar="KEY", help="Asset of STAC items to use, if they have several rasters.")
@options.option(
    "--dry-run",
    is_flag=True,
    help="Only show which pairs would run, which scenes have no partner, and the time and memory needed.",
)
@options.option("--json-log", type=options.PATH, metavar="FILE", help="Append every event to FILE, as JSON lines.")
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
    given_values: dict[str, Any],
) -> None:
    """Find what changed in many pairs of scenes.

    Pairs are the rows of a manifest (CSV, TSV, JSON or Parquet with the columns before, after and, optionally, name,
    aoi and others); or two folders, whose scenes are paired by name, place and date; or one folder or STAC document,
    whose scenes form series, each compared with the next. The results of a pair are DIR/NAME/anomalies.gpkg and
    scores.tif, those of all pairs together are in DIR/survey.gpkg. DIR/report/index.html is a page to review them;
    'geosiam review' writes the verdicts back.

    A failing pair never stops the batch. Failures are listed at the end, and the exit code is 4; the same command then
    runs only the pairs that are missing, failed or changed.
    """
    from geosiam.batch.api import BatchOptions, estimate, plan_batch, run_batch
    from geosiam.options import DetectOptions

    pair_settings = DetectOptions(**{name: given_values[name] for name in PAIR_OPTIONS if name in given_values})
    batch_settings = BatchOptions(**{name: given_values[name] for name in BATCH_OPTIONS if name in given_values})
    with _terminable():
        plan = plan_batch(source, after, before=before, pattern=pattern, asset=asset)
        if dry_run:
            _print_plan(plan, estimate(plan, detect=pair_settings, options=batch_settings).to_dict())
            return
        output.warn([*plan.notes, *(f"{scene.scene}: {scene.reason}" for scene in plan.unmatched)])
        with batch_progress() as show, _logged(json_log, show) as on_event:
            result = run_batch(plan, folder, detect=pair_settings, options=batch_settings, on_event=on_event)
    _print_result(result)


def _print_result(result: BatchResult) -> None:
    """Print the files of a batch, then its failures.

    Raises
    ------
    IncompleteRunError
        Some pairs failed.
    """
    output.result(list(result.files.values()), as_json=result.to_dict())
    output.warn(result.remarks)
    finished = [pair for pair in result.pairs if pair.done]
    ran_now = sum(pair.ran for pair in finished)
    anomalies = sum(pair.record.count for pair in finished if pair.record)
    output.note(
        f"{len(finished)} of {len(result.pairs)} pairs have results ({ran_now} new), {anomalies} anomalies in total"
    )
    output.warn(f"{name}: {why}" for name, why in result.misfits.items())
    if result.misfits:
        count = f"{len(result.misfits)} of {len(result.pairs)} pairs"
        output.note(f"the scenes of {count} do not fit, or may not: see the warnings")
    if result.failed:
        output.warn(f"{pair.name}: {pair.error}" for pair in result.failed)
        fact = f"has {len(result.failed)} of {len(result.pairs)} pairs without results"
        remedy = "fix what is listed above and in summary.json; the same command retries only these"
        raise IncompleteRunError(result.folder, fact, remedy)


def _print_plan(plan: BatchPlan, cost: dict[str, Any]) -> None:
    """Print a paragraph for each pair that would run, then for what would not, then the total cost."""
    paragraphs: list[dict[str, Any]] = [
        {
            "pair": pair.name,
            "before": f"{pair.before} {pair.before_date}".strip(),
            "after": f"{pair.after} {pair.date}".strip(),
            "size": "cannot be opened" if pair.shape is None else f"{pair.pixels / 1e6:.1f} Mpx",
            "time": f"about {cost['pair_seconds'][pair.name]:.3g} s on one thread",
        }
        for pair in plan.pairs
    ]
    paragraphs += [
        {"refused": fault.name, "before": fault.before, "after": fault.after, "why": fault.error}
        for fault in plan.faults
    ]
    paragraphs += [{"unpaired": scene.scene, "why": scene.reason} for scene in plan.unmatched]
    paragraphs += [{"note": note} for note in plan.notes]
    paragraphs.append({key: value for key, value in cost.items() if key != "pair_seconds"})
    output.result(paragraphs, as_json={**plan.to_dict(), "estimate": cost})


@contextlib.contextmanager
def _logged(path: Path | None, show: OnEvent) -> Iterator[OnEvent]:
    """Yield a callback that shows each event and, if there is a path, appends it to that log."""
    if path is None:
        yield show
        return
    from geosiam.batch.events import JsonLog

    with JsonLog(path) as log:

        def on_event(event: BatchEvent) -> None:
            log(event)
            show(event)

        yield on_event


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which systemd and SLURM send, and SIGHUP end the batch in order, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signals = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    # A batch started with nohup ignores SIGHUP, and goes on doing so.
    handled = [
        number for number in signals if number is signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    ]
    previous = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
