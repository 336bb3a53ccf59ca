"""The scenes of a pair as layers, drawn as the network sees them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import fromstring, tostring

from rasterio._path import _parse_path
from rasterio.enums import ColorInterp

from geosiam.files import exists
from geosiam.imagery.normalization import Unit
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import checked_grid
from geosiam.qgis.layers import MapLayer, color_composite, palette

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

    from rasterio.io import DatasetReader

    from geosiam.imagery.open_scene import SceneLike

_log = logging.getLogger(__name__)


def scene_layer(date: str, scene: SceneLike, report: Mapping[str, Any], project: Path, made: Path) -> MapLayer | None:
    """Return the layer of a scene.

    Parameters
    ----------
    date
        ``before`` or ``after``.
    scene
        The scene.
    report
        Facts of the pair, as :meth:`geosiam.imagery.pair_report.PairReport.to_dict` gives them.
    project
        The project that will show it, which names files relative to itself.
    made
        The folder in which the virtual raster of a scene of tiles is made, which later moves beside the project.

    Returns
    -------
    The layer; None for a scene that lives in memory only, which is logged.
    """
    source = open_scene(scene)
    try:
        dataset, grid = source.handle(), checked_grid(source)
        opened = str(_parse_path(source.path).as_vsi()) if not source.path.startswith("<") else source.path
        if opened.startswith("/vsimem/"):
            _log.warning("%s is not in the QGIS project: it lives in memory only", source.name)
            return None
        if source.tiles:
            virtual = f"{project.stem}.{date}.vrt"
            (made / virtual).write_text(_near_its_tiles(source.path, project.parent), encoding="utf-8")
            opened = f"./{virtual}"
        else:
            opened = relative(opened, project.parent)
        name = f"{date} ({Path(source.name.split('?')[0]).name})"
        style = _style(dataset, report[f"{date}_bands"]["indexes"], report["scaling"][date])
        return MapLayer(name, opened, "raster", grid.crs.to_wkt(), grid.bounds, style, date=date)
    finally:
        source.close()


def relative(path: str | os.PathLike[str], folder: Path) -> str:
    """Return how a project in a folder calls a file, which is as QGIS itself does it; what is no file, as it is."""
    if not exists(path):
        return os.fspath(path)
    try:
        near = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        return Path(path).absolute().as_posix()
    return near if near.startswith("../") else f"./{near}"


def _near_its_tiles(virtual: str, folder: Path) -> str:
    """Return a virtual raster that names its tiles relative to its own folder."""
    root: Element = fromstring(virtual)  # noqa: S314 - we wrote it ourselves
    for name in root.iter("SourceFilename"):
        if name.text is not None and exists(name.text):
            near = relative(name.text, folder)
            name.text = near.removeprefix("./")
            name.set("relativeToVRT", "0" if Path(near).is_absolute() else "1")
    return tostring(root, encoding="unicode")


def _style(dataset: DatasetReader, bands: list[int], scaling: Mapping[str, list[float]]) -> tuple[Element, ...]:
    index = bands[0] - 1
    if dataset.colorinterp[index] == ColorInterp.palette:
        return palette(bands[0], dataset.colormap(bands[0]))
    # The network's stretch is of stored values, QGIS draws measured ones.
    unit = Unit.of([dataset.scales[band - 1] for band in bands], [dataset.offsets[band - 1] for band in bands])
    low, high = (
        [value * scale + offset for value, scale, offset in zip(scaling[end], unit.scale, unit.offset, strict=True)]
        for end in ("low", "high")
    )
    alphas = [band for band, kind in enumerate(dataset.colorinterp, 1) if kind == ColorInterp.alpha]
    return color_composite(bands, low, high, alphas[0] if alphas else None)
