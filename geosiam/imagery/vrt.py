"""GDAL's virtual rasters as XML: other rasters' bands, put together without copying a pixel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET  # XML is written here, never parsed

from rasterio._path import _parse_path

if TYPE_CHECKING:
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


class VirtualRaster:
    """A virtual raster while it is put together.

    Parameters
    ----------
    grid
        Its size and place.
    placed
        Whether it says where it lies, which what is only a part of another one need not.
    """

    def __init__(self, grid: Grid, *, placed: bool = True) -> None:
        self._root = ET.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
        if placed:
            ET.SubElement(self._root, "SRS").text = grid.crs.to_wkt()
            ET.SubElement(self._root, "GeoTransform").text = ", ".join(map(repr, grid.transform.to_gdal()))

    def band(
        self, dtype: str, *, nodata: float | None = None, colour: str | None = None, function: str | None = None
    ) -> VirtualBand:
        """Add a band.

        Parameters
        ----------
        dtype
            NumPy's name of its type.
        nodata
            The value of pixels that are not known.
        colour
            Its colour interpretation, in rasterio's words.
        function
            What is done with several sources of the same pixel, ``min`` or ``max``; None: the last one counts.
        """
        return VirtualBand(ET.SubElement(self._root, "VRTRasterBand", dataType=_TYPES[dtype]), function, nodata, colour)

    def mask(self, function: str | None = None) -> VirtualBand:
        """Add the mask of all bands: 0 where a pixel is not known, 255 where it is."""
        return VirtualBand(
            ET.SubElement(ET.SubElement(self._root, "MaskBand"), "VRTRasterBand", dataType="Byte"), function
        )

    def xml(self) -> str:
        """Return the virtual raster as GDAL opens it in place of a file's name."""
        return ET.tostring(self._root, encoding="unicode")


class VirtualBand:
    """A band of a virtual raster, to which sources are added."""

    def __init__(
        self, element: ET.Element, function: str | None, nodata: float | None = None, colour: str | None = None
    ) -> None:
        self._element = element
        self._function = function
        self._sources = 0
        if nodata is not None:
            ET.SubElement(element, "NoDataValue").text = "nan" if math.isnan(nodata) else repr(nodata)
        if colour is not None:
            ET.SubElement(element, "ColorInterp").text = colour.capitalize()

    def add(self, path: str, band: int | str, place: Window | None = None) -> None:
        """Add a source of pixels.

        Parameters
        ----------
        path
            Whatever rasterio opens, the XML of another virtual raster included.
        band
            Number of its band, or ``mask,N`` for the mask of one.
        place
            Where it lies in the virtual raster, which it covers if None.
        """
        self._sources += 1
        if self._function is not None and self._sources == 2:  # noqa: PLR2004 - GDAL refuses the minimum of one
            self._element.set("subClass", "VRTDerivedRasterBand")
            ET.SubElement(self._element, "PixelFunctionType").text = self._function
        source = ET.SubElement(self._element, "SimpleSource")
        name = path if path.startswith("<") else _parse_path(path).as_vsi()
        ET.SubElement(source, "SourceFilename", relativeToVRT="0", shared="0").text = name
        ET.SubElement(source, "SourceBand").text = str(band)
        if place is not None:
            rows, cols = place.shape
            size = {"xSize": str(cols), "ySize": str(rows)}
            ET.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
            ET.SubElement(source, "DstRect", {"xOff": str(place.col_start), "yOff": str(place.row_start)} | size)
