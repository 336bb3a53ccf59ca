"""Tile indexes, which GDAL's driver GTI reads as one raster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas
import rasterio
import shapely

if TYPE_CHECKING:
    from pathlib import Path


def tile_index(*tiles: Path, relative: bool = False, column: str = "location") -> Path:
    """Write a tile index beside the first of its tiles."""
    boxes = []
    for tile in tiles:
        with rasterio.open(tile) as file:
            boxes.append(shapely.box(*file.bounds))
            crs = file.crs
    names = [tile.name if relative else str(tile) for tile in tiles]
    path = tiles[0].with_name("tiles.gti.gpkg")
    geopandas.GeoDataFrame({column: names}, geometry=boxes, crs=crs).to_file(path, layer="index")
    return path


def xml_index(*tiles: Path) -> Path:
    """Write a tile index whose settings are a file of their own."""
    path = tile_index(*tiles, column="file")
    settings = "<GDALTileIndexDataset><IndexDataset>{}</IndexDataset><IndexLayer>index</IndexLayer>{}"
    text = settings.format(path, "<LocationField>file</LocationField></GDALTileIndexDataset>")
    path.with_name("tiles.gti").write_text(text)
    return path.with_name("tiles.gti")
