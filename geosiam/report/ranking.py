"""The strongest anomalies of all pairs together, in the memory of those that are kept.

Each pair has a fair share: one night of bad light makes thousands of strong anomalies, and nobody would get to see
those of the other pairs. What a pair leaves of its share goes to the strongest of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geosiam.report.results import strongest_polygons

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas

_KEPT = ("id", "score_mean", "score_max", "area_m2", "cells", "touches_nodata", "review")
_BY = {"score_mean": False, "area_m2": False, "pair": True, "id": True}  # column: ascending


@dataclass(frozen=True)
class Ranking:
    """Anomalies: first those with cards, then the others, strongest first in either part.

    Parameters
    ----------
    table
        A row each: ``pair`` (its index) and columns of :data:`geosiam.vector.polygons.COLUMNS`.
    outlines
        Their polygons, shape (n,), each in the coordinate system of its pair.
    systems
        The coordinate system of each pair that has any, as WKT, by the pair's index.
    cards
        How many have cards.
    """

    table: pd.DataFrame
    outlines: np.ndarray[tuple[int], np.dtype[np.object_]]
    systems: dict[int, str]
    cards: int

    def __len__(self) -> int:
        return len(self.table)


def rank(files: Sequence[tuple[int, Path]], mapped: int, cards: int) -> Ranking:
    """Return the strongest anomalies of several GeoPackages.

    Parameters
    ----------
    files
        Index of a pair, and its GeoPackage.
    mapped
        How many to keep in all.
    cards
        How many of them are to be looked at; not more than ``mapped``.
    """
    kept = pd.DataFrame({name: [] for name in ("pair", *_KEPT, "place", "outline")})
    systems = {}
    for index, file in files:
        frame = strongest_polygons(file, mapped)
        if frame.crs is not None:
            systems[index] = frame.crs.to_wkt()
        if len(frame):
            rows = _rows(index, frame)
            kept = _fairly(pd.concat([kept, rows], ignore_index=True) if len(kept) else rows, mapped, len(files))
    chosen = _fairly(kept, cards, len(files))
    table = pd.concat([chosen, kept.drop(chosen.index)], ignore_index=True) if len(chosen) else kept
    outlines = np.array(table.pop("outline").to_list() or [None], dtype=object)[: len(table)]
    return Ranking(table.drop(columns="place"), outlines, systems, len(chosen))


def _rows(index: int, frame: geopandas.GeoDataFrame) -> pd.DataFrame:
    """Return the columns to keep, and ``place``: how many of the same pair are stronger."""
    columns = {name: frame[name].to_numpy() for name in _KEPT}
    return pd.DataFrame({"pair": index, **columns, "place": np.arange(len(frame)), "outline": list(frame.geometry)})


def _fairly(table: pd.DataFrame, most: int, pairs: int) -> pd.DataFrame:
    """Return so many rows, strongest first, of which each pair has its share if it has so many; the index stays."""
    ordered = table.sort_values(list(_BY), ascending=list(_BY.values()), kind="stable")
    within = ordered["place"] < most // max(1, pairs)
    others = ordered[~within].head(most - int(within.sum()))
    return ordered[within | ordered.index.isin(others.index)]
