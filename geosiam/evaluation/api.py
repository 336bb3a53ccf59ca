"""`geosiam evaluate`: compare predictions, models and classical methods with ground truth."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr
from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import GeosiamError, OptionError, OutputError, SceneRefusedError
from geosiam.evaluation.agreement import (
    ALL_PAIRS,
    Agreement,
    Evaluation,
    compare_polygons,
    compare_scores,
    markdown,
    pixel_grid,
)
from geosiam.evaluation.baselines import BASELINES, baseline
from geosiam.evaluation.plots import save_curves
from geosiam.evaluation.truth import Truth, grid_of, in_crs_of, is_vector
from geosiam.files import file_name, is_file
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.prepare import open_pair
from geosiam.manifest import is_blank, read_rows
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.polygons.results import read_polygons
from geosiam.polygons.score_stream import ArrayScores
from geosiam.scores.raster import THRESHOLD_TAG, ScoreRaster
from geosiam.scores.threshold import choose_threshold
from geosiam.targets import refuse_overwriting

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    Progress = Callable[[int, int, str], None]

PREDICTION = "prediction"
"""Name of the method of a prediction that was given."""

REPORT_FILES = ("evaluation.md", "evaluation.json", "curves.png")
"""File names of the report in its folder."""

_METER_PIXELS = Affine(1, 0, 0, 0, -1, 0)
_DEFAULT_THRESHOLD = 0.5  # of score rasters that do not record their model's
_MAX_BASELINE_PX = 100_000_000  # pixels of a scene that baselines hold in memory at once
_PATH_COLUMNS = ("truth", "prediction", "before", "after")
_MANIFEST_REMEDY = "name its columns truth and prediction, or truth, before and after"


@dataclass(frozen=True)
class Task:
    """A pair to evaluate: either a prediction, or two scenes in which methods are to find the changes.

    Parameters
    ----------
    truth
        Ground truth: polygons or a raster.
    prediction
        A score raster or polygons.
    before, after
        The scenes.
    """

    truth: str
    prediction: str | None = None
    before: str | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        if (self.prediction is None) == (self.before is None or self.after is None):
            remedy = "give a prediction, or the scenes before and after"
            raise OptionError(self.truth, "needs either a prediction or two scenes to be compared with", remedy)

    @property
    def name(self) -> str:
        """Name of the pair: the file name of the prediction or of the after scene."""
        return Path(file_name(self.prediction or self.after or "")).stem


def evaluate(
    tasks: Sequence[Task] | Task,
    *,
    baselines: Sequence[str] = (),
    models: Sequence[str] = (),
    options: DetectOptions = DetectOptions(),
    out: Path | None = None,
    on_progress: Progress | None = None,
) -> list[Evaluation]:
    """Compare predictions, or the results of methods on pairs of scenes, with ground truth.

    Parameters
    ----------
    tasks
        The pairs.
    baselines, models
        Methods to run on tasks with two scenes; without any, the model of the options.
    options
        How models are run, and the threshold and smallest area of polygons.
    out
        Folder for the score rasters and polygons of the models; None: they are deleted.
    on_progress
        Called with (runs done, runs in total, name of the next run).

    Returns
    -------
    One evaluation for each method and pair, and one over all pairs for each method with several

    Raises
    ------
    InputError
        A file cannot be read, compared or written, or a method is unknown; the latter before anything is run.
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    for name in baselines:
        baseline(name)
    methods = [*models, *baselines] or [options.model]
    if out is not None:
        _check_outputs(tasks, methods, options, out)
    runs = [(task, method) for task in tasks for method in ([PREDICTION] if task.prediction else methods)]
    evaluations = []
    for completed, (task, method) in enumerate(runs):
        name = Path(method).stem
        if on_progress:
            on_progress(completed, len(runs), f"{task.name}, {name}")
        evaluations.append(Evaluation(name, task.name, _compare(task, method, options, out)))
    return [*evaluations, *_over_all_pairs(evaluations)]


