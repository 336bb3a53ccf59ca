"""Merge the polygons of all pairs into one GeoPackage: one CRS, object ids, and verdicts."""

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
from geosiam.files import plain_path
from geosiam.polygons.geopackage import FOOTPRINT_LAYER, LAYER
from geosiam.polygons.results import last_change, normalize_reviews, read_result, read_reviews
from geosiam.polygons.writer import write_polygons

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from geosiam.batch.events import PairResult

MIN_OBJECT_IOU = 0.25
"""Minimum intersection over union of two polygons of one object; it is low because outlines follow coarse cells."""

_COMMON_CRS = "EPSG:4326"
_PAIR_COLUMNS = {
    "pair": "Name of the pair",
    "site": "Name of the place",
    "before_date": "Date of the before scene, ISO 8601; empty if unknown",
    "date": "Date of the after scene, ISO 8601; empty if unknown",
    "object_id": "The same number for the same object at several dates",
}
_POLYGON_KEY = ["pair", "id", "cells", "score_mean"]
"""Columns that identify a polygon as long as it is the same; coordinates may change with the CRS of the file."""


def merge_polygons(pairs: Sequence[PairResult], target: Path) -> tuple[str, ...]:
    """Write the polygons of all pairs with results into one GeoPackage, if there are any such pairs.

    Columns ``pair``, ``site``, ``before_date`` and ``date`` say where a polygon comes from, ``id`` is its number in its
    pair, and ``object_id`` is the same for the same object at several dates. The layer ``footprint`` has one row per
    pair. The CRS is that of the pairs if they share one, else WGS 84. Verdicts are taken from the pairs and from the
    file that is replaced; see :class:`Reviews`.

    Returns
    -------
    Names of the pairs that are left out because their CRS cannot be transformed to WGS 84

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    reviews = Reviews.of(target)
    completed = [pair for pair in pairs if pair.anomalies is not None]
    groups = _in_common_crs(_group_by_crs(completed))
    names = frozenset[str]().union(*(group.names for group in groups))
    left_out = tuple(pair.name for pair in completed if pair.name not in names)
    if not names:
        return left_out
    merged = [pair for pair in completed if pair.name in names]
    files = {pair.name: pair.anomalies for pair in merged if pair.anomalies is not None}
    polygons = _concatenated([group.polygons for group in groups], list(files))
    polygons["review"] = reviews.merged(files, polygons)
    polygons["object_id"] = object_ids(polygons.geometry.array, pd.factorize(polygons["pair"])[0].tolist())
    footprint = _concatenated([group.footprint for group in groups], list(files))
    runs = {name: read_result(path).run for name, path in files.items()}
    provenance = {
        "inputs": list(files),
        "fingerprints": runs,
        "threshold": min(pair.record.threshold for pair in merged if pair.record is not None),
        "merged": runs,
    }
    write_polygons(polygons, target, provenance=provenance, more_columns=_PAIR_COLUMNS, footprint=footprint)
    return left_out


@dataclass(frozen=True)
class _Group:
    """The layers of all pairs with one CRS, with rows in the order of the pairs."""

    names: frozenset[str]
    polygons: geopandas.GeoDataFrame
    footprint: geopandas.GeoDataFrame


@dataclass(frozen=True)
class _Layer:
    """A layer of a pair's file as arrays, one per column, with the columns of its pair."""

    crs: str
    columns: dict[str, NDArray[Any]]
    wkb: NDArray[np.object_]

    @classmethod
    def of(cls, pair: PairResult, layer: str) -> Self:
        assert pair.anomalies is not None
        with plain_path(pair.anomalies) as plain:
            meta, _, wkb, values = read(plain, layer=layer)
        about_pair = {"pair": pair.name, "site": pair.site, "before_date": pair.before_date, "date": pair.date}
        columns = dict(zip(meta["fields"], values, strict=True))
        columns |= {column: np.full(len(wkb), value, object) for column, value in about_pair.items()}
        return cls(meta["crs"], columns, wkb)


def _group_by_crs(pairs: Sequence[PairResult]) -> list[_Group]:
    """Read the layers of all pairs into one table per CRS, as a table per layer would take three times as long."""
    by_crs: dict[str, list[tuple[str, _Layer, _Layer]]] = defaultdict(list)
    for pair in pairs:
        polygons, footprint = (_Layer.of(pair, layer) for layer in (LAYER, FOOTPRINT_LAYER))
        by_crs[polygons.crs].append((pair.name, polygons, footprint))
    groups = []
    for members in by_crs.values():
        names, polygons_of_pairs, footprints = zip(*members, strict=True)
        groups.append(_Group(frozenset(names), _frame(polygons_of_pairs), _frame(footprints)))
    return groups


def _frame(layers: Sequence[_Layer]) -> geopandas.GeoDataFrame:
    """Concatenate layers with one CRS; a column that a layer lacks is empty in its rows."""
    non_empty = [layer for layer in layers if len(layer.wkb)] or layers  # empty columns may have another dtype
    columns = {
        name: np.concatenate([layer.columns.get(name, np.full(len(layer.wkb), None, object)) for layer in non_empty])
        for name in dict.fromkeys(name for layer in layers for name in layer.columns)
    }
    geometry = shapely.from_wkb(np.concatenate([layer.wkb for layer in layers]))
    return geopandas.GeoDataFrame(columns, geometry=geometry, crs=layers[0].crs)


