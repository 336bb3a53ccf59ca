"""`geosiam evaluate`: predictions, models and classical methods against the truth, and an analyst's verdicts."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from affine import Affine
from rasterio.crs import CRS

from geosiam.errors import (
    GeosiamError,
    OptionError,
    OutputError,
    SceneNotFoundError,
    SceneRefusedError,
    SceneUnreadableError,
)
from geosiam.evaluation.agreement import Agreement, ScoreMap, judge_polygons, judge_scores, pixel_grid, together
from geosiam.evaluation.baselines import BASELINES, baseline
from geosiam.evaluation.plots import save_curves
from geosiam.evaluation.report import markdown, plain
from geosiam.evaluation.truth import Truth, grid_of, in_crs_of, is_vector, read_polygons
from geosiam.files import exists
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.prepare import open_pair
from geosiam.options import DetectOptions
from geosiam.pipeline import detect
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.threshold import threshold_of_counts

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Progress = Callable[[int, int, str], None]

PREDICTION = "prediction"
ALL = "all"
_METRES = Affine(1, 0, 0, 0, -1, 0)
_DEFAULT_THRESHOLD = 0.5
_MOST_PIXELS = 100_000_000  # of a scene that baselines hold in memory at once


@dataclass(frozen=True)
class Task:
    """A pair to be judged: a prediction and its truth, or two scenes and what changed between them.

    Parameters
    ----------
    truth
        Polygons or a raster.
    prediction
        A score raster or polygons; None where a method is to make one of the scenes.
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
        """What to call it."""
        return Path(self.prediction or self.after or "").stem


@dataclass(frozen=True)
class Evaluation:
    """How one method did on one pair, or on all of them together.

    Parameters
    ----------
    method
        Name of a model or baseline; ``"prediction"`` where the prediction was given.
    pair
        Name of the pair, or ``"all"``.
    agreement
        Everything that was counted.
    """

    method: str
    pair: str
    agreement: Agreement


def evaluate(
    tasks: Sequence[Task] | Task,
    *,
    baselines: Sequence[str] = (),
    models: Sequence[str] = (),
    options: DetectOptions = DetectOptions(),
    out: Path | None = None,
    on_progress: Progress | None = None,
) -> list[Evaluation]:
    """Compare predictions with the truth, or what methods make of pairs of scenes.

    Parameters
    ----------
    tasks
        The pairs.
    baselines, models
        What to run on tasks that give two scenes; neither: the model of the options.
    options
        How models run, and at which threshold and smallest area polygons are cut.
    out
        Folder that keeps the models' score rasters and polygons; None: these are not kept.
    on_progress
        Called with (done, of how many, what comes now).

    Returns
    -------
    An evaluation for each method and pair, and one over all pairs for methods that saw several

    Raises
    ------
    InputError
        Something cannot be read, compared or run; nothing has been run if it is the name of a method.
    """
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)
    for name in baselines:
        baseline(name)
    chosen = [*models, *baselines] or [options.model]
    jobs = [(task, method) for task in tasks for method in ([PREDICTION] if task.prediction else chosen)]
    made = []
    for done, (task, method) in enumerate(jobs):
        if on_progress:
            on_progress(done, len(jobs), f"{task.name}, {Path(method).stem}")
        made.append(Evaluation(Path(method).stem, task.name, _judged(task, method, options, out)))
    return [*made, *_summed(made)]


def _summed(made: Iterable[Evaluation]) -> list[Evaluation]:
    by_method: dict[str, list[Agreement]] = {}
    for one in made:
        by_method.setdefault(one.method, []).append(one.agreement)
    return [Evaluation(method, ALL, together(parts)) for method, parts in by_method.items() if len(parts) > 1]


def _judged(task: Task, method: str, options: DetectOptions, out: Path | None) -> Agreement:
    if task.prediction is not None:
        return _judged_prediction(task.prediction, task.truth, options)
    if method in BASELINES:
        return _judged_baseline(task, method, options)
    with tempfile.TemporaryDirectory() as temporary:
        if out is not None:
            _make(out)
        target = (out or Path(temporary)) / f"{task.name}-{Path(method).stem}.gpkg"
        done = detect(str(task.before), str(task.after), target, options=replace(options, model=method))
        raster = ScoreRaster.open(done.scores_path)
        truth = Truth.read(task.truth, pixel_grid(raster))
        return judge_scores(raster, truth, done.threshold, min_area=options.min_area)


