"""``geosiam evaluate``: how good a result is, by the truth or by an analyst's verdicts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from geosiam_cli import options, output, progress

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.evaluation.api import Task

BASELINES = ("difference", "cva", "irmad", "ssim", "pca-kmeans", "autoencoder")
_COMPARISON = tuple(name for name in options.COMPARISON if name != "model")


@options.command(
    "evaluate",
    examples=(
        "geosiam evaluate anomalies.tif truth.gpkg",
        "geosiam evaluate anomalies.gpkg truth.tif --json",
        "geosiam evaluate before.tif after.tif truth.gpkg --model survey --baseline cva --baseline irmad --out report",
        "geosiam evaluate --pairs pairs.csv --model mine.safetensors --out report",
        "geosiam evaluate --review anomalies.gpkg --target-precision 0.9",
    ),
)
@click.argument("files", metavar="[PREDICTION TRUTH | BEFORE AFTER TRUTH]", nargs=-1)
@click.option(
    "--pairs",
    type=options.PATH,
    metavar="CSV",
    help="Many pairs instead: a table with a column truth, and either prediction or before and after.",
)
@click.option(
    "--review",
    multiple=True,
    metavar="FILE",
    help="Polygons with verdicts (confirmed, rejected, unsure) in the column review; repeat for more.",
)
@click.option(
    "--target-precision",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="P",
    show_default="0.9",
    help="Precision that the threshold suggested by --review is to reach.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    show_default="survey, unless there is a baseline",
    help="Weights to run on the two scenes; repeat for more.",
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Choice(BASELINES),
    help="Classical method to run on the two scenes; repeat for more.",
)
@click.option(
    "--out",
    type=options.PATH,
    metavar="DIR",
    show_default="none",
    help="Folder for evaluation.md, evaluation.json, curves.png and what the models found.",
)
@options.library_options("threshold", "min_area", *_COMPARISON, "score_type")
@options.json_output
def command(
    *,
    files: tuple[str, ...],
    pairs: Path | None,
    review: tuple[str, ...],
    target_precision: float | None,
    models: tuple[str, ...],
    baselines: tuple[str, ...],
    out: Path | None,
    chosen: dict[str, Any],
) -> None:
    """Say how good a result is, against the truth or by review.

    PREDICTION is a score raster or polygons; TRUTH, which stands last, is polygons (any vector file) or a raster in
    which changes are not 0. With three files, BEFORE and AFTER are compared by models and classical methods first.
    Figures are for the change class alone: by pixel of the before-scene, and by object. With --review no truth is
    needed: the analyst's verdicts give precision and a threshold.
    """
    ways = [bool(files), pairs is not None, bool(review)]
    if sum(ways) != 1:
        raise click.UsageError("Give PREDICTION TRUTH, or BEFORE AFTER TRUTH, or --pairs CSV, or --review FILE.")
    if review:
        return _review(review, target_precision)
    from geosiam.evaluation.api import evaluate, read_manifest, save_report, totals_first
    from geosiam.evaluation.report import text_table
    from geosiam.options import DetectOptions

    tasks = read_manifest(pairs) if pairs is not None else [_task(files)]
    run_options = DetectOptions(**chosen)
    with progress.progress_report("evaluating", unit="runs") as report:
        made = evaluate(tasks, models=models, baselines=baselines, options=run_options, out=out, on_progress=report)
    written = save_report(out, made) if out is not None else []
    shown = totals_first(made)
    output.result(text_table(shown), as_json={"evaluations": [each.to_dict() for each in shown], "files": written})
    for path in written:
        output.remark(str(path))
    return None


def _task(files: tuple[str, ...]) -> Task:
    from geosiam.evaluation.api import Task

    match files:
        case (prediction, truth):
            return Task(truth, prediction=prediction)
        case (before, after, truth):
            return Task(truth, before=before, after=after)
    raise click.UsageError(f"PREDICTION TRUTH or BEFORE AFTER TRUTH are two or three files, not {len(files)}.")


def _review(paths: tuple[str, ...], target: float | None) -> None:
    from geosiam.evaluation.report import summary_lines
    from geosiam.evaluation.review import summarize_review

    summary = asdict(summarize_review(paths, **options.given(target=target)))
    output.result(summary_lines(summary), as_json=summary)
