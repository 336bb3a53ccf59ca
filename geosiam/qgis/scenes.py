"""Show the scenes of a pair as map layers, drawn as the network sees them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree.ElementTree import fromstring, tostring

from rasterio.enums import ColorInterp

from geosiam.errors import redacted
from geosiam.files import exists, file_name
from geosiam.imagery.normalization import Unit
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import checked_grid
from geosiam.imagery.vrt import gdal_name
from geosiam.qgis.layers import MapLayer, color_style, palette_style

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

    from rasterio.io import DatasetReader

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair_report import PairReport

_log = logging.getLogger(__name__)


def scene_layer(
    date: Literal["before", "after"], scene: SceneLike, report: PairReport, project: Path, folder: Path
) -> MapLayer | None:
    """Return the layer of a scene.

    Parameters
    ----------
    date
        Which of the two scenes it is.
    scene
        The scene.
    report
        Report on the pair.
    project
        The project that will show the layer; it names files relative to itself.
    folder
        Folder for the virtual raster of a scene of tiles, which later moves beside the project.

    Returns
    -------
    The layer; None for a scene that is in memory only, for which a warning is logged
    """
    source = open_scene(scene)
    try:
        dataset, grid = source.handle(), checked_grid(source)
        path = gdal_name(source.path)
        if path.startswith("/vsimem/"):
            _log.warning("%s is not in the QGIS project, because it exists in memory only", source.name)
            return None
        if source.tiles:
            virtual = virtual_name(project, date)
            (folder / virtual).write_text(_with_relative_tiles(source.path, project.parent), encoding="utf-8")
            path = f"./{virtual}"
        else:
            path = relative_path(path, project.parent)
        if redacted(path) != path:
            path = redacted(path)
            message = "%s is in the QGIS project without its password or signature: name it again in QGIS"
            _log.warning(message, source.name)
        name = f"{date} ({file_name(source.name)})"
        bands = report.before_bands if date == "before" else report.after_bands
        style = _style(dataset, bands["indexes"], report.scaling[date])
        return MapLayer(name, path, "raster", grid.crs.to_wkt(), grid.bounds, style, date=date)
    finally:
        source.close()


def virtual_name(project: Path, date: str) -> str:
    """Return the name of the virtual raster beside a project that shows a scene of tiles."""
    return f"{project.stem}.{date}.vrt"


def relative_path(path: str | os.PathLike[str], folder: Path) -> str:
    """Return the path of a file relative to a folder, as QGIS writes it; other sources are returned unchanged."""
    if not exists(path):
        return os.fspath(path)
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return Path(path).absolute().as_posix()
    return relative if relative.startswith("../") else f"./{relative}"


def _with_relative_tiles(virtual: str, folder: Path) -> str:
    """Return a virtual raster with the paths of its tiles relative to its own folder."""
    root: Element = fromstring(virtual)  # noqa: S314 - we wrote it ourselves
    for name in root.iter("SourceFilename"):
        if name.text is not None and exists(name.text):
            path = relative_path(name.text, folder)
            name.text = path.removeprefix("./")
            name.set("relativeToVRT", "0" if Path(path).is_absolute() else "1")
    return tostring(root, encoding="unicode")


def _style(dataset: DatasetReader, bands: list[int], scaling: Mapping[str, list[float]]) -> tuple[Element, ...]:
    """Return the style of a scene: by its palette, or stretched as for the network."""
    index = bands[0] - 1
    if dataset.colorinterp[index] == ColorInterp.palette:
        return palette_style(bands[0], dataset.colormap(bands[0]))
    # The network's stretch is of stored values, QGIS draws measured ones.
    unit = Unit.of([dataset.scales[band - 1] for band in bands], [dataset.offsets[band - 1] for band in bands])
    low, high = (
        [value * scale + offset for value, scale, offset in zip(scaling[end], unit.scale, unit.offset, strict=True)]
        for end in ("low", "high")
    )
    alphas = [band for band, kind in enumerate(dataset.colorinterp, 1) if kind == ColorInterp.alpha]
    return color_style(bands, low, high, alphas[0] if alphas else None)
