"""The polygons of all pairs as one GeoPackage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import geopandas
import pandas as pd
import pyogrio
import shapely

from geosiam.survey.objects import object_ids
from geosiam.vector.geopackage import LAYER
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


def merge_polygons(pairs: Sequence[PairResult], target: Path) -> int:
    """Write the polygons of all pairs into one GeoPackage; return their number.

    ``pair``, ``site``, ``before_date`` and ``date`` say where a polygon is from, ``id`` is that of its pair, and
    ``object_id`` is the same for the same object at several dates. The coordinate system is that of the pairs where
    they have one, else WGS 84. A verdict in ``review``, in this file or in the pair's own, is kept as long as its
    polygon is the same.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    frames = [_read(pair) for pair in pairs if pair.done]
    systems = list({frame.crs.to_wkt(): frame.crs for frame in frames if len(frame)}.values())
    system = systems[0] if len(systems) == 1 else _COMMON_CRS
    merged = geopandas.GeoDataFrame(
        pd.concat([frame.to_crs(system) for frame in frames], ignore_index=True), crs=system
    )
    order = pd.factorize(merged["pair"])[0]
    merged["object_id"] = object_ids(merged.geometry.array, order.tolist())
    merged["review"] = _reviews(merged, target)
    provenance = {
        "inputs": [pair.name for pair in pairs if pair.done],
        "threshold": min((pair.facts["threshold"] for pair in pairs if pair.done), default=None),
    }
    return write_polygons(merged, target, provenance=provenance, more_columns=_FIRST)


def _read(pair: PairResult) -> geopandas.GeoDataFrame:
    frame = geopandas.read_file(pair.anomalies, layer=LAYER)
    for column, value in (("pair", pair.name), ("site", pair.site), ("before_date", pair.before_date)):
        frame[column] = pd.Series([value] * len(frame), dtype="str", index=frame.index)
    frame["date"] = pd.Series([pair.date] * len(frame), dtype="str", index=frame.index)
    frame["review"] = frame["review"].astype("object")
    return frame


def _reviews(merged: geopandas.GeoDataFrame, target: Path) -> pd.Series[Any]:
    """Return the verdicts: those of the pairs, and where these have none, those that were given in this file."""
    given: pd.Series[Any] = merged["review"].where(merged["review"].notna() & (merged["review"] != ""), None)
    earlier = _earlier(target)
    if earlier:
        keys = zip(merged["pair"], shapely.to_wkb(merged.geometry.array), strict=True)
        given = given.where(given.notna(), pd.Series([earlier.get(key) for key in keys], dtype="object"))
    return given.astype("object")


def _earlier(target: Path) -> dict[tuple[str, bytes], str]:
    """Return the verdicts in the file that is to be replaced, by pair and polygon."""
    try:
        frame = geopandas.read_file(target, layer=LAYER)
        frame = frame[frame["review"].notna() & (frame["review"] != "")]
        return dict(
            zip(zip(frame["pair"], shapely.to_wkb(frame.geometry.array), strict=True), frame["review"], strict=True)
        )
    except (OSError, KeyError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return {}
