"""The strongest anomalies of all pairs together, in the memory of those that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geosiam.report.results import strongest_polygons

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import geopandas

ORDER = ["score_mean", "area_m2", "pair", "id"]
_KEPT = ("id", "score_mean", "score_max", "area_m2", "cells", "touches_nodata", "review")


@dataclass(frozen=True)
class Ranking:
    """Anomalies, strongest first.

    Parameters
    ----------
    table
        A row each: ``pair`` (its index) and columns of :data:`geosiam.vector.polygons.COLUMNS`.
    outlines
        Their polygons, shape (n,), each in the coordinate system of its pair.
    systems
        The coordinate system of each pair that has any, as WKT, by the pair's index.
    """

    table: pd.DataFrame
    outlines: np.ndarray[tuple[int], np.dtype[np.object_]]
    systems: dict[int, str]

    def __len__(self) -> int:
        return len(self.table)


def rank(files: Iterable[tuple[int, Path]], most: int) -> Ranking:
    """Return the strongest anomalies of several GeoPackages.

    Parameters
    ----------
    files
        Index of a pair, and its GeoPackage.
    most
        How many to keep in all.
    """
    kept = pd.DataFrame({name: [] for name in ("pair", *_KEPT, "outline")})
    systems = {}
    for index, file in files:
        frame = strongest_polygons(file, most)
        if frame.crs is not None:
            systems[index] = frame.crs.to_wkt()
        if len(frame):
            kept = _strongest(kept, _rows(index, frame), most)
    outlines = np.array(kept.pop("outline").to_list() or [None], dtype=object)[: len(kept)]
    return Ranking(kept, outlines, systems)


def _rows(index: int, frame: geopandas.GeoDataFrame) -> pd.DataFrame:
    columns = {name: frame[name].to_numpy() for name in _KEPT}
    return pd.DataFrame({"pair": index, **columns, "outline": list(frame.geometry)})


def _strongest(kept: pd.DataFrame, more: pd.DataFrame, most: int) -> pd.DataFrame:
    together = pd.concat([kept, more], ignore_index=True) if len(kept) else more
    ordered = together.sort_values(ORDER, ascending=[False, False, True, True], kind="stable")
    return ordered.head(most).reset_index(drop=True)
