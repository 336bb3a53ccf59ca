"""The project as a file: scenes, scores and polygons of a run, on top of each other and styled."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import tostring

from affine import Affine

from geosiam.errors import OptionError, OutputError
from geosiam.files import check_writable
from geosiam.imagery.grid import Grid, Window
from geosiam.polygons.schema import COLUMNS, REVIEWS
from geosiam.qgis import layers as elements
from geosiam.qgis.layers import MapLayer, of_qml
from geosiam.qgis.scenes import relative, scene_layer
from geosiam.qml import polygon_qml, raster_qml
from geosiam.scores.raster import ScoreRaster

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from geosiam.imagery.open_scene import SceneLike

SUFFIX = ".qgz"
_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: the same project is the same file


def check_project(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no project can be written to, before any work is done.

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
    report: Mapping[str, Any],
) -> None:
    """Write a QGIS project that shows a run: polygons above scores above the after-scene above the before-scene.

    Files are named relative to the project, so a folder with all of them can be moved; what GDAL opens elsewhere is
    named as it is. A scene of tiles gets a virtual raster beside the project, ``NAME.before.vrt`` or
    ``NAME.after.vrt``. A scene that lives in memory only is left out, which is logged as a warning.

    Parameters
    ----------
    path
        The ``.qgz`` to write. An existing one is replaced on success only.
    before, after
        The scenes.
    scores, polygons
        What was found.
    threshold
        Least score of a polygon.
    report
        Facts of the pair, as :meth:`geosiam.imagery.pair_report.PairReport.to_dict` gives them.

    Raises
    ------
    OutputError
        The project cannot be written.
    """
    target = Path(path)
    made = Path()
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        layers = [*_polygon_layers(polygons, threshold, target.parent), _score_layer(scores, target.parent)]
        for date, scene in (("after", after), ("before", before)):
            layer = scene_layer(date, scene, report, target, made)
            layers += [] if layer is None else [layer]
        seen = _overlap(scores, report["overlap"])
        root = elements.project(layers, f"geosiam: {polygons.stem}", seen.crs.to_wkt(), seen.bounds)
        _zip(made / target.name, f"{target.stem}.qgs", _DOCTYPE + tostring(root, encoding="unicode"))
        for file in sorted(made.iterdir(), key=lambda file: file.name == target.name):  # the project goes last
            file.replace(target.with_name(file.name))
    except OSError as error:
        fact = f"cannot be written ({error})"
        raise OutputError(target, fact, "check the folder's permissions and the free disk space") from error
    finally:
        if made.name:
            shutil.rmtree(made, ignore_errors=True)


def _zip(path: Path, name: str, text: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(name, _EPOCH)
        entry.external_attr = 0o644 << 16
        archive.writestr(entry, text.encode(), zipfile.ZIP_DEFLATED)


def _polygon_layers(path: Path, threshold: float, folder: Path) -> list[MapLayer]:
    """Return the layers of the polygons' file: those that a GeoPackage has a style for; the only one of others."""
    source = relative(path, folder)
    if path.suffix.lower() != ".gpkg":
        return [_polygon_layer(path, None, source, path.stem, polygon_qml(threshold, COLUMNS, REVIEWS))]
    with contextlib.closing(sqlite3.connect(path)) as db:
        styles = db.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault ORDER BY id").fetchall()
    return [_polygon_layer(path, layer, f"{source}|layername={layer}", layer, qml) for layer, qml in styles]


def _polygon_layer(path: Path, layer: str | None, source: str, name: str, qml: str) -> MapLayer:
    import pyogrio  # noqa: PLC0415 - slow to import, and most runs make no project

    facts = pyogrio.read_info(path, layer=layer, force_total_bounds=True)
    bounds = facts["total_bounds"]
    extent = None if bounds is None else (float(bounds[0]), float(bounds[1]), float(bounds[2]), float(bounds[3]))
    return MapLayer(name, source, "vector", facts["crs"], extent, of_qml(qml), unfolded=True, theme=True)


def _score_layer(path: Path, folder: Path) -> MapLayer:
    cells = ScoreRaster.open(path).grid
    style = of_qml(raster_qml())
    return MapLayer("anomaly scores", relative(path, folder), "raster", cells.crs.to_wkt(), cells.bounds, style)


def _overlap(scores: Path, overlap: tuple[int, int, int, int]) -> Grid:
    """Return the part of the score raster where the scenes overlap."""
    raster = ScoreRaster.open(scores)
    cells = Window(*overlap).coarsened(raster.stride)
    rows, cols = cells.shape
    inner = raster.grid.transform @ Affine.translation(cells.col_start, cells.row_start)
    return Grid(raster.grid.crs, inner, cols, rows)
