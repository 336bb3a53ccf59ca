"""An analyst's verdicts, which are given in two places: in a pair's own GeoPackage, and in that of all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import geopandas
import pandas as pd

from geosiam.errors import GeosiamError
from geosiam.report.results import opened
from geosiam.vector.geopackage import LAYER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

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
            changed = _changed(path)
            frame = geopandas.read_file(path, layer=LAYER, columns=[*_KEY, "review"], ignore_geometry=True)
            frame = frame[_said(frame["review"])]
            return cls(dict(zip(_keys(frame), frame["review"], strict=True)), changed)
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
        later = {name for name, path in files.items() if self.given and _changed(path) > self.changed}
        said = _said(polygons["review"])
        found = []
        for key, own, is_said in zip(_keys(polygons), polygons["review"], said, strict=True):
            kept = self.given.get(key)
            found.append(own if is_said and (key[0] in later or kept is None) else kept)
        return pd.Series(found, index=polygons.index, dtype="object")


def _said(reviews: pd.Series[str]) -> pd.Series[bool]:
    return reviews.notna() & (reviews != "")


def _keys(polygons: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(polygons[_KEY].itertuples(index=False, name=None))


def _changed(path: Path) -> str:
    """Return when the polygons of a GeoPackage were last changed: GDAL and QGIS keep account of it."""
    with opened(path) as db:
        found = db.execute("SELECT last_change FROM gpkg_contents WHERE table_name = ?", (LAYER,)).fetchone()
    return str(found[0]) if found else ""
