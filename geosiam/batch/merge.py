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

from geosiam.errors import GeosiamError
from geosiam.polygons.geopackage import FOOTPRINT_LAYER, LAYER
from geosiam.polygons.results import last_change, read_result
from geosiam.polygons.reviews import normalize_reviews, read_reviews
from geosiam.polygons.writer import write_polygons

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.batch.events import PairResult

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
    file that is replaced: see :class:`~geosiam.batch.merge.Reviews`.

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


LEAST_OVERLAP = 0.25
"""Intersection over union from which on polygons of two dates are one object; outlines follow coarse cells."""


def object_ids(outlines: Sequence[shapely.Geometry], pairs: Sequence[int], least: float = LEAST_OVERLAP) -> list[int]:
    """Return which object each polygon is a sighting of: numbers from 1, in the order of their first polygons.

    Polygons of two pairs are linked from the largest overlap down, such that an object never has two polygons of one
    pair. So a large polygon of one date does not tie together the small ones of another.

    Parameters
    ----------
    outlines
        The polygons, in one coordinate system.
    pairs
        Which pair each is of.
    least
        Least intersection over union of two sightings.

    Returns
    -------
    The number of its object for each polygon
    """
    shapes = np.asarray(outlines, dtype=object)
    members = {index: {pair} for index, pair in enumerate(pairs)}  # the pairs that see an object, by its first polygon
    parents = list(range(len(pairs)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for one, other in _overlapping(shapes, np.asarray(pairs, np.int64), least):
        first, second = sorted((root(int(one)), root(int(other))))
        if first != second and not members[first] & members[second]:
            parents[second] = first
            members[first] |= members.pop(second)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers) + 1) for index in range(len(pairs))]


def _overlapping(shapes: NDArray[np.object_], pairs: NDArray[np.int64], least: float) -> NDArray[np.intp]:
    """Return indices (n, 2) of polygons of different pairs that overlap enough, the largest overlap first."""
    if len(shapes) < 2 or len(np.unique(pairs)) < 2:  # noqa: PLR2004 - it takes two
        return np.empty((0, 2), np.intp)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = (one < other) & (pairs[one] != pairs[other])
    one, other = one[apart], other[apart]
    common = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    share = common / (shapely.area(shapes[one]) + shapely.area(shapes[other]) - common)
    enough = share >= least
    order = np.lexsort((other[enough], one[enough], -share[enough]))
    return np.column_stack([one[enough][order], other[enough][order]])


_KEY = ["pair", "id", "cells", "score_mean"]
"""What is the same as long as a polygon is the same; coordinates may come in another system."""


@dataclass(frozen=True)
class Reviews:
    """The verdicts in the GeoPackage of a survey, which is about to be replaced.

    Parameters
    ----------
    given
        A verdict by pair, and what the polygon is known by.
    changed
        When its polygons were last changed, ISO 8601; empty where it is not there.
    """

    given: Mapping[tuple[object, ...], str]
    changed: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the verdicts in a GeoPackage; there are none where it is not there, or something else is."""
        if not path.is_file():
            return cls({})
        try:
            changed = last_change(path)
            table = read_reviews(path, _KEY)
            table = table[table["review"].notna()]
            return cls(dict(zip(_keys(table), table["review"], strict=True)), changed)
        except (GeosiamError, OSError, KeyError, ValueError, RuntimeError):  # pyogrio's errors are RuntimeErrors
            return cls({})

    def merged(self, files: Mapping[str, Path], polygons: geopandas.GeoDataFrame) -> pd.Series[str]:
        """Return the verdicts on the polygons of pairs: where both files have one, that of the file changed last.

        Parameters
        ----------
        files
            GeoPackage of each pair, by its name.
        polygons
            What these hold, with the name of the pair in the column ``pair``.
        """
        later = {name for name, path in files.items() if self.given and last_change(path) > self.changed}
        verdicts = normalize_reviews(polygons["review"])
        found = []
        for key, own in zip(_keys(polygons), verdicts, strict=True):
            earlier = self.given.get(key)
            found.append(own if own is not None and (key[0] in later or earlier is None) else earlier)
        return pd.Series(found, index=polygons.index, dtype="object")


def _keys(polygons: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(polygons[_KEY].itertuples(index=False, name=None))
