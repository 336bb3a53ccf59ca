"""The polygons of all pairs as one GeoPackage."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pandas as pd
import shapely
from pyogrio.raw import read
from pyproj.exceptions import ProjError

from geosiam.report.results import read_result
from geosiam.survey.objects import object_ids
from geosiam.survey.reviews import Reviews
from geosiam.vector.geopackage import FOOTPRINT_LAYER, LAYER
from geosiam.vector.writer import write_polygons

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

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
    there = [pair for pair in pairs if pair.anomalies is not None]
    groups = _in_one_system(_by_system(there))
    placed = frozenset[str]().union(*(group.names for group in groups))
    left_out = tuple(pair.name for pair in there if pair.name not in placed)
    if not placed:
        return left_out
    merged = [pair for pair in there if pair.name in placed]
    files = {pair.name: pair.anomalies for pair in merged if pair.anomalies is not None}
    polygons = _joined([group.polygons for group in groups], list(files))
    polygons["review"] = reviews.merged(files, polygons)
    polygons["object_id"] = object_ids(polygons.geometry.array, pd.factorize(polygons["pair"])[0].tolist())
    footprint = _joined([group.footprint for group in groups], list(files))
    provenance = {
        "inputs": list(files),
        "threshold": min(pair.facts["threshold"] for pair in merged),
        "merged": {name: read_result(path).run for name, path in files.items()},
    }
    write_polygons(polygons, target, provenance=provenance, more_columns=_FIRST, footprint=footprint)
    return left_out


@dataclass(frozen=True)
class _Group:
    """What pairs of one coordinate system have found, and what they looked at: rows in the order of the pairs."""

    names: frozenset[str]
    polygons: geopandas.GeoDataFrame
    footprint: geopandas.GeoDataFrame


def _by_system(pairs: Sequence[PairResult]) -> list[_Group]:
    """Read the layers of all pairs into few tables; one of pandas for each layer would take three times as long."""
    systems: dict[str, list[tuple[str, _Rows, _Rows]]] = defaultdict(list)
    for pair in pairs:
        polygons, footprint = (_Rows.of(pair, layer) for layer in (LAYER, FOOTPRINT_LAYER))
        systems[polygons.crs].append((pair.name, polygons, footprint))
    groups = []
    for rows in systems.values():
        names, layers, footprints = zip(*rows, strict=True)
        groups.append(_Group(frozenset(names), _frame(layers), _frame(footprints)))
    return groups


@dataclass(frozen=True)
class _Rows:
    """A layer as it comes out of its file: its columns, and what the survey knows of the pair that it is of."""

    crs: str
    columns: dict[str, NDArray[Any]]
    wkb: NDArray[np.object_]

    @classmethod
    def of(cls, pair: PairResult, layer: str) -> Self:
        about, _, wkb, values = read(pair.anomalies, layer=layer)
        told = {"pair": pair.name, "site": pair.site, "before_date": pair.before_date, "date": pair.date}
        columns = dict(zip(about["fields"], values, strict=True))
        columns |= {column: np.full(len(wkb), value, object) for column, value in told.items()}
        return cls(about["crs"], columns, wkb)


def _frame(layers: Sequence[_Rows]) -> geopandas.GeoDataFrame:
    """Join layers of one system; a column that one of them lacks is empty there."""
    filled = [layer for layer in layers if len(layer.wkb)] or layers  # an empty column has a type of its own
    columns = {
        name: np.concatenate([layer.columns.get(name, np.full(len(layer.wkb), None, object)) for layer in filled])
        for name in dict.fromkeys(name for layer in layers for name in layer.columns)
    }
    geometry = shapely.from_wkb(np.concatenate([layer.wkb for layer in layers]))
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs=layers[0].crs)


def _in_one_system(groups: list[_Group]) -> list[_Group]:
    """Return the groups in the system that all share, or in WGS 84; without those that nothing leads there."""
    if len(groups) <= 1:
        return groups
    placed = []
    for group in groups:
        try:
            there = (frame.to_crs(_COMMON_CRS) for frame in (group.polygons, group.footprint))
            placed.append(_Group(group.names, *there))
        except ProjError:  # on another planet, or in a system of its own
            continue
    return placed


def _joined(frames: Sequence[geopandas.GeoDataFrame], names: Sequence[str]) -> geopandas.GeoDataFrame:
    """Return all rows in the order of these names of pairs."""
    filled = [frame for frame in frames if len(frame)] or list(frames[:1])  # pandas warns of columns of empty ones
    joined: Any = pd.concat(filled, ignore_index=True)
    places = joined["pair"].map({name: place for place, name in enumerate(names)})
    ordered = joined.iloc[places.argsort(kind="stable")].reset_index(drop=True)
    return geopandas.GeoDataFrame(ordered, crs=filled[0].crs)
