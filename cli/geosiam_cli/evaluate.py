"""``geosiam evaluate``: the accuracy of a result, against ground truth or from an analyst's verdicts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from geosiam.network import DEFAULT_MODEL
from geosiam_cli import options, output
from geosiam_cli.progress import progress_report

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
@options.argument("files", metavar="[PREDICTION TRUTH | BEFORE AFTER TRUTH]", nargs=-1)
@options.option(
    "--pairs",
    type=options.PATH,
    metavar="CSV",
    help="Evaluate many pairs: a table with a column truth, and either prediction or before and after.",
)
@options.option(
    "--review",
    multiple=True,
    metavar="FILE",
    help="Polygons with verdicts in the column review: confirmed, rejected or unsure. Repeat for more.",
)
@options.option(
    "--target-precision",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="P",
    show_default="0.9",
    help="Precision that the threshold suggested by --review must reach, above 0, up to 1.",
)
@options.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    show_default=f"{DEFAULT_MODEL}, or none if there is a --baseline",
    help="Weights to run on the two scenes, a name that 'geosiam models' lists or a file; repeat for more.",
)
@options.option(
    "--baseline",
    "baselines",
    multiple=True,
    **options.choice(*BASELINES),
    help="Classical method to run on the two scenes; repeat for more.",
)
@options.option(
    "--out",
    type=options.PATH,
    metavar="DIR",
    show_default="none",
    help="Folder for evaluation.md, evaluation.json, curves.png and the results of the models.",
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
    given_values: dict[str, Any],
) -> None:
    """Measure accuracy, against ground truth or from a review.

    PREDICTION is a score raster or polygons. TRUTH, always last, is polygons (any vector file) or a raster in which
    changes are not 0. With three files, models and classical methods compare BEFORE and AFTER first. Figures are for
    the change class, per pixel of the before scene and per object. --review needs no ground truth: precision and a
    suggested threshold are computed from the analyst's verdicts.
    """
    if [bool(files), pairs is not None, bool(review)].count(True) != 1:
        raise click.UsageError("Give PREDICTION TRUTH, or BEFORE AFTER TRUTH, or --pairs CSV, or --review FILE.")
    if review:
        return _print_review(review, target_precision)
    from geosiam.evaluation.agreement import text_table
    from geosiam.evaluation.api import evaluate, read_manifest, save_report, totals_first
    from geosiam.options import DetectOptions

    tasks = read_manifest(pairs) if pairs is not None else [_task(files)]
    settings = DetectOptions(**given_values)
    with progress_report("evaluating", unit="runs") as on_progress:
        evaluations = evaluate(
            tasks, models=models, baselines=baselines, options=settings, out=out, on_progress=on_progress
        )
    files_written = save_report(out, evaluations) if out is not None else []
    rows = totals_first(evaluations)
    output.result(text_table(rows), as_json={"evaluations": [row.to_dict() for row in rows], "files": files_written})
    for path in files_written:
        output.note(str(path))
    return None


def _task(files: tuple[str, ...]) -> Task:
    from geosiam.evaluation.api import Task

    match files:
        case (prediction, truth):
            return Task(truth, prediction=prediction)
        case (before, after, truth):
            return Task(truth, before=before, after=after)
    raise click.UsageError(f"Give two or three files, PREDICTION TRUTH or BEFORE AFTER TRUTH, not {len(files)}.")


def _print_review(paths: tuple[str, ...], target: float | None) -> None:
    from geosiam.evaluation.agreement import summary_lines
    from geosiam.evaluation.review import summarize_review

    summary = asdict(summarize_review(paths, **options.given(target=target)))
    output.result(summary_lines(summary), as_json=summary)
