"""Collect the content of the page, which its program reads as JSON: pairs, anomalies in columns, and cards."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geosiam import __version__
from geosiam.errors import redacted
from geosiam.files import file_name
from geosiam.polygons.results import normalize_review
from geosiam.polygons.schema import REVIEWS
from geosiam.qml import POLYGON_COLORS
from geosiam.report.inputs import strongest_polygons
from geosiam.report.map import common_limit, encode_rings, ring_step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas

    from geosiam.polygons.results import ResultSummary
    from geosiam.report.inputs import Fact, ReportPair, UnmatchedScene
    from geosiam.report.map import Extent, MapFrame

FORMAT = 1
"""Version of the content, and of the verdicts that the page exports."""

Rows: TypeAlias = NDArray[np.intp]
"""Row numbers of a ranking, shape (n,)."""

_MAX_TEXT = 2000  # characters of a message on the page
_DEFAULT_THRESHOLD = 0.5  # of pairs without a result


@dataclass(frozen=True)
class Overview:
    """The small picture of a whole pair: its name in the page, and its extent in the plane of the map."""

    picture: str
    extent: Extent


@dataclass(frozen=True)
class Card:
    """The card of an anomaly: names of its pictures, or a note why there are none.

    Parameters
    ----------
    note
        Why there are no pictures.
    before, after, scores
        Names of the pictures in the page.
    outline
        The polygon as the ``d`` of an SVG path in a box of 1000 x 1000.
    meters
        Width of the pictures on the ground; None off the earth.
    """

    note: str | None = None
    before: str | None = None
    after: str | None = None
    scores: str | None = None
    outline: str | None = None
    meters: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class PairContent:
    """The content of the page for one pair.

    Parameters
    ----------
    pair, result
        The pair and the summary of its GeoPackage; None if it failed.
    frame
        Its place on the map; None if it has none.
    overview
        The picture below its polygons on the map.
    note
        Why there is no picture.
    """

    pair: ReportPair
    result: ResultSummary | None = None
    frame: MapFrame | None = None
    overview: Overview | None = None
    note: str | None = None

    def to_dict(self, plane: int | None) -> dict[str, Any]:
        """Return the pair as JSON values; ``plane`` is the number of its map."""
        error = None if self.pair.error is None else self.pair.error[:_MAX_TEXT]
        content: dict[str, Any] = {"name": self.pair.name, "status": self.pair.status, "error": error, "plane": plane}
        content["facts"] = [[label, _text(value)] for label, value in self._facts().items()]
        if self.result is not None:
            record = self.result.record
            content |= {
                "run": self.result.run,
                "threshold": record.threshold,
                "count": self.result.count,
                "area": self.result.area_m2,
                "strongest": self.result.strongest,
                "shift": record.shift_px,
                "warnings": [warning[:_MAX_TEXT] for warning in record.warnings],
                "note": self.note,
            }
        if self.frame is not None:
            content |= {"extent": self.frame.extent, "step": ring_step(self.frame.extent)}
        if self.overview is not None:
            content["overview"] = {"picture": self.overview.picture, "extent": self.overview.extent}
        return redacted(content)

    def _facts(self) -> dict[str, Fact]:
        facts: dict[str, Fact] = {
            "Before": None if self.pair.before is None else file_name(str(self.pair.before)),
            "After": None if self.pair.after is None else file_name(str(self.pair.after)),
        }
        if self.result is not None:
            facts |= {"Model": self.result.record.model, "Threshold": self.result.record.threshold}
        return {label: value for label, value in facts.items() if value is not None} | dict(self.pair.facts)


@dataclass
class Content:
    """The content of the page, completed pair by pair while the pictures are written.

    Parameters
    ----------
    title
        Title of the page.
    ranking
        The anomalies on the map.
    cards
        Cards of the first anomalies of the ranking.
    corners
        Maximum number of corners of all outlines on the map together.
    unmatched
        Scenes that were compared with nothing.
    """

    title: str
    ranking: Ranking
    cards: list[Card]
    corners: int
    unmatched: Sequence[UnmatchedScene] = ()
    pairs: list[PairContent] = field(default_factory=list)
    rings: dict[int, list[list[list[int]]]] = field(default_factory=dict)
    positions: dict[int, tuple[float, float] | None] = field(default_factory=dict)

    def next_rows(self) -> Rows:
        """Return the rows of the ranking that belong to the pair that is added next."""
        return np.flatnonzero(self.ranking.table["pair"].to_numpy() == len(self.pairs))

    def add(self, pair: PairContent, rows: Rows) -> None:
        """Add a pair, and draw its anomalies (their rows in the ranking) on the map."""
        self.pairs.append(pair)
        if pair.frame is None:
            return
        for row in rows:
            outline = self.ranking.outlines[row]
            self.rings[int(row)] = encode_rings(outline, pair.frame, self._max_corners)
            point = outline.representative_point()
            self.positions[int(row)] = pair.frame.plane.position(point.x, point.y)

    @cached_property
    def _max_corners(self) -> int:
        """Maximum number of corners of a single outline on the map."""
        return common_limit(shapely.get_num_coordinates(self.ranking.outlines), self.corners)

    def to_dict(self) -> dict[str, Any]:
        """Return the content as JSON values."""
        planes, numbers = self._planes()
        results = [pair.result for pair in self.pairs if pair.result is not None]
        return {
            "format": FORMAT,
            "title": self.title,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
            "colors": POLYGON_COLORS,
            "verdicts": REVIEWS,
            "total": sum(result.count for result in results),
            "planes": planes,
            "pairs": [pair.to_dict(number) for pair, number in zip(self.pairs, numbers, strict=True)],
            "unmatched": [
                {"scene": file_name(scene.scene), "reason": redacted(scene.reason)[:_MAX_TEXT]}
                for scene in self.unmatched
            ],
            "anomalies": self._columns(),
            "cards": [card.to_dict() for card in self.cards],
        }

    def _planes(self) -> tuple[list[dict[str, Any]], list[int | None]]:
        """Return the maps, the earth's first, and the number of each pair's map."""
        planes: list[dict[str, Any]] = []
        if any(pair.frame is not None and pair.frame.plane.on_earth for pair in self.pairs):
            planes.append({"name": "Earth", "earth": True})
        numbers: list[int | None] = []
        for pair in self.pairs:
            if pair.frame is None:
                numbers.append(None)
            elif pair.frame.plane.on_earth:
                numbers.append(0)
            else:
                numbers.append(len(planes))
                planes.append({"name": pair.pair.name, "earth": False})
        return planes, numbers

    def _columns(self) -> dict[str, list[Any]]:
        table = self.ranking.table
        thresholds = [
            _DEFAULT_THRESHOLD if pair.result is None else pair.result.record.threshold for pair in self.pairs
        ]
        rows = range(len(table))
        return {
            "pair": table["pair"].astype(int).to_list(),
            "id": table["id"].astype(int).to_list(),
            "mean": [round(float(score), 4) for score in table["score_mean"]],
            "max": [round(float(score), 4) for score in table["score_max"]],
            "area": [float(f"{area:.5g}") for area in table["area_m2"]],
            "cells": table["cells"].astype(int).to_list(),
            "nodata": table["touches_nodata"].astype(bool).to_list(),
            "review": [verdict if verdict in REVIEWS else None for verdict in map(normalize_review, table["review"])],
            "color": [
                color_class(score, thresholds[int(pair)])
                for score, pair in zip(table["score_mean"], table["pair"], strict=True)
            ],
            "rings": [self.rings.get(row) for row in rows],
            "at": [_rounded(self.positions.get(row)) for row in rows],
        }


def color_class(score: float, threshold: float) -> int:
    """Return the number of the QGIS style's color for a mean score: equal classes from the threshold to 1."""
    share = (score - threshold) / (1 - threshold) if threshold < 1 else 1.0
    return min(len(POLYGON_COLORS) - 1, max(0, math.floor(share * len(POLYGON_COLORS))))


