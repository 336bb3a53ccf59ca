"""Heights as the user gets them: the columns of a run's polygons, and volumes inside polygons that are given."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyogrio
import rasterio.crs

from geosiam import __version__
from geosiam.errors import OptionError, SceneRefusedError
from geosiam.files import check_writable, file_and_layer, plain_path
from geosiam.heights.difference import HeightDifference, RimHeights, stable_outside
from geosiam.heights.surfaces import HeightOptions, open_surfaces
from geosiam.polygons.formats import FORMATS, check_target
from geosiam.polygons.results import read_polygons
from geosiam.polygons.schema import HEIGHT_COLUMNS, SHAPEFILE_NAMES
from geosiam.polygons.writer import as_output_error, staged
from geosiam.targets import refuse_overwriting, refuse_same

if TYPE_CHECKING:
    import os

    import geopandas

    from geosiam.heights.surfaces import SurfacePair
    from geosiam.imagery.open_scene import SceneLike

RASTER_SUFFIXES = (".tif", ".tiff")
_LAYER = "heights"
_SHORT = {name: SHAPEFILE_NAMES[name] for name in HEIGHT_COLUMNS if name in SHAPEFILE_NAMES}


@dataclass(frozen=True)
class HeightsResult:
    """What `measure_heights` wrote.

    Parameters
    ----------
    polygons_path
        The polygons with heights and volumes; None if none were given.
    dz_path
        The difference raster; None if none was requested.
    count
        Number of polygons.
    gain_m3, loss_m3
        Total of their volumes.
    heights
        The surface models, and how they were brought onto each other.
    warnings
        Warnings to the user.
    """

    polygons_path: Path | None
    dz_path: Path | None
    count: int
    gain_m3: float
    loss_m3: float
    heights: dict[str, Any]
    warnings: tuple[str, ...] = ()

    NAMES: ClassVar = {"polygons": "polygons_path", "dz": "dz_path"}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        paths = {name: str(path) for name, field in self.NAMES.items() if (path := getattr(self, field)) is not None}
        totals = {"count": self.count, "volume_gain_m3": self.gain_m3, "volume_loss_m3": self.loss_m3}
        return {**paths, **totals, "heights": self.heights, "warnings": list(self.warnings)}


def measure_heights(
    before: SceneLike,
    after: SceneLike | None,
    output: str | Path,
    *,
    polygons: str | os.PathLike[str] | None = None,
    dz: str | Path | None = None,
    options: HeightOptions = HeightOptions(),
    workers: int | None = None,
) -> HeightsResult:
    """Measure the difference of two surface models, and volumes inside polygons.

    Parameters
    ----------
    before, after
        Surface models of both dates, as :func:`~geosiam.heights.surfaces.open_surfaces` takes them. Without an after
        surface, heights are those of the one surface above planes through the rims of the polygons.
    output
        The polygons with the columns :data:`~geosiam.polygons.schema.HEIGHT_COLUMNS` to write, in the format of the
        suffix; without polygons, the difference raster (``.tif``).
    polygons
        Polygons to measure, any vector file (``FILE:LAYER`` names one of its layers); their own columns are kept. The
        ground outside of them counts as stable.
    dz
        Difference raster to write (GeoTIFF) in addition; None: none.
    options
        How the surfaces are read.
    workers
        Number of threads; None: one for each processor. The result does not depend on it.

    Raises
    ------
    InputError
        A surface, the polygons or an output cannot be used; existing outputs are left as they are.
    """
    target, raster = _outputs(output, dz, after, polygons)
    files = () if polygons is None else (file_and_layer(polygons)[0],)
    dsm = [before] if after is None else [before, after]
    refuse_overwriting([path for path in (target, raster) if path is not None], dsm, files)
    table = None if polygons is None else _read_outlines(polygons)
    with open_surfaces(dsm, options) as surfaces:
        heights = _heights(surfaces, table, workers)
        count, gain, loss = 0, 0.0, 0.0
        if table is not None and target is not None:
            measured = _measured(table, heights)
            count, gain, loss = (
                len(measured),
                *(float(np.nansum(measured[name])) for name in ("volume_gain_m3", "volume_loss_m3")),
            )
            _write(measured, target, heights.to_dict())
        if raster is not None:
            assert isinstance(heights, HeightDifference)
            heights.write(raster)
        return HeightsResult(target, raster, count, gain, loss, heights.to_dict(), heights.warnings)


def _outputs(
    output: str | Path, dz: str | Path | None, after: SceneLike | None, polygons: str | os.PathLike[str] | None
) -> tuple[Path | None, Path | None]:
    """Check the outputs, and return those of the polygons and of the raster."""
    path, is_raster = Path(output), Path(output).suffix.lower() in RASTER_SUFFIXES
    if polygons is None and after is None:
        raise OptionError(
            "one surface model alone", "has nothing to be compared with", "name a second one, or `polygons`"
        )
    if polygons is None and not is_raster:
        raise OptionError(
            path, "is no raster, and there are no polygons", "name a .tif, or the polygons with `polygons`"
        )
    if polygons is not None and path.suffix.lower() not in FORMATS:
        raise OptionError(path, f"has the suffix {path.suffix!r}", f"use one of {', '.join(FORMATS)} for the polygons")
    if dz is not None and after is None:
        raise OptionError(
            dz, "is a difference, for which there is one surface only", "name a second one, or leave `dz` out"
        )
    if polygons is None:
        if dz is not None:
            raise OptionError(dz, "is the difference raster, as is the output", "leave `dz` out")
        check_writable(path)
        return None, path
    check_target(path)
    if dz is not None:
        check_writable(dz)
        refuse_same({"polygons": path, "difference": Path(dz)})
    return path, None if dz is None else Path(dz)


def _heights(
    surfaces: SurfacePair, table: geopandas.GeoDataFrame | None, workers: int | None
) -> HeightDifference | RimHeights:
    if len(surfaces.surfaces) == 1:
        return RimHeights(surfaces)
    if table is None:
        return HeightDifference.coregistered(surfaces, lambda window: np.ones(window.shape, bool), workers=workers)
    outlines = np.asarray(table.geometry.to_numpy(), object)
    crs = rasterio.crs.CRS.from_wkt(table.crs.to_wkt())
    return HeightDifference.coregistered(surfaces, stable_outside(outlines, crs, surfaces.grid), workers=workers)


def _read_outlines(path: str | os.PathLike[str]) -> geopandas.GeoDataFrame:
    """Return the polygons to measure, at least one; see :func:`~geosiam.polygons.results.read_polygons`."""
    table = read_polygons(*file_and_layer(path))
    if table.empty:
        raise SceneRefusedError(path, "holds no polygons", "give the outlines to measure")
    return table


def _measured(table: geopandas.GeoDataFrame, heights: HeightDifference | RimHeights) -> geopandas.GeoDataFrame:
    """Return the polygons with the columns of their heights, in place of older ones."""
    outlines = np.asarray(table.geometry.to_numpy(), object)
    columns = heights.columns(outlines, crs=rasterio.crs.CRS.from_wkt(table.crs.to_wkt()))
    columns = {name: columns[name] for name in HEIGHT_COLUMNS if name in columns and name != "likely_geometry"}
    older = [name for name in (*HEIGHT_COLUMNS, "fid") if name in table.columns]
    return table.drop(columns=older).assign(**columns)


def _write(table: geopandas.GeoDataFrame, path: Path, heights: dict[str, Any]) -> None:
    """Write polygons with heights, and into a GeoPackage how they were measured."""
    suffix = path.suffix.lower()
    with staged(path) as partial, as_output_error(path), plain_path(partial) as plain:
        if suffix == ".parquet":
            table.to_parquet(plain)
        else:
            table = table.to_crs(4326) if suffix == ".geojson" else table
            table = table.rename(columns=_SHORT) if suffix == ".shp" else table
            options = {"dataset_options": {"VERSION": "1.2"}} if suffix == ".gpkg" else {}
            layer = _LAYER if suffix == ".gpkg" else path.stem
            pyogrio.write_dataframe(table, plain, driver=FORMATS[suffix], layer=layer, promote_to_multi=True, **options)
        if suffix == ".gpkg":
            _record(partial, heights)


def _record(path: Path, heights: dict[str, Any]) -> None:
    """Add the table ``runs`` and descriptions of the columns to a GeoPackage."""
    inputs = {role: heights[role] for role in ("before_dsm", "after_dsm") if role in heights}
    values = (
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
        json.dumps({role: info["name"] for role, info in inputs.items()}),
        json.dumps({role: info["fingerprint"] for role, info in inputs.items()}),
        json.dumps(heights, sort_keys=True),
    )
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(_TABLES)
        db.execute(
            "INSERT INTO runs (created, geosiam_version, inputs, fingerprints, provenance) VALUES (?, ?, ?, ?, ?)",
            values,
        )


_TABLES = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, created DATETIME, geosiam_version TEXT, inputs TEXT,
  fingerprints TEXT, provenance TEXT
);
INSERT INTO gpkg_contents (table_name, data_type, identifier, description) VALUES
  ('runs', 'attributes', 'runs', 'Provenance of the layer');
"""
