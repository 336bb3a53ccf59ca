"""The formats that polygons can be written in; this module does not load their writers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.errors import OptionError
from geosiam.files import check_writable

if TYPE_CHECKING:
    import os

FORMATS = {
    ".gpkg": "GPKG",
    ".geojson": "GeoJSON",
    ".fgb": "FlatGeobuf",
    ".shp": "ESRI Shapefile",
    ".parquet": "Parquet",
}


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that cannot be written to, before any work is done.

    Raises
    ------
    OptionError
        The suffix is not one of :data:`FORMATS`.
    OutputError
        The folder does not exist, or the name is too long.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise OptionError(target, f"has the suffix {suffix!r}", f"use one of {', '.join(FORMATS)}")
    check_writable(target)