def _in_common_crs(groups: list[_Group]) -> list[_Group]:
    """Return a single group as it is, several in WGS 84, without those that cannot be transformed."""
    if len(groups) <= 1:
        return groups
    transformed = []
    for group in groups:
        try:
            frames = [frame.to_crs(_COMMON_CRS) for frame in (group.polygons, group.footprint)]
        except ProjError:  # on another planet, or in a local system
            continue
        transformed.append(_Group(group.names, *frames))
    return transformed


def _concatenated(frames: Sequence[geopandas.GeoDataFrame], names: Sequence[str]) -> geopandas.GeoDataFrame:
    """Concatenate tables, with rows in the order of these names of pairs."""
    non_empty = [frame for frame in frames if len(frame)] or list(frames[:1])  # pandas warns about empty columns
    rows: Any = pd.concat(non_empty, ignore_index=True)
    positions = rows["pair"].map({name: position for position, name in enumerate(names)})
    ordered = rows.iloc[positions.argsort(kind="stable")].reset_index(drop=True)
    return geopandas.GeoDataFrame(ordered, crs=non_empty[0].crs)


def object_ids(
    outlines: Sequence[shapely.Geometry], pairs: Sequence[int], min_iou: float = MIN_OBJECT_IOU
) -> list[int]:
    """Give each object, which may be seen in several pairs, a number: from 1, in the order of their first polygons.

    Polygons of two pairs are linked from the largest overlap down, and an object never has two polygons of one pair. So
    a large polygon of one date does not merge the small ones of another.

    Parameters
    ----------
    outlines
        The polygons, in one CRS.
    pairs
        Number of the pair of each polygon.
    min_iou
        Minimum intersection over union of two polygons of one object.

    Returns
    -------
    The object number of each polygon
    """
    pairs_of_object = {index: {pair} for index, pair in enumerate(pairs)}  # by the object's first polygon
    parents = list(range(len(pairs)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for a, b in _overlapping(np.asarray(outlines, dtype=object), np.asarray(pairs, np.int64), min_iou):
        first, second = sorted((root(int(a)), root(int(b))))
        if first != second and not pairs_of_object[first] & pairs_of_object[second]:
            parents[second] = first
            pairs_of_object[first] |= pairs_of_object.pop(second)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers) + 1) for index in range(len(pairs))]


def _overlapping(shapes: NDArray[np.object_], pairs: NDArray[np.int64], min_iou: float) -> NDArray[np.intp]:
    """Return indices (n, 2) of polygons of different pairs that overlap enough, the largest overlap first."""
    if len(np.unique(pairs)) < 2:  # noqa: PLR2004 - an object needs two pairs to be seen in
        return np.empty((0, 2), np.intp)
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    distinct = (a < b) & (pairs[a] != pairs[b])
    a, b = a[distinct], b[distinct]
    common = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    iou = common / (shapely.area(shapes[a]) + shapely.area(shapes[b]) - common)
    enough = iou >= min_iou
    order = np.lexsort((b[enough], a[enough], -iou[enough]))
    return np.column_stack([a[enough][order], b[enough][order]])


@dataclass(frozen=True)
class Reviews:
    """The verdicts in the merged GeoPackage of a batch that is about to be replaced.

    Parameters
    ----------
    verdicts
        Verdict of each reviewed polygon, by its values of :data:`_POLYGON_KEY`.
    changed
        When the polygons of the file were last changed, ISO 8601; empty if there is no such file.
    """

    verdicts: Mapping[tuple[object, ...], str]
    changed: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the verdicts in a merged GeoPackage; none if it does not exist or is something else."""
        if not path.is_file():
            return cls({})
        try:
            return cls(_read_verdicts(path), last_change(path))
        except (GeosiamError, OSError, KeyError, ValueError, RuntimeError):  # pyogrio's errors are RuntimeErrors
            return cls({})

    def merged(self, files: Mapping[str, Path], polygons: geopandas.GeoDataFrame) -> pd.Series[str]:
        """Return the verdicts on the polygons of pairs; if both files have one, the file that was changed last wins.

        Parameters
        ----------
        files
            GeoPackage of each pair, by its name.
        polygons
            Polygons of these files, with the name of the pair in the column ``pair``.
        """
        changed_later = {name for name, path in files.items() if self.verdicts and last_change(path) > self.changed}
        verdicts = []
        for key, verdict in zip(_keys(polygons), normalize_reviews(polygons["review"]), strict=True):
            earlier = self.verdicts.get(key)
            is_newer = verdict is not None and (key[0] in changed_later or earlier is None)
            verdicts.append(verdict if is_newer else earlier)
        return pd.Series(verdicts, index=polygons.index, dtype="object")


def _read_verdicts(path: Path) -> dict[tuple[object, ...], str]:
    table = read_reviews(path, _POLYGON_KEY)
    table = table[table["review"].notna()]
    return dict(zip(_keys(table), table["review"], strict=True))


def _keys(polygons: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(polygons[_POLYGON_KEY].itertuples(index=False, name=None))