def _judged_prediction(prediction: str, path: str, options: DetectOptions) -> Agreement:
    if not is_vector(prediction):
        raster = ScoreRaster.open(prediction)
        threshold, seed = _thresholds(raster, options)
        truth = Truth.read(path, pixel_grid(raster))
        return judge_scores(raster, truth, threshold, seed_threshold=seed, min_area=options.min_area)
    polygons = read_polygons(prediction)
    if is_vector(path):
        truth = read_polygons(path)
        crs = truth.estimate_utm_crs() if len(truth) and truth.crs.is_geographic else truth.crs  # areas need metres
        grid = Grid(CRS.from_wkt(crs.to_wkt()), _METRES, 1, 1)
    else:
        grid = grid_of(path)
    return judge_polygons(in_crs_of(grid, prediction, polygons), Truth.read(path, grid))


def _thresholds(raster: ScoreRaster, options: DetectOptions) -> tuple[float, float | None]:
    """Return threshold and seed as `detect` would choose them."""
    if options.threshold != "auto":
        return options.threshold, options.seed_threshold
    chosen = threshold_of_counts(raster.counts(), raster.model_threshold or _DEFAULT_THRESHOLD)
    return chosen.value, chosen.seeded(options.seed_threshold).seed


def _judged_baseline(task: Task, name: str, options: DetectOptions) -> Agreement:
    method = baseline(name)
    with open_pair(str(task.before), str(task.after), replace(options, radiometry="none")) as pair:
        if pair.grid.width * pair.grid.height > _MOST_PIXELS:
            fact = f"has more pixels than the {_MOST_PIXELS:,} that baselines take"
            raise SceneRefusedError(task.before, fact, "cut out a part: gdal_translate -projwin ... IN OUT")
        both = pair.read(Window(0, pair.grid.height, 0, pair.grid.width))
        grid = pair.grid
    scores = method.scores(both.before, both.after, both.valid)
    threshold = method.cut(scores) if options.threshold == "auto" else options.threshold
    truth = Truth.read(task.truth, grid)
    return judge_scores(ScoreMap(scores, grid), truth, threshold, min_area=options.min_area, calibrated=False)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be made ({error.strerror})", "choose another --out") from error


def read_manifest(path: str | os.PathLike[str]) -> list[Task]:
    """Read many pairs from a CSV file with a column ``truth``, and either ``prediction`` or ``before`` and ``after``.

    Relative paths start at the manifest's folder.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        There is no such file, or it is no text.
    SceneRefusedError
        A column is missing, or a line lacks a value.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path of --pairs")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SceneUnreadableError(path, f"is no readable text ({error})", "save it as CSV in UTF-8") from error
    lines = csv.DictReader(text.splitlines())
    known = set(lines.fieldnames or ())
    remedy = "name columns truth and prediction, or truth, before and after, in its first line"
    if "truth" not in known or not ({"prediction"} <= known or {"before", "after"} <= known):
        raise SceneRefusedError(path, f"has the columns {', '.join(sorted(known)) or 'none'}", remedy)
    folder = Path(path).parent
    tasks = []
    for number, line in enumerate(lines, 2):
        names = ("truth", "prediction", "before", "after")
        given = {name: str(folder / value) if "://" not in value else value
                 for name in names if (value := (line.get(name) or "").strip())}  # fmt: skip
        try:
            tasks.append(Task(**given))
        except (OptionError, TypeError) as error:
            raise SceneRefusedError(path, f"lacks a value in line {number}", remedy) from error
    if not tasks:
        raise SceneRefusedError(path, "lists no pair", "add a line for each")
    return tasks


def named(made: Sequence[Evaluation]) -> list[tuple[str, str, Agreement]]:
    """Return evaluations as (method, pair, agreement); of several pairs first what they come to together."""
    triples = [(one.method, one.pair, one.agreement) for one in made]
    return sorted(triples, key=lambda triple: triple[1] != ALL)


def save_report(folder: Path, made: Sequence[Evaluation]) -> list[Path]:
    """Write evaluation.md, evaluation.json and, where scores are known, curves.png; return their paths.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    triples = named(made)
    last = [one for one in triples if one[1] == triples[0][1]]
    curves = [(method, agreement) for method, _, agreement in last if agreement.counts is not None]
    texts = {"evaluation.md": markdown(triples), "evaluation.json": json.dumps(plain(triples), indent=1) + "\n"}
    with written_together(folder, [*texts, *(["curves.png"] if curves else [])]) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if curves:
            save_curves(temporary / "curves.png", curves)
    return [folder / name for name in (*texts, "curves.png") if (folder / name).exists()]


@contextlib.contextmanager
def written_together(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give a folder to write to; what was written there is moved into place when all of it is done."""
    _make(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".evaluation.") as temporary:
            yield Path(temporary)
            for name in names:
                (Path(temporary) / name).replace(folder / name)
    except OSError as error:
        if isinstance(error, GeosiamError):
            raise
        raise OutputError(folder, f"cannot be written to ({error.strerror})", "choose another --out") from error
