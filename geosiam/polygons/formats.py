"""The formats that polygons can be written in; this module does not load their writers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyproj
from pyproj.exceptions import CRSError, ProjError

from geosiam.errors import OptionError, OutputError
from geosiam.files import check_writable

if TYPE_CHECKING:
    import os

    from rasterio.crs import CRS

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


def check_crs(path: str | os.PathLike[str], crs: CRS) -> None:
    """Refuse a format that cannot hold polygons of a coordinate reference system, before any work is done.

    Raises
    ------
    OutputError
        GeoJSON is in WGS 84, to which there is no way from a local system or another planet; or a shapefile would name
        another system, since it knows neither shifts of a datum nor derived systems.
    """
    suffix, system = Path(path).suffix.lower(), pyproj.CRS.from_wkt(crs.to_wkt())
    remedy = "use .gpkg, which holds any coordinate system"
    if suffix == ".geojson" and not _leads_to_wgs84(system):
        raise OutputError(path, "cannot hold the scene's coordinate system, which has no way to WGS 84", remedy)
    if suffix == ".shp" and not _survives_esri_wkt(system):
        raise OutputError(path, "cannot name the scene's coordinate system", remedy)


def _leads_to_wgs84(crs: pyproj.CRS) -> bool:
    try:
        pyproj.Transformer.from_crs(crs, 4326)
    except ProjError:
        return False
    return True


def _survives_esri_wkt(crs: pyproj.CRS) -> bool:
    try:
        named = pyproj.CRS.from_wkt(crs.to_wkt("WKT1_ESRI"))
    except CRSError:
        return False
    return not crs.is_bound and (_leads_to_wgs84(named) or not _leads_to_wgs84(crs))
