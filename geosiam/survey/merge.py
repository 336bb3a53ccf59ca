"""The polygons of all pairs as one GeoPackage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import geopandas
import pandas as pd
from pyproj.exceptions import ProjError

from geosiam.report.results import read_result
from geosiam.survey.objects import object_ids
from geosiam.survey.reviews import Reviews
from geosiam.vector.geopackage import FOOTPRINT_LAYER, LAYER
from geosiam.vector.writer import write_polygons

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from geosiam.survey.results import PairResult

_COMMON_CRS = "EPSG:4326"
_FIRST = {
    "pair": "Name of the pair",
    "site": "Name of the place",
    "before_date": "Date of the before-scene, ISO 8601; empty if not known",
    "date": "Date of the after-scene, ISO 8601; empty if not known",
    "object_id": "The same number for the same object at several dates",
}


def merge_polygons(pairs: Sequence[PairResult], target: Path) -> tuple[str, ...]:
    """Write the polygons of all pairs that are done into one GeoPackage, if there are any such pairs.

    ``pair``, ``site``, ``before_date`` and ``date`` say where a polygon is from, ``id`` is that of its pair, and
    ``object_id`` is the same for the same object at several dates. The layer ``footprint`` has a row a pair. The
    coordinate system is that of the pairs where they have one, else WGS 84. Verdicts are those of the pairs and of the
    file that is replaced: see :class:`~geosiam.survey.reviews.Reviews`.

    Returns
    -------
    The names of pairs that are left out, since nothing leads from their coordinate system to WGS 84

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    reviews = Reviews.of(target)
    layers = {}
    for pair in pairs:
        if pair.anomalies is not None:
            polygons = _read(pair, LAYER)
            polygons["review"] = reviews.merged(pair.anomalies, polygons)
            layers[pair.name] = polygons, _read(pair, FOOTPRINT_LAYER)
    placed = _in_one_system(layers)
    if not placed:
        return tuple(layers)
    polygons, footprint = (_joined([frames[part] for frames in placed.values()]) for part in (0, 1))
    polygons["object_id"] = object_ids(polygons.geometry.array, pd.factorize(polygons["pair"])[0].tolist())
    there = [pair for pair in pairs if pair.anomalies is not None and pair.name in placed]
    provenance = {
        "inputs": [pair.name for pair in there],
        "threshold": min((pair.facts["threshold"] for pair in there), default=None),
        "merged": {pair.name: read_result(pair.anomalies).run for pair in there if pair.anomalies is not None},
    }
    write_polygons(polygons, target, provenance=provenance, more_columns=_FIRST, footprint=footprint)
    return tuple(name for name in layers if name not in placed)


def _read(pair: PairResult, layer: str) -> geopandas.GeoDataFrame:
    frame = geopandas.read_file(pair.anomalies, layer=layer)
    told = {"pair": pair.name, "site": pair.site, "before_date": pair.before_date, "date": pair.date}
    for column, value in told.items():
        frame[column] = pd.Series([value] * len(frame), dtype="str", index=frame.index)
    return frame


def _in_one_system(
    layers: dict[str, tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]],
) -> dict[str, tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]]:
    """Return the layers of pairs in the system that all share, or in WGS 84; without those that nothing leads there."""
    if len({polygons.crs.to_wkt() for polygons, _ in layers.values()}) <= 1:
        return layers
    placed = {}
    for name, (polygons, footprint) in layers.items():
        try:
            placed[name] = polygons.to_crs(_COMMON_CRS), footprint.to_crs(_COMMON_CRS)
        except ProjError:  # on another planet, or in a system of its own
            continue
    return placed


def _joined(frames: Sequence[geopandas.GeoDataFrame]) -> geopandas.GeoDataFrame:
    filled = [frame for frame in frames if len(frame)] or list(frames[:1])  # pandas warns of columns of empty ones
    joined: Any = pd.concat(filled, ignore_index=True)
    return geopandas.GeoDataFrame(joined, crs=filled[0].crs)
