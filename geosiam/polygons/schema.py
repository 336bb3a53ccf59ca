"""The columns of the tables of polygons, of the footprint and of the displacement: names, types and meanings."""

from __future__ import annotations

import pyarrow as pa

COLUMNS = {
    "id": "Number of the polygon, from 1, in the raster order of its last cell",
    "score_mean": "Mean anomaly probability of its cells, 0 to 1",
    "score_max": "Highest anomaly probability of its cells, 0 to 1",
    "score_p90": "Anomaly probability that 90 % of its cells do not exceed, 0 to 1",
    "area_m2": "Area of the outline on the ground in square meters",
    "area_px": "Area of its cells in pixels of the before scene",
    "perimeter_m": "Length of the outline on the ground in meters, holes included",
    "cells": "Number of cells of the score raster",
    "centroid_lon": "Longitude of its center of mass (WGS 84); empty if the CRS has no place on Earth",
    "centroid_lat": "Latitude of its center of mass (WGS 84)",
    "valid_fraction": "Fraction of its own and adjacent cells that have a score; 1 = no nodata nearby",
    "touches_nodata": "Whether a cell without a score shares a side or a corner with it",
    "shift_px": "Misregistration left around it, or of the whole pair if only that is known, in pixels of the before "
    "scene; empty if not estimated",
    "shift_fraction": "Fraction of the difference of the two scenes in it that a shift of one by up to 3 px explains: "
    "near 1, an edge out of place; near 0, a change; empty without the scenes",
    "shadow_fraction": "Fraction of its pixels that are darker in the after scene with the same hue, like a shadow; "
    "empty without the scenes or without color",
    "hint": "appeared or vanished: the scene in which something stands out from its surroundings; empty if undecided",
    "before": "File name of the before scene",
    "after": "File name of the after scene",
    "created": "When the scores were computed, ISO 8601, UTC",
    "review": "Verdict of the analyst: confirmed, rejected or unsure; empty if not reviewed",
}
HEIGHT_COLUMNS = {
    "dz_mean": "Mean height of the after surface above the before surface inside the outline, in meters",
    "dz_median": "Median of these heights, in meters",
    "dz_min": "Lowest of them, in meters",
    "dz_max": "Highest of them, in meters",
    "volume_gain_m3": "Volume that was added inside the outline, in cubic meters",
    "volume_loss_m3": "Volume that was taken away, in cubic meters",
    "volume_sigma_m3": "Standard error of gain less loss, with errors that are correlated over the ground, in cubic "
    "meters; empty if unknown",
    "height_fraction": "Fraction of the outline with heights on both dates, 0 to 1",
    "height_evidence": "raised, lowered, level, or unknown: what the heights say of the polygon as a whole",
    "likely_geometry": "Whether it is level and more likely a leaning roof or crown than a change; empty if unknown",
}
"""Columns that polygons have in addition if surface models were given, also in the results of `measure_heights`."""
FOOTPRINT_COLUMNS = {
    "before": "File name of the before scene",
    "after": "File name of the after scene",
    "created": "When the scores were computed, ISO 8601, UTC",
    "looked_at_m2": "Area of the scored cells in square meters, on the grid of this outline",
    "accuracy_px": "Side of the squares that the outline is made of, in pixels of the before scene",
}
DISPLACEMENT_COLUMNS = {
    "dx_px": "How far the content of the after scene lies too far right, in pixels of the before scene",
    "dy_px": "How far it lies too far down, in pixels of the before scene",
    "length_px": "Distance that it lies apart, in pixels of the before scene",
    "confidence": "Share of the ground around the point that was matched and agrees, 0 to 1",
}
GEOMETRY = "geometry"
SHAPEFILE_NAMES = {  # ten letters at most
    "perimeter_m": "perim_m",
    "centroid_lon": "lon",
    "centroid_lat": "lat",
    "valid_fraction": "valid_frac",
    "touches_nodata": "touches_nd",
    "shift_fraction": "shift_frac",
    "shadow_fraction": "shadow",
    "volume_gain_m3": "gain_m3",
    "volume_loss_m3": "loss_m3",
    "volume_sigma_m3": "sigma_m3",
    "height_fraction": "height_fr",
    "height_evidence": "height_ev",
    "likely_geometry": "likely_geo",
}
HINTS = ("appeared", "vanished")
REVIEWS = ("confirmed", "rejected", "unsure")

_TYPES = {
    **dict.fromkeys(("touches_nodata", "likely_geometry"), pa.bool_()),
    **dict.fromkeys(("id", "cells", "accuracy_px"), pa.int64()),
    **dict.fromkeys(("hint", "height_evidence", "before", "after", "created", "review"), pa.string()),
}


def _schema(columns: dict[str, str]) -> pa.Schema:
    fields = ((name, _TYPES.get(name, pa.float64())) for name in columns)
    return pa.schema([*fields, (GEOMETRY, pa.large_binary())])


SCHEMA = _schema(COLUMNS)
"""Columns of the table of polygons with their types; geometries are well-known binary."""

HEIGHT_SCHEMA = _schema({**COLUMNS, **HEIGHT_COLUMNS})
"""The same with the columns of the heights."""

FOOTPRINT_SCHEMA = _schema(FOOTPRINT_COLUMNS)
"""Columns of the footprint with their types, likewise."""

DISPLACEMENT_SCHEMA = _schema(DISPLACEMENT_COLUMNS)
"""Columns of the displacement with their types, likewise."""