def totals_first(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return evaluations with those over all pairs first."""
    return sorted(evaluations, key=lambda evaluation: evaluation.pair != ALL_PAIRS)


def read_manifest(path: str | os.PathLike[str]) -> list[Task]:
    """Read many pairs from a table with a column ``truth``, and either ``prediction`` or ``before`` and ``after``.

    Paths are relative to the folder of the table.

    Raises
    ------
    SceneNotFoundError
        The file does not exist.
    OptionError
        The file cannot be read.
    SceneRefusedError
        A column or a value is missing.
    """
    rows = read_rows(path, remedy="save it as CSV in UTF-8")
    columns = dict.fromkeys(column for row in rows for column in row)
    if "truth" not in columns or not ("prediction" in columns or {"before", "after"} <= columns.keys()):
        raise SceneRefusedError(path, f"has the columns {', '.join(columns)}", _MANIFEST_REMEDY)
    folder = Path(path).parent
    tasks = []
    for number, row in enumerate(rows, 1):
        if is_blank(row):
            continue
        paths = {name: text for name in _PATH_COLUMNS if (text := str(row.get(name) or "").strip())}
        try:
            tasks.append(Task(**{name: text if "://" in text else str(folder / text) for name, text in paths.items()}))
        except (OptionError, TypeError) as error:
            raise SceneRefusedError(path, f"lacks a value in row {number}", _MANIFEST_REMEDY) from error
    return tasks


def save_report(folder: Path, evaluations: Sequence[Evaluation]) -> list[Path]:
    """Write evaluation.md, evaluation.json and, if there are scores, curves.png; return their paths.

    The curves are those of the evaluations over all pairs, or of the first pair if there is only one.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    evaluations = totals_first(evaluations)
    with_curves = [e for e in evaluations if e.pair == evaluations[0].pair and e.agreement.counts is not None]
    text_file, json_file, curves = REPORT_FILES
    texts = {
        text_file: markdown(evaluations),
        json_file: json.dumps([evaluation.to_dict() for evaluation in evaluations], indent=1) + "\n",
    }
    names = [*texts, *([curves] if with_curves else [])]
    with _replace_together(folder, names) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if with_curves:
            save_curves(temporary / curves, [(e.method, e.agreement) for e in with_curves])
    return [folder / name for name in names]


def _over_all_pairs(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return one evaluation over all pairs for each method with several pairs."""
    by_method: dict[str, list[Agreement]] = {}
    for evaluation in evaluations:
        by_method.setdefault(evaluation.method, []).append(evaluation.agreement)
    return [
        Evaluation(method, ALL_PAIRS, Agreement.sum(parts)) for method, parts in by_method.items() if len(parts) > 1
    ]


def _compare(task: Task, method: str, options: DetectOptions, out: Path | None) -> Agreement:
    if task.prediction is not None:
        return _compare_prediction(task.prediction, task.truth, options)
    if method in BASELINES:
        return _compare_baseline(task, method, options)
    return _compare_model(task, method, options, out)


def _compare_prediction(prediction: str, truth_path: str, options: DetectOptions) -> Agreement:
    if not is_vector(prediction):
        raster = ScoreRaster.open(prediction)
        if raster.model_threshold is None:  # scores of another program
            raster = replace(raster, tags={**raster.tags, THRESHOLD_TAG: str(_DEFAULT_THRESHOLD)})
        threshold = choose_threshold(raster, options.threshold, options.seed_threshold)
        truth = Truth.read(truth_path, pixel_grid(raster))
        return compare_scores(raster, truth, threshold.value, seed_threshold=threshold.seed, min_area=options.min_area)
    polygons = read_polygons(prediction)
    if is_vector(truth_path):
        true_polygons = read_polygons(truth_path)
        is_geographic = len(true_polygons) and true_polygons.crs.is_geographic
        crs = true_polygons.estimate_utm_crs() if is_geographic else true_polygons.crs  # areas need meters
        grid = Grid(CRS.from_wkt(crs.to_wkt()), _METER_PIXELS, 1, 1)
    else:
        grid = grid_of(truth_path)
    return compare_polygons(in_crs_of(grid, prediction, polygons), Truth.read(truth_path, grid))


def _compare_baseline(task: Task, name: str, options: DetectOptions) -> Agreement:
    method = baseline(name)
    with open_pair(str(task.before), str(task.after), options=replace(options, radiometry="none")) as pair:
        if pair.grid.width * pair.grid.height > _MAX_BASELINE_PX:
            fact = f"has more than {_MAX_BASELINE_PX:,} pixels, the limit of the baselines"
            raise SceneRefusedError(task.before, fact, "cut out a part: gdal_translate -projwin ... IN OUT")
        block = pair.read(Window(0, pair.grid.height, 0, pair.grid.width))
        grid = pair.grid
    scores = method.scores(block.before, block.after, block.valid)
    threshold = method.choose_threshold(scores) if options.threshold == "auto" else options.threshold
    truth = Truth.read(task.truth, grid)
    raster = ArrayScores(xr.DataArray(scores), grid, stride=1, extent=(float(grid.height), float(grid.width)))
    return compare_scores(raster, truth, threshold, min_area=options.min_area, calibrated=False)


def _compare_model(task: Task, model: str, options: DetectOptions, out: Path | None) -> Agreement:
    with tempfile.TemporaryDirectory() as temporary:
        if out is not None:
            _make_folder(out)
        target = _result(task, model, out or Path(temporary))
        result = detect(str(task.before), str(task.after), target, options=replace(options, model=model))
        raster = ScoreRaster.open(result.scores_path)
        truth = Truth.read(task.truth, pixel_grid(raster))
        return compare_scores(raster, truth, result.threshold, min_area=options.min_area)


def _check_outputs(tasks: Sequence[Task], methods: Sequence[str], options: DetectOptions, out: Path) -> None:
    """Refuse a folder in which a result would replace what is compared."""
    models = [method for method in methods if method not in BASELINES]
    results = [_result(task, model, out) for task in tasks if task.before for model in models]
    targets = [*(out / name for name in REPORT_FILES), *results, *(path.with_suffix(".tif") for path in results)]
    scenes = [scene for task in tasks for scene in (task.before, task.after, task.prediction, task.truth) if scene]
    files = [*options.files, *(task.truth for task in tasks), *(name for name in models if is_file(name))]
    refuse_overwriting(targets, scenes, files)


def _result(task: Task, model: str, out: Path) -> Path:
    return out / f"{task.name}-{Path(model).stem}.gpkg"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be created ({error.strerror})", "choose another folder") from error


@contextlib.contextmanager
def _replace_together(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder whose files of these names are moved to a folder when all of them are complete."""
    _make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".evaluation.") as temporary:
            yield Path(temporary)
            for name in names:
                (Path(temporary) / name).replace(folder / name)
    except OSError as error:
        if isinstance(error, GeosiamError):
            raise
        raise OutputError(folder, f"cannot be written to ({error.strerror})", "choose another folder") from error
