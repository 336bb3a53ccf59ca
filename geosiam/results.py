"""Results that the functions of the pipeline return, and the displacement of a pair as a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam import __version__
from geosiam.polygons.areas import pixel_lengths
from geosiam.scores.writer import write_bands

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from geosiam.imagery.displacement import DisplacementField
    from geosiam.imagery.grid import Grid
    from geosiam.imagery.pair import ScenePair
    from geosiam.imagery.pair_report import PairReport
    from geosiam.provenance import Provenance, UnreadableBlock

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
    """

    polygons_path: Path
    count: int
    threshold: float
    project_path: Path | None = None
    threshold_warning: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user."""
        return (*super().warnings, *([self.threshold_warning] if self.threshold_warning else []))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        paths = {"polygons": str(self.polygons_path), "count": self.count, "threshold": self.threshold}
        project = {} if self.project_path is None else {"project": str(self.project_path)}
        return {**paths, **super().to_dict(), **project}


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
    bands = dict(zip(DISPLACEMENT_BANDS, values, strict=True))
    write_bands(path, displacement.grid(pair.grid), bands, units=DISPLACEMENT_BANDS, tags=tags, workers=workers)
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
