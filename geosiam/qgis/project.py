"""Write a QGIS project: the scenes, scores and polygons of a run, on top of each other and styled."""

from __future__ import annotations

import contextlib
import sqlite3
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import tostring

import rasterio
from affine import Affine

from geosiam.errors import OptionError, OutputError
from geosiam.files import atomic_write_files, check_writable, plain_path
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.schema import COLUMNS, REVIEWS
from geosiam.qgis.layers import MapLayer, project_element, qml_style, relative_path, scene_layer
from geosiam.qml import DOCTYPE, difference_qml, polygon_qml, raster_qml
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    import os

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair_report import PairReport

SUFFIX = ".qgz"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: the same project is the same file


def check_project(path: str | os.PathLike[str]) -> None:
    """Refuse a path that a project cannot be written to, before any work is done.

    Raises
    ------
    OptionError
        Its suffix is not that of QGIS.
    OutputError
        Its folder does not exist, or its name is too long.
    """
    target = Path(path)
    if target.suffix.lower() != SUFFIX:
        raise OptionError(target, f"has the suffix {target.suffix!r}", f"name a QGIS project, which ends in {SUFFIX}")
    check_writable(target)


def write_project(
    path: str | os.PathLike[str],
    *,
    before: SceneLike,
    after: SceneLike,
    scores: Path,
    polygons: Path,
    threshold: float,
    report: PairReport,
    dz: Path | None = None,
) -> None:
    """Write a QGIS project of a run: polygons above heights above scores above the after scene above the before scene.

    Files are named relative to the project, so that a folder with all of them can be moved; remote data are named as
    they are. A scene of tiles gets a virtual raster beside the project, ``NAME.before.vrt`` or ``NAME.after.vrt``. A
    scene that is in memory only is left out, with a warning in the log.

    Parameters
    ----------
    path
        The ``.qgz`` to write. An existing one is replaced on success only.
    before, after
        The scenes.
    scores, polygons
        The score raster, and the file of polygons.
    threshold
        Anomaly probability that the polygons were cut at.
    report
        Report on the pair.
    dz
        The raster of the difference of heights; None: it is not in the project.

    Raises
    ------
    OutputError
        The project cannot be written.
    """
    target = Path(path)
    try:
        with atomic_write_files(target) as partial:
            cells = ScoreRaster.open(scores).grid
            layers = [
                *_polygon_layers(polygons, threshold, target.parent, cells),
                *([] if dz is None else [_difference_layer(dz, target.parent)]),
                _score_layer(scores, target.parent, cells),
            ]
            scenes = (
                scene_layer("after", after, report, target, partial.parent),
                scene_layer("before", before, report, target, partial.parent),
            )
            layers += [scene for scene in scenes if scene is not None]
            overlap = _overlap(scores, report.overlap)
            root = project_element(layers, f"geosiam: {polygons.stem}", overlap.crs.to_wkt(), overlap.bounds)
            _zip(partial, f"{target.stem}.qgs", DOCTYPE + tostring(root, encoding="unicode"))
    except OSError as error:
        fact = f"cannot be written ({error})"
        raise OutputError(target, fact, "check the folder's permissions and the free disk space") from error


def _zip(path: Path, name: str, text: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(name, _EPOCH)
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, text.encode(), zipfile.ZIP_DEFLATED)


def _polygon_layers(path: Path, threshold: float, folder: Path, cells: Grid) -> list[MapLayer]:
    """Return the layers of the file of polygons: those that have a style in a GeoPackage; the only one otherwise."""
    source = relative_path(path, folder)
    if path.suffix.lower() != ".gpkg":
        qml = polygon_qml(threshold, COLUMNS, REVIEWS)
        if path.suffix.lower() == ".parquet":  # which few builds of GDAL read
            system, style = cells.crs.to_wkt(), qml_style(qml)
            return [MapLayer(path.stem, source, "vector", system, cells.bounds, style, expanded=True, in_themes=True)]
        return [_polygon_layer(path, None, source, path.stem, qml)]
    with contextlib.closing(sqlite3.connect(path)) as db:
        styles = db.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault ORDER BY id").fetchall()
    return [_polygon_layer(path, layer, f"{source}|layername={layer}", layer, qml) for layer, qml in styles]


def _polygon_layer(path: Path, layer: str | None, source: str, name: str, qml: str) -> MapLayer:
    import pyogrio  # noqa: PLC0415 - slow to import, and most runs make no project

    with plain_path(path) as plain:
        info = pyogrio.read_info(plain, layer=layer, force_total_bounds=True)
    bounds = info["total_bounds"]
    extent = None if bounds is None else (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
    shown = MapLayer(name, source, "vector", info["crs"], extent, qml_style(qml), expanded=True, in_themes=True)
    return replace(shown, geometry="Point", in_themes=False) if info["geometry_type"] == "Point" else shown


def _score_layer(path: Path, folder: Path, cells: Grid) -> MapLayer:
    style = qml_style(raster_qml())
    return MapLayer("anomaly scores", relative_path(path, folder), "raster", cells.crs.to_wkt(), cells.bounds, style)


def _difference_layer(path: Path, folder: Path) -> MapLayer:
    with rasterio.open(path) as dataset:
        system, (left, bottom, right, top) = dataset.crs.to_wkt(), dataset.bounds
        detection = float(dataset.tags().get("GEOSIAM_DETECTION_95_M", "nan"))
    style, source = qml_style(difference_qml(detection)), relative_path(path, folder)
    return MapLayer("height difference", source, "raster", system, (left, bottom, right, top), style, in_themes=True)


def _overlap(scores: Path, overlap: tuple[int, int, int, int]) -> Grid:
    """Return the part of the score raster where the scenes overlap."""
    raster = ScoreRaster.open(scores)
    cells = Window(*overlap).coarsened(raster.stride)
    rows, cols = cells.shape
    inner = raster.grid.transform @ Affine.translation(cells.col_start, cells.row_start)
    return Grid(raster.grid.crs, inner, cols, rows)
