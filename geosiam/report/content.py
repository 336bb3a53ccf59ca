"""All that the page says, as JSON: pairs, anomalies in columns, and the cards of the strongest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from geosiam import __version__
from geosiam.polygons.schema import REVIEWS
from geosiam.qml import COLORS
from geosiam.report.inputs import strongest_polygons
from geosiam.report.map import rings, shared_out, step_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import geopandas

    from geosiam.report.inputs import Fact, ReportPair, Result, UnmatchedScene
    from geosiam.report.map import Extent, Place

FORMAT = 1
"""Of the content, and of the verdicts that the page gives away."""

_LONGEST_TEXT = 2000  # characters of a message


@dataclass(frozen=True)
class Overview:
    """A picture of a whole pair: its name in the page, and where it lies in the plane."""

    picture: str
    extent: Extent


@dataclass(frozen=True)
class Card:
    """What is shown of an anomaly: names of pictures, or a note why there are none."""

    note: str | None = None
    before: str | None = None
    after: str | None = None
    scores: str | None = None
    outline: str | None = None
    metres: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of it."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PairContent:
    """What is shown of a pair.

    Parameters
    ----------
    pair, result
        The pair, and what its GeoPackage says; None where it failed.
    place
        Where it lies on the map; None: nowhere.
    overview
        The picture that its polygons lie on.
    note
        Why there is no picture.
    """

    pair: ReportPair
    result: Result | None = None
    place: Place | None = None
    overview: Overview | None = None
    note: str | None = None

    def to_dict(self, plane: int | None) -> dict[str, Any]:
        """Return it as JSON can hold it; ``plane`` is the number of its map."""
        error = None if self.pair.error is None else self.pair.error[:_LONGEST_TEXT]
        told: dict[str, Any] = {"name": self.pair.name, "status": self.pair.status, "error": error, "plane": plane}
        told["facts"] = [[label, _text(value)] for label, value in self._facts().items()]
        if self.result is not None:
            told |= {
                "run": self.result.run,
                "threshold": self.result.threshold,
                "count": self.result.count,
                "area": self.result.area_m2,
                "strongest": self.result.strongest,
                "shift": self.result.shift_px,
                "warnings": [warning[:_LONGEST_TEXT] for warning in self.result.warnings],
                "note": self.note,
            }
        if self.place is not None:
            told |= {"extent": self.place.extent, "step": step_of(self.place.extent)}
        if self.overview is not None:
            told["overview"] = {"picture": self.overview.picture, "extent": self.overview.extent}
        return told

    def _facts(self) -> dict[str, Fact]:
        told: dict[str, Fact] = {
            "Before": None if self.pair.before is None else Path(self.pair.before).name,
            "After": None if self.pair.after is None else Path(self.pair.after).name,
        }
        if self.result is not None:
            told |= {"Model": self.result.model, "Threshold": self.result.threshold}
        return {label: value for label, value in told.items() if value is not None} | dict(self.pair.facts)


@dataclass
class Content:
    """What is gathered while the pictures are written.

    Parameters
    ----------
    title
        Of the page.
    ranking
        The anomalies on the map.
    cards
        One for each anomaly that comes first in the ranking.
    corners
        How many all outlines on the map may have together.
    unpaired
        Scenes that were compared with nothing.
    """

    title: str
    ranking: Ranking
    cards: list[Card]
    corners: int
    unpaired: Sequence[UnmatchedScene] = ()
    pairs: list[PairContent] = field(default_factory=list)
    rings: dict[int, list[list[list[int]]]] = field(default_factory=dict)
    positions: dict[int, tuple[float, float] | None] = field(default_factory=dict)

    def next_rows(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Return which rows of the ranking are anomalies of the pair that is added next."""
        return np.flatnonzero(self.ranking.table["pair"].to_numpy() == len(self.pairs))

    def add(self, told: PairContent, rows: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        """Add a pair, and draw its anomalies (their rows in the ranking) on the map."""
        self.pairs.append(told)
        most = self._most_corners
        if told.place is None:
            return
        for row in rows:
            outline = self.ranking.outlines[row]
            self.rings[int(row)] = rings(outline, told.place, most)
            middle = outline.representative_point()
            self.positions[int(row)] = told.place.plane.position(middle.x, middle.y)

    @cached_property
    def _most_corners(self) -> int:
        """How many corners any outline on the map may have; what simple ones leave, the others have."""
        return shared_out(shapely.get_num_coordinates(self.ranking.outlines), self.corners)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        planes, numbers = self._planes()
        results = [told.result for told in self.pairs if told.result is not None]
        return {
            "format": FORMAT,
            "title": self.title,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "colors": COLORS,
            "verdicts": REVIEWS,
            "total": sum(result.count for result in results),
            "planes": planes,
            "pairs": [told.to_dict(number) for told, number in zip(self.pairs, numbers, strict=True)],
            "unpaired": [
                {"scene": Path(lonely.scene).name, "reason": lonely.reason[:_LONGEST_TEXT]} for lonely in self.unpaired
            ],
            "anomalies": self._columns(),
            "cards": [card.to_dict() for card in self.cards],
        }

    def _planes(self) -> tuple[list[dict[str, Any]], list[int | None]]:
        """Return the maps, the earth's first, and the number of each pair's."""
        planes: list[dict[str, Any]] = []
        if any(told.place is not None and told.place.plane.on_earth for told in self.pairs):
            planes.append({"name": "Earth", "earth": True})
        numbers: list[int | None] = []
        for told in self.pairs:
            if told.place is None:
                numbers.append(None)
            elif told.place.plane.on_earth:
                numbers.append(0)
            else:
                numbers.append(len(planes))
                planes.append({"name": told.pair.name, "earth": False})
        return planes, numbers

    def _columns(self) -> dict[str, list[Any]]:
        table = self.ranking.table
        thresholds = [0.5 if told.result is None else told.result.threshold for told in self.pairs]
        rows = range(len(table))
        return {
            "pair": table["pair"].astype(int).to_list(),
            "id": table["id"].astype(int).to_list(),
            "mean": [round(float(score), 4) for score in table["score_mean"]],
            "max": [round(float(score), 4) for score in table["score_max"]],
            "area": [float(f"{area:.5g}") for area in table["area_m2"]],
            "cells": table["cells"].astype(int).to_list(),
            "nodata": table["touches_nodata"].astype(bool).to_list(),
            "review": [review if review in REVIEWS else None for review in table["review"]],
            "grade": [
                grade(score, thresholds[int(pair)])
                for score, pair in zip(table["score_mean"], table["pair"], strict=True)
            ],
            "rings": [self.rings.get(row) for row in rows],
            "at": [_rounded(self.positions.get(row)) for row in rows],
        }


def grade(score: float, threshold: float) -> int:
    """Return which of the colors of the QGIS style a mean score has: equal classes from the threshold to 1."""
    share = (score - threshold) / (1 - threshold) if threshold < 1 else 1.0
    return min(len(COLORS) - 1, max(0, math.floor(share * len(COLORS))))


def _rounded(position: tuple[float, float] | None) -> list[float] | None:
    return None if position is None else [round(part, 6) for part in position]


def _text(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)[:_LONGEST_TEXT]  # noqa: RUF001 - a dash for what is not known


_KEPT = ("id", "score_mean", "score_max", "area_m2", "cells", "touches_nodata", "review")
_BY = {"score_mean": False, "area_m2": False, "pair": True, "id": True}  # column: ascending


@dataclass(frozen=True)
class Ranking:
    """Anomalies: first those with cards, then the others, strongest first in either part.

    Parameters
    ----------
    table
        A row each: ``pair`` (its index) and columns of :data:`geosiam.polygons.table.COLUMNS`.
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
