"""The score raster: written block by block, so that a run can resume; read in strips; and its threshold."""
