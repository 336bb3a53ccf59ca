"""Results that the functions of the pipeline return, and the files of polygons, displacement and heights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam import __version__
from geosiam.imagery.grid import Window
from geosiam.polygons.areas import pixel_lengths
from geosiam.polygons.table import polygon_table
from geosiam.provenance import inputs_read, origin, recorded
from geosiam.scores.writer import write_bands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.heights.difference import HeightDifference
    from geosiam.imagery.displacement import DisplacementField
    from geosiam.imagery.grid import Grid
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.pair_report import PairReport
    from geosiam.polygons.attributes import AttributeReader
    from geosiam.polygons.geopackage import DisplacementPoints
    from geosiam.polygons.options import PolygonOptions
    from geosiam.provenance import Provenance, UnreadableBlock
    from geosiam.scores.raster import ScoreRaster
    from geosiam.targets import Targets

DISPLACEMENT_BANDS = {"dx_px": "px", "dy_px": "px", "dx_m": "m", "dy_m": "m", "confidence": ""}
"""Bands of the raster of a displacement, and their units."""

_NODES_AT_ONCE = 100_000  # whose place on the ground is computed


@dataclass(frozen=True)
class ScoreResult:
    """The score raster that `score_to_file` wrote.

    Parameters
    ----------
    scores_path
        The score raster.
    provenance
        Provenance of the scores.
    displacement_path
        The raster of the displacement; None if none was requested, or there is no estimate.
    displacement_warning
        Warning to the user that it was not written; None: there is none.
    """

    scores_path: Path
    provenance: Provenance = field(repr=False)
    displacement_path: Path | None = field(default=None, kw_only=True)
    displacement_warning: str | None = field(default=None, kw_only=True)

    @property
    def report(self) -> PairReport:
        """How both scenes were read."""
        return self.provenance.pair

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user."""
        return (*self.provenance.pair.warnings, *([self.displacement_warning] if self.displacement_warning else []))

    @property
    def unreadable(self) -> tuple[UnreadableBlock, ...]:
        """Blocks without scores because a scene cannot be decoded there; none unless the options say to skip them."""
        return self.provenance.unreadable

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        record = self.provenance.to_dict() | {"warnings": list(self.warnings)}
        path = self.displacement_path
        displacement = {} if path is None else {"displacement_raster": str(path)}
        return {"scores": str(self.scores_path), **displacement, "unreadable": record["unreadable"], "summary": record}


