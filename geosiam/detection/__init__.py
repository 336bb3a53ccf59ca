"""Blocks in, score raster out."""
