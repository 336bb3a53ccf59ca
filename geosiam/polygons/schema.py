"""The columns of the table of polygons: names, types and what they mean."""

from __future__ import annotations

import pyarrow as pa

COLUMNS = {
    "id": "Number of the polygon, from 1, in the raster order of its last cell",
    "score_mean": "Mean anomaly probability of its cells, 0 to 1",
    "score_max": "Highest anomaly probability of its cells, 0 to 1",
    "score_p90": "Anomaly probability that 90 % of its cells do not exceed, 0 to 1",
    "area_m2": "Area on the ground in square metres, that of the outline",
    "area_px": "Area of its cells in pixels of the before-scene",
    "perimeter_m": "Length of the outline on the ground in metres, holes included",
    "cells": "Number of cells of the score raster",
    "centroid_lon": "Longitude of its center of mass (WGS 84); empty where the scene is not on earth or nowhere known",
    "centroid_lat": "Latitude of its center of mass (WGS 84)",
    "valid_fraction": "Share of scored cells among its own and those that touch it; 1 = all around it is known",
    "touches_nodata": "Whether a cell that could not be scored shares a side or a corner with it",
    "shift_px": "Misregistration left between the two scenes, in pixels of the before-scene; empty if not estimated",
    "shadow_fraction": "Share of its pixels that are darker in the after-scene and of the same hue, as a shadow makes "
    "them; empty without the scenes or without color",
    "hint": "appeared or vanished: which scene shows something here that stands out from its surroundings; empty where "
    "that cannot be told",
    "before": "File name of the before-scene",
    "after": "File name of the after-scene",
    "created": "When the scores were computed, ISO 8601, UTC",
    "review": "For the analyst: unreviewed (empty), confirmed, rejected or unsure",
}
GEOMETRY = "geometry"
SHAPEFILE_NAMES = {  # ten letters at most
    "perimeter_m": "perim_m",
    "centroid_lon": "lon",
    "centroid_lat": "lat",
    "valid_fraction": "valid_frac",
    "touches_nodata": "touches_nd",
    "shadow_fraction": "shadow",
}
HINTS = ("appeared", "vanished")
REVIEWS = ("confirmed", "rejected", "unsure")

_INTEGERS = {"id", "cells"}
_TEXTS = {"hint", "before", "after", "created", "review"}


def _type(name: str) -> pa.DataType:
    if name in _TEXTS:
        return pa.string()
    if name == "touches_nodata":
        return pa.bool_()
    return pa.int64() if name in _INTEGERS else pa.float64()


SCHEMA = pa.schema([*((name, _type(name)) for name in COLUMNS), (GEOMETRY, pa.binary())])
"""Of the pieces of the table; geometries are well-known binary."""