@dataclass(frozen=True)
class VectorizeResult:
    """The polygons that `vectorize_to_file` wrote.

    Parameters
    ----------
    polygons_path
        The polygons.
    count
        Number of polygons.
    threshold
        Anomaly probability at which they were cut.
    warnings
        Warnings to the user.
    """

    polygons_path: Path
    count: int
    threshold: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        paths = {"polygons": str(self.polygons_path)}
        return {**paths, "count": self.count, "threshold": self.threshold, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class DetectResult(ScoreResult):
    """The polygons and the score raster that `detect` wrote.

    Parameters
    ----------
    scores_path, provenance, displacement_path, displacement_warning
        As in :class:`ScoreResult`.
    polygons_path
        The polygons.
    count
        Number of polygons.
    threshold
        Anomaly probability at which they were cut.
    project_path
        The QGIS project; None if none was requested.
    threshold_warning
        Warning to the user about the threshold; None: there is none.
    dz_path
        The raster of the difference of heights; None if none was requested.
    heights
        The surface models, and how they were brought onto each other; None without them.
    height_warnings
        Warnings to the user about them.
    """

    polygons_path: Path
    count: int
    threshold: float
    project_path: Path | None = None
    threshold_warning: str | None = None
    dz_path: Path | None = field(default=None, kw_only=True)
    heights: dict[str, Any] | None = field(default=None, kw_only=True, repr=False)
    height_warnings: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user."""
        threshold = [self.threshold_warning] if self.threshold_warning else []
        return (*super().warnings, *threshold, *self.height_warnings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        paths = {"polygons": str(self.polygons_path), "count": self.count, "threshold": self.threshold}
        project = {} if self.project_path is None else {"project": str(self.project_path)}
        dz = {} if self.dz_path is None else {"dz": str(self.dz_path)}
        heights = {} if self.heights is None else {"heights": self.heights}
        return {**paths, **super().to_dict(), **project, **dz, **heights}


def write_rasters(
    targets: Targets, pair: ScenePair, heights: HeightDifference | None, *, workers: int | None = None
) -> dict[str, Any]:
    """Write what was requested of the displacement and of the difference of heights.

    Returns
    -------
    The fields of :class:`DetectResult` that tell what was written, by name

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    path = targets.displacement
    missing = None if path is None else write_displacement(path, pair, workers=workers)
    written: dict[str, Any] = {"displacement_path": None if missing else path, "displacement_warning": missing}
    if heights is None:
        return written
    if targets.dz is not None:
        heights.write(targets.dz)
    return {**written, "dz_path": targets.dz, "heights": heights.to_dict(), "height_warnings": heights.warnings}


def write_polygons(
    raster: ScoreRaster,
    output: Path,
    options: PolygonOptions,
    *,
    reader: AttributeReader | None = None,
    heights: HeightDifference | None = None,
    displacement: DisplacementPoints | None = None,
    before_commit: Callable[[], None] | None = None,
) -> int:
    """Write the polygons of a score raster with the provenance it records; return their number."""
    from geosiam.polygons import writer  # noqa: PLC0415 - brings pandas, which `score` does without

    measure = None if heights is None else partial(heights.columns, crs=raster.grid.crs)
    table = polygon_table(raster, options, origin(raster.tags), reader, measure)
    record = recorded(raster.tags) | ({} if heights is None else {"heights": heights.to_dict()})
    record = {**record, **inputs_read(record), **asdict(options)}
    return writer.write_polygons(
        table, output, provenance=record, displacement=displacement, before_commit=before_commit
    )


def write_displacement(path: Path, pair: ScenePair, *, workers: int | None = None) -> str | None:
    """Write the displacement of a pair as a COG with the bands :data:`DISPLACEMENT_BANDS`, one pixel a node.

    Parameters
    ----------
    path
        The raster to write. An existing one is replaced on success only.
    pair
        The pair.
    workers
        Number of threads that compress; None: one for each processor.

    Returns
    -------
    A warning that there is no displacement to write; None: it was written.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    displacement = pair.displacement
    if displacement is None:
        return f"`displacement`: {path} is not written, because the scenes cannot be matched anywhere"
    dy, dx = np.where(displacement.is_known, displacement.displacement, np.float32(np.nan))
    across, down = _pixel_lengths(displacement, pair.grid)
    tags = {
        "GEOSIAM_VERSION": __version__,
        "GEOSIAM_BEFORE": pair.report.before.name,
        "GEOSIAM_AFTER": pair.report.after.name,
        "GEOSIAM_SPACING_PX": str(displacement.spacing),
        "GEOSIAM_APPLIED": "yes" if displacement.applied else "no",
    }
    values = (dx, dy, dx * across, dy * down, displacement.confidence)
    grid = displacement.grid(pair.grid)
    whole = Window(0, grid.height, 0, grid.width), np.stack(values).astype(np.float32)
    write_bands(path, grid, DISPLACEMENT_BANDS, [whole], tags=tags, workers=workers)
    return None


def _pixel_lengths(displacement: DisplacementField, grid: Grid) -> NDArray[np.float32]:
    """Return the lengths of a pixel of the before scene at each node, along a row and along a column, in meters.

    Returns
    -------
    float32 (2, rows, cols)
    """
    (rows, cols), (first_row, first_col) = displacement.confidence.shape, displacement.first
    lengths = np.empty((2, rows, cols), np.float32)
    step = max(1, _NODES_AT_ONCE // cols)
    for start in range(0, rows, step):
        row, col = np.mgrid[start : min(start + step, rows), :cols]
        x, y = ((first + i.ravel() + 0.5) * displacement.spacing for first, i in ((first_col, col), (first_row, row)))
        lengths[:, start : start + step] = pixel_lengths(grid, x, y).reshape(2, *row.shape)
    return lengths