def _rounded(position: tuple[float, float] | None) -> list[float] | None:
    return None if position is None else [round(degrees, 6) for degrees in position]


def _text(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)[:_MAX_TEXT]  # noqa: RUF001 - a dash for an unknown value


_RANKED_COLUMNS = ("id", "score_mean", "score_max", "area_m2", "cells", "touches_nodata", "review")
_SORT_ASCENDING = {"score_mean": False, "area_m2": False, "pair": True, "id": True}


@dataclass(frozen=True)
class Ranking:
    """The strongest anomalies of all pairs: first those with cards, then the others, each group strongest first.

    Parameters
    ----------
    table
        One row per anomaly: ``pair`` (its index) and columns of :data:`geosiam.polygons.schema.COLUMNS`.
    outlines
        Their polygons, shape (n,), each in the coordinate system of its pair.
    systems
        The coordinate system of each pair that has one, as WKT, by the pair's index.
    cards
        Number of anomalies with cards.
    """

    table: pd.DataFrame
    outlines: np.ndarray[tuple[int], np.dtype[np.object_]]
    systems: dict[int, str]
    cards: int

    def __len__(self) -> int:
        return len(self.table)


def rank(files: Sequence[tuple[int, Path]], mapped: int, cards: int) -> Ranking:
    """Return the strongest anomalies of several GeoPackages; each pair gets its share.

    Parameters
    ----------
    files
        Index of a pair, and its GeoPackage.
    mapped
        Maximum number of anomalies.
    cards
        Maximum number of anomalies with cards; not more than ``mapped``.
    """
    strongest = pd.DataFrame({name: [] for name in ("pair", *_RANKED_COLUMNS, "place", "outline")})
    systems = {}
    for index, file in files:
        frame = strongest_polygons(file, mapped)
        if frame.crs is not None:
            systems[index] = frame.crs.to_wkt()
        if len(frame):
            rows = _ranked_rows(index, frame)
            together = pd.concat([strongest, rows], ignore_index=True) if len(strongest) else rows
            strongest = _fair_share(together, mapped, len(files))
    with_cards = _fair_share(strongest, cards, len(files))
    without = strongest.drop(with_cards.index)
    table = pd.concat([with_cards, without], ignore_index=True) if len(with_cards) else strongest
    outlines = np.array(table.pop("outline").to_list() or [None], dtype=object)[: len(table)]
    return Ranking(table.drop(columns="place"), outlines, systems, len(with_cards))


def _ranked_rows(index: int, frame: geopandas.GeoDataFrame) -> pd.DataFrame:
    """Return the ranked columns of a pair, and ``place``: how many of the pair's anomalies are stronger."""
    columns = {name: frame[name].to_numpy() for name in _RANKED_COLUMNS}
    return pd.DataFrame({"pair": index, **columns, "place": np.arange(len(frame)), "outline": list(frame.geometry)})


def _fair_share(table: pd.DataFrame, limit: int, pairs: int) -> pd.DataFrame:
    """Return up to ``limit`` rows, strongest first, with as many of each pair as its equal share; keeps the index."""
    ordered = table.sort_values(list(_SORT_ASCENDING), ascending=list(_SORT_ASCENDING.values()), kind="stable")
    within = ordered["place"] < limit // max(1, pairs)
    strongest_others = ordered[~within].head(limit - int(within.sum()))
    return ordered[within | ordered.index.isin(strongest_others.index)]
