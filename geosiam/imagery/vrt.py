"""GDAL's virtual rasters (VRT) as XML: bands of other rasters, combined without copying a pixel."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree as ET  # XML is written here, never parsed

from geosiam.files import exists, is_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geosiam.imagery.grid import Grid, Window

_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}


_VSI_PREFIXES = {
    "file": "",
    "zip": "vsizip",
    "tar": "vsitar",
    "gzip": "vsigzip",
    "http": "vsicurl",
    "https": "vsicurl",
    "ftp": "vsicurl",
    "s3": "vsis3",
    "gs": "vsigs",
    "az": "vsiaz",
    "oss": "vsioss",
}
_ARCHIVES = ("zip", "tar", "gzip")
_REMOTE = re.compile(r"\b(?!file|vrt)[a-z0-9+.]{2,}://|/vsi(?!mem)")
_VSI_ARCHIVES = ("zip", "tar", "gzip", "7z", "rar")


def gdal_name(name: str) -> str:
    """Return GDAL's name of a path or URI that rasterio takes, such as ``/vsizip/a.zip/b.tif`` of ``zip://a.zip!b.tif``.

    Paths, names that begin with ``/vsi``, and names of other schemes are GDAL's already and are returned as they are.
    """
    scheme, separator, location = name.partition("://")
    schemes = scheme.lower().split("+")
    if not separator or any(part not in _VSI_PREFIXES for part in schemes):
        return name
    location = location.partition("#")[0]
    prefix = "".join(f"/{_VSI_PREFIXES[part]}" for part in schemes if _VSI_PREFIXES[part])
    url_scheme = f"{schemes[-1]}://" if _VSI_PREFIXES[schemes[-1]] == "vsicurl" else ""
    if schemes[0] in _ARCHIVES:
        archive, separator, path = location.partition("!")
        location = f"{archive}/{path.lstrip('/')}" if separator else location
    return f"{prefix}/{url_scheme}{location}" if prefix else location


def is_remote(name: str) -> bool:
    """Return whether GDAL asks a server for what a path or URI names."""
    return local_path(name) is None and _REMOTE.search(name.lower()) is not None


def local_path(name: str) -> Path | None:
    """Return the local file that is read for a path, a URI or GDAL's name: of a member of an archive, the archive.

    Returns
    -------
    the file; None for one that does not exist, is remote, in memory, or named in another way, such as a subdataset
    """
    text = gdal_name(name)
    while match := re.match(r"/vsi([a-z0-9_]+)[/?](.*)", text, re.DOTALL):
        kind, text = match.groups()
        if kind in ("subfile", "sparse"):
            text = text.partition(",")[2] or text
        elif kind in ("cached", "crypt"):
            text = unquote(re.split(r"\bfile=", text)[-1].split("&")[0])
        elif kind == "curl" and text.lower().startswith("file://"):
            text = text[len("file://") :]
        elif kind not in (*_VSI_ARCHIVES, "mem"):
            return None
        if text.startswith("{"):
            text = text[1:].replace("}", "", 1)
    if not text or text.startswith("<"):
        return None
    path = Path(text)
    archives = (file for file in path.parents if file.name and is_file(file))
    return path if exists(path) else next(archives, None)


class VirtualRaster:
    """A virtual raster, to which bands are added.

    Parameters
    ----------
    grid
        Size and georeference.
    georeferenced
        Write the georeference, which a virtual raster inside another one does not need.
    """

    def __init__(self, grid: Grid, *, georeferenced: bool = True) -> None:
        self._root = ET.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
        if georeferenced:
            ET.SubElement(self._root, "SRS").text = grid.crs.to_wkt()
            ET.SubElement(self._root, "GeoTransform").text = ", ".join(map(repr, grid.transform.to_gdal()))

    def band(
        self,
        dtype: str,
        *,
        nodata: float | None = None,
        color: str | None = None,
        function: str | None = None,
        block: tuple[int, int] | None = None,
    ) -> VirtualBand:
        """Add a band.

        Parameters
        ----------
        dtype
            NumPy type of the band.
        nodata
            Value of invalid pixels; None: there is none.
        color
            Color interpretation, by rasterio's name; None: undefined.
        function
            How several sources of the same pixel are combined, ``min`` or ``max``; None: the last source counts.
        block
            Rows and columns of the band's blocks; None: GDAL's own.
        """
        sides = {} if block is None else {"blockXSize": str(block[1]), "blockYSize": str(block[0])}
        element = ET.SubElement(self._root, "VRTRasterBand", {"dataType": _TYPES[dtype]} | sides)
        return VirtualBand(element, function, nodata, color)

    def mask(self, function: str | None = None) -> VirtualBand:
        """Add the mask of all bands: 0 = invalid, 255 = valid."""
        return VirtualBand(
            ET.SubElement(ET.SubElement(self._root, "MaskBand"), "VRTRasterBand", dataType="Byte"), function
        )

    def xml(self) -> str:
        """Return the XML, which GDAL opens like a file name."""
        return ET.tostring(self._root, encoding="unicode")


class VirtualBand:
    """A band of a virtual raster, to which sources are added."""

    def __init__(
        self,
        element: ET.Element,
        function: str | None,
        nodata: float | None = None,
        color: str | None = None,
    ) -> None:
        self._element = element
        self._function = function
        self._sources = 0
        if nodata is not None:
            ET.SubElement(element, "NoDataValue").text = _number(nodata)
        if color is not None:
            ET.SubElement(element, "ColorInterp").text = color.capitalize()

    def set_scale(self, scale: float, offset: float) -> None:
        """Set the scale and offset from stored to measured values."""
        if (scale, offset) != (1.0, 0.0):
            ET.SubElement(self._element, "Offset").text = repr(offset)
            ET.SubElement(self._element, "Scale").text = repr(scale)

    def set_palette(self, palette: Mapping[int, tuple[int, ...]]) -> None:
        """Give the band a palette, unless it is empty."""
        if palette:
            table = ET.SubElement(self._element, "ColorTable")
            for index in range(max(palette) + 1):
                color = palette.get(index, (0, 0, 0, 255))
                ET.SubElement(table, "Entry", {f"c{i}": str(part) for i, part in enumerate(color, 1)})

    def add(
        self,
        path: str,
        band: int | str,
        place: Window | None = None,
        *,
        nodata: float | None = None,
        use_mask: bool = False,
        block: tuple[int, int] | None = None,
    ) -> None:
        """Add a source of pixels.

        Parameters
        ----------
        path
            Path or URI that rasterio opens, or the XML of another virtual raster.
        band
            Number of the source's band, or ``mask,N`` for the mask of band N.
        place
            Window of the virtual raster that the source fills; None: all of it.
        nodata
            Value of the source's pixels that are skipped; None: none is.
        use_mask
            Skip the pixels that are invalid by the source's mask.
        block
            Rows and columns of the source's own blocks. If they are given, GDAL opens the source only when it is read.
        """
        self._combine()
        selective = nodata is not None or use_mask
        source = ET.SubElement(self._element, "ComplexSource" if selective else "SimpleSource")
        name = path if path.startswith("<") else gdal_name(path)
        ET.SubElement(source, "SourceFilename", relativeToVRT="0", shared="0").text = name
        ET.SubElement(source, "SourceBand").text = str(band)
        if place is not None:
            _add_place(source, place, block, self._element.get("dataType", "Byte"))
        if nodata is not None:
            ET.SubElement(source, "NODATA").text = _number(nodata)
        if use_mask:
            ET.SubElement(source, "UseMaskBand").text = "true"

    def _combine(self) -> None:
        self._sources += 1
        if self._function is not None and self._sources == 2:  # noqa: PLR2004 - GDAL refuses pixel functions of one source
            self._element.set("subClass", "VRTDerivedRasterBand")
            ET.SubElement(self._element, "PixelFunctionType").text = self._function


def _add_place(source: ET.Element, place: Window, block: tuple[int, int] | None, dtype: str) -> None:
    rows, cols = place.shape
    if block is not None:
        sides = {"RasterXSize": str(cols), "RasterYSize": str(rows)}
        blocks = {"BlockXSize": str(block[1]), "BlockYSize": str(block[0])}
        ET.SubElement(source, "SourceProperties", sides | {"DataType": dtype} | blocks)
    size = {"xSize": str(cols), "ySize": str(rows)}
    ET.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
    ET.SubElement(source, "DstRect", {"xOff": str(place.col_start), "yOff": str(place.row_start)} | size)


def _number(value: float) -> str:
    return "nan" if math.isnan(value) else repr(value)
