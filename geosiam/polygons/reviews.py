"""Read the verdicts of analysts from the column ``review`` of polygons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import geopandas
import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.files import exists
from geosiam.polygons.geopackage import LAYER

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

_VERDICTS: Mapping[str, str | None] = {
    **dict.fromkeys(("confirmed", "confirm", "yes", "y", "true", "right", "correct", "ok", "1"), "confirmed"),
    **dict.fromkeys(("rejected", "reject", "no", "n", "false", "wrong", "0"), "rejected"),
    **dict.fromkeys(("unsure", "maybe", "?"), "unsure"),
    **dict.fromkeys(("", "unreviewed", "none", "nan", "null")),
}
"""The verdict that each word stands for; None: not reviewed."""


def normalize_review(value: object) -> str | None:
    """Return the verdict in a cell of the column ``review``.

    Returns
    -------
    One of :data:`geosiam.polygons.schema.REVIEWS`, also for their common synonyms; None for an unreviewed polygon; any
    other text as it is, without surrounding spaces.
    """
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return _VERDICTS.get(text.lower(), text)


def normalize_reviews(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return the verdicts in the column ``review``, see :func:`normalize_review`; dtype object."""
    verdicts = {value: normalize_review(value) for value in values.dropna().unique()}
    return pd.Series([verdicts.get(value) for value in values], index=values.index, dtype=object)


@overload
def read_reviews(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, geometry: Literal[True]
) -> geopandas.GeoDataFrame: ...


@overload
def read_reviews(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, geometry: Literal[False] = False
) -> pd.DataFrame: ...


def read_reviews(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, geometry: bool = False
) -> pd.DataFrame | geopandas.GeoDataFrame:
    """Read the verdicts on the polygons of a file.

    Parameters
    ----------
    path
        A vector file in any format that ``geosiam detect`` writes; a GeoPackage is read from its layer ``anomalies``.
    columns
        Other columns to read.
    geometry
        Whether to read the outlines as well.

    Returns
    -------
    One row per polygon with the columns asked for and ``review``, see :func:`normalize_review`

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        The file does not exist, or is no vector file.
    SceneRefusedError
        A column is missing.
    """
    if not exists(path):
        raise SceneNotFoundError(path, "does not exist", "check the path")
    names = list(dict.fromkeys((*columns, "review")))
    try:
        table = _read_table(path, names, geometry=geometry)
    except (DataSourceError, DataLayerError, ValueError, OSError, ImportError) as error:
        fact = f"has no layer of polygons that can be read ({error})"
        raise SceneUnreadableError(path, fact, "give polygons that geosiam detect wrote") from error
    for name in ("review", *names):
        if name not in table.columns:
            remedy = "give polygons that geosiam detect wrote, with verdicts in the column review"
            raise SceneRefusedError(path, f"has no column {name}", remedy)
    table = table[[*names, table.geometry.name] if geometry else names].copy()
    table["review"] = normalize_reviews(table["review"])
    return table


def _read_table(
    path: str | os.PathLike[str], columns: list[str], *, geometry: bool
) -> pd.DataFrame | geopandas.GeoDataFrame:
    if Path(path).suffix.lower() == ".parquet":
        table = geopandas.read_parquet(path)
        return table if geometry else pd.DataFrame(table)
    layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    if not layers:
        raise DataLayerError("no layer")
    layer = LAYER if LAYER in layers else layers[0]
    return pyogrio.read_dataframe(path, layer=layer, columns=columns, read_geometry=geometry)
