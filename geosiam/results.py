"""Results that the functions of the pipeline return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.imagery.pair_report import PairReport
    from geosiam.provenance import Provenance, UnreadableBlock


@dataclass(frozen=True)
class ScoreResult:
    """The score raster that `score_to_file` wrote.

    Parameters
    ----------
    scores_path
        The score raster.
    provenance
        Provenance of the scores.
    """

    scores_path: Path
    provenance: Provenance = field(repr=False)

    @property
    def report(self) -> PairReport:
        """How both scenes were read."""
        return self.provenance.pair

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to the user."""
        return self.provenance.pair.warnings

    @property
    def unreadable(self) -> tuple[UnreadableBlock, ...]:
        """Blocks without scores because a scene cannot be decoded there; none unless the options say to skip them."""
        return self.provenance.unreadable

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        record = self.provenance.to_dict() | {"warnings": list(self.warnings)}
        return {"scores": str(self.scores_path), "unreadable": record["unreadable"], "summary": record}


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
    scores_path, provenance
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
