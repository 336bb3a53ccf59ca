"""geosiam finds what changed or does not belong between two georeferenced scenes.

    import geosiam as gs

    result = gs.detect("before.tif", "after.tif", "anomalies.gpkg")

The public names are imported when they are first used, so that ``import geosiam`` stays cheap.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from geosiam import errors

if TYPE_CHECKING:
    from geosiam.batch.api import BatchOptions, plan_batch, run_batch
    from geosiam.batch.events import BatchEvent, BatchResult, PairResult
    from geosiam.batch.plan import BatchPair, BatchPlan
    from geosiam.evaluation.agreement import Evaluation
    from geosiam.evaluation.api import Task, evaluate
    from geosiam.heights.api import HeightsResult, measure_heights
    from geosiam.heights.surfaces import HeightOptions
    from geosiam.imagery.grid import Window
    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.pair_report import PairReport
    from geosiam.imagery.prepare import open_pair
    from geosiam.inspection import PairInspection, inspect_pair
    from geosiam.network.onnx_graph import export_model
    from geosiam.network.weights import Model, ModelCard, available_models, load_model
    from geosiam.options import DetectOptions, PairOptions, PolygonOptions, ScoreOptions
    from geosiam.pipeline import detect, vectorize, vectorize_to_file
    from geosiam.provenance import Provenance, UnreadableBlock
    from geosiam.report.api import ReportOptions, ReportResult, write_report
    from geosiam.report.inputs import ReportPair, UnmatchedScene, find_pairs
    from geosiam.report.verdicts import WrittenVerdicts, write_verdicts
    from geosiam.results import DetectResult, ScoreResult, VectorizeResult
    from geosiam.scoring import score, score_to_file
    from geosiam.training.api import TrainingOptions, TrainingResult, train

__version__ = version("geosiam")

_HOMES = {
    "BatchEvent": "geosiam.batch.events",
    "BatchOptions": "geosiam.batch.api",
    "BatchPair": "geosiam.batch.plan",
    "BatchPlan": "geosiam.batch.plan",
    "BatchResult": "geosiam.batch.events",
    "DetectOptions": "geosiam.options",
    "DetectResult": "geosiam.results",
    "Evaluation": "geosiam.evaluation.agreement",
    "HeightOptions": "geosiam.heights.surfaces",
    "HeightsResult": "geosiam.heights.api",
    "Model": "geosiam.network.weights",
    "ModelCard": "geosiam.network.weights",
    "PairInspection": "geosiam.inspection",
    "PairOptions": "geosiam.options",
    "PairReport": "geosiam.imagery.pair_report",
    "PairResult": "geosiam.batch.events",
    "PolygonOptions": "geosiam.options",
    "Provenance": "geosiam.provenance",
    "ReportOptions": "geosiam.report.api",
    "ReportPair": "geosiam.report.inputs",
    "ReportResult": "geosiam.report.api",
    "SceneLike": "geosiam.imagery.open_scene",
    "ScenePair": "geosiam.imagery.pair",
    "ScoreOptions": "geosiam.options",
    "ScoreResult": "geosiam.results",
    "Task": "geosiam.evaluation.api",
    "TrainingOptions": "geosiam.training.api",
    "TrainingResult": "geosiam.training.api",
    "UnmatchedScene": "geosiam.report.inputs",
    "UnreadableBlock": "geosiam.provenance",
    "VectorizeResult": "geosiam.results",
    "Window": "geosiam.imagery.grid",
    "WrittenVerdicts": "geosiam.report.verdicts",
    "available_models": "geosiam.network.weights",
    "detect": "geosiam.pipeline",
    "evaluate": "geosiam.evaluation.api",
    "export_model": "geosiam.network.onnx_graph",
    "find_pairs": "geosiam.report.inputs",
    "inspect_pair": "geosiam.inspection",
    "load_model": "geosiam.network.weights",
    "measure_heights": "geosiam.heights.api",
    "open_pair": "geosiam.imagery.prepare",
    "plan_batch": "geosiam.batch.api",
    "run_batch": "geosiam.batch.api",
    "score": "geosiam.scoring",
    "score_to_file": "geosiam.scoring",
    "train": "geosiam.training.api",
    "vectorize": "geosiam.pipeline",
    "vectorize_to_file": "geosiam.pipeline",
    "write_report": "geosiam.report.api",
    "write_verdicts": "geosiam.report.verdicts",
}

__all__ = [
    "BatchEvent",
    "BatchOptions",
    "BatchPair",
    "BatchPlan",
    "BatchResult",
    "DetectOptions",
    "DetectResult",
    "Evaluation",
    "HeightOptions",
    "HeightsResult",
    "Model",
    "ModelCard",
    "PairInspection",
    "PairOptions",
    "PairReport",
    "PairResult",
    "PolygonOptions",
    "Provenance",
    "ReportOptions",
    "ReportPair",
    "ReportResult",
    "SceneLike",
    "ScenePair",
    "ScoreOptions",
    "ScoreResult",
    "Task",
    "TrainingOptions",
    "TrainingResult",
    "UnmatchedScene",
    "UnreadableBlock",
    "VectorizeResult",
    "Window",
    "WrittenVerdicts",
    "available_models",
    "detect",
    "errors",
    "evaluate",
    "export_model",
    "find_pairs",
    "inspect_pair",
    "load_model",
    "measure_heights",
    "open_pair",
    "plan_batch",
    "run_batch",
    "score",
    "score_to_file",
    "train",
    "vectorize",
    "vectorize_to_file",
    "write_report",
    "write_verdicts",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'geosiam' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not, so that a notebook completes them."""
    return sorted({*globals(), *__all__})
