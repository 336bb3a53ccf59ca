"""What is recorded of a finished pair, as JSON can hold it."""

from __future__ import annotations

import contextlib
import re
import resource
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely

from geosiam.detection.raster import ScoreRaster
from geosiam.survey.scenes import footprint_of

if TYPE_CHECKING:
    from geosiam.pipeline import DetectResult


def facts_of(found: DetectResult, seconds: float) -> dict[str, Any]:
    """Return the numbers of a pair that its survey lists.

    Parameters
    ----------
    found
        What `detect` left.
    seconds
        How long it took.
    """
    pair = found.summary["pair"]
    height, width = pair["before"]["height"], pair["before"]["width"]
    area, highest = _of_polygons(found.polygons_path)
    footprint = footprint_of(ScoreRaster.open(found.scores_path).grid)
    return {
        "count": found.count,
        "area_m2": area,
        "score_max": highest,
        "threshold": found.threshold,
        "seconds": round(seconds, 3),
        "pixels": height * width,
        "overlap_fraction": pair["overlap_fraction"],
        "valid_fraction": pair["valid_fraction"],
        "shift_px": pair["shift_px"],
        "corrected": any(pair["moved_px"]),
        "pixel_size": list(pair["before"]["pixel_size"]),
        "crs": pair["before"]["crs"],
        "footprint": None if footprint is None else shapely.geometry.mapping(footprint),
        "model": found.summary["model"],
        "score_type": found.summary["options"]["score_type"],
        "computed": found.summary["computed"],
        "geosiam_version": found.summary["geosiam_version"],
        "created": found.summary["created"],
        "holes": len(found.holes),
        "warnings": [*found.summary["warnings"], *(f"no scores: {hole.reason}" for hole in found.holes)],
    }


def memory_now() -> dict[str, float]:
    """Return the memory of this process in MB: what it holds, and the most it ever held."""
    peak = held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with contextlib.suppress(OSError):
        # On Linux that counts what the process which started this one held, too.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        told = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB", status, re.MULTILINE))
        held, peak = (float(told.get(name, peak * 1024)) / 1024 for name in ("VmRSS", "VmHWM"))
    return {"held_mb": round(held, 1), "peak_mb": round(peak, 1)}


def _of_polygons(path: Path) -> tuple[float, float | None]:
    """Return the area of all polygons in square metres, and the highest score of any."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        area, highest = db.execute("SELECT total(area_m2), max(score_max) FROM anomalies").fetchone()
    return float(area), highest
