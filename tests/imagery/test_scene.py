"""Opening scenes by name, and what GDAL is told meanwhile."""

import rasterio
from rasterio.env import get_gdal_config

from geosiam.imagery.scene import ENVIRONMENT


def test_the_block_cache_is_counted_in_bytes() -> None:
    # GDAL's option of the same name takes 256 for megabytes; here that would be no cache at all.
    with rasterio.Env(**ENVIRONMENT):
        assert 64e6 <= get_gdal_config("GDAL_CACHEMAX") <= 1e9
