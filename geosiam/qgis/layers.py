"""Build the XML of a QGIS project: map layers with their styles, also of scenes; layer tree, view and map themes."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

import pyproj
from rasterio.enums import ColorInterp

from geosiam.errors import redacted
from geosiam.files import exists, file_name
from geosiam.imagery.normalization import Unit
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import checked_grid
from geosiam.imagery.vrt import gdal_name
from geosiam.qml import QGIS_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rasterio.io import DatasetReader

    from geosiam.imagery.open_scene import SceneLike
    from geosiam.imagery.pair_report import PairReport

Bounds = tuple[float, float, float, float]
"""Left, bottom, right and top."""

_log = logging.getLogger(__name__)
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class MapLayer:
    """One layer of a project.

    Parameters
    ----------
    name
        Name in the legend.
    source
        Data source of QGIS: a path relative to the project, or whatever GDAL opens.
    kind
        ``raster`` or ``vector``.
    crs
        Coordinate system, in any form that pyproj reads.
    bounds
        Extent in that coordinate system; None if there is none.
    style
        Children of a QGIS style, such as ``pipe`` or ``renderer-v2``.
    date
        ``before`` or ``after`` for a scene.
    expanded
        Whether the legend shows its classes from the start.
    in_themes
        Whether it is part of the map themes, each of which shows one of the scenes.
    geometry
        QGIS's name of the kind of geometry of a vector layer.
    """

    name: str
    source: str
    kind: str
    crs: str
    bounds: Bounds | None
    style: tuple[Element, ...]
    date: str | None = None
    expanded: bool = False
    in_themes: bool = False
    geometry: str = "Polygon"

    @property
    def id(self) -> str:
        """Identifier inside the project."""
        return f"{self.kind}_{hashlib.sha256(f'{self.name} {self.source}'.encode()).hexdigest()[:16]}"

    @property
    def provider(self) -> str:
        """Data provider of QGIS."""
        return "gdal" if self.kind == "raster" else "ogr"

    def element(self) -> Element:
        """Return the layer as XML."""
        layer = Element("maplayer", type=self.kind)
        if self.kind == "vector":
            layer.set("geometry", self.geometry)
        if self.bounds is not None:
            layer.append(_extent(self.bounds))
        SubElement(layer, "id").text = self.id
        SubElement(layer, "datasource").text = self.source
        SubElement(layer, "layername").text = self.name
        SubElement(layer, "srs").append(_spatial_reference(self.crs))
        provider = SubElement(layer, "provider")
        provider.text = self.provider
        if self.kind == "vector":
            provider.set("encoding", "UTF-8")
        styles = SubElement(layer, "map-layer-style-manager", current="default")
        SubElement(styles, "map-layer-style", name="default")
        layer.extend(self.style)
        return layer


def project_element(layers: Iterable[MapLayer], title: str, crs: str, view: Bounds) -> Element:
    """Return a project as XML.

    Parameters
    ----------
    layers
        Layers from top to bottom.
    title
        Title of the QGIS window.
    crs
        Coordinate system of the map, in any form that pyproj reads.
    view
        Extent of the map when the project is opened, in that coordinate system.
    """
    layers = list(layers)
    root = Element("qgis", version=QGIS_VERSION, projectname=title)
    SubElement(root, "title").text = title
    SubElement(root, "projectCrs").append(_spatial_reference(crs))
    root.append(_layer_tree(layers))
    root.append(_map_canvas(crs, view))
    parts = SubElement(root, "projectlayers")
    for layer in layers:
        parts.append(layer.element())
    order = SubElement(root, "layerorder")
    for layer in layers:
        SubElement(order, "layer", id=layer.id)
    root.append(_properties())
    root.append(_themes(layers))
    settings = SubElement(root, "ProjectViewSettings", UseProjectScales="0", rotation="0")
    SubElement(settings, "Scales")
    whole = SubElement(settings, "DefaultViewExtent", dict(zip(_SIDES, map(repr, view), strict=True)))
    whole.append(_spatial_reference(crs))
    return root


def qml_style(qml: str) -> tuple[Element, ...]:
    """Return the style in a QML document of :mod:`geosiam.qml`."""
    return tuple(fromstring(qml))  # noqa: S314 - we wrote it ourselves


def color_style(
    bands: Sequence[int], low: Sequence[float], high: Sequence[float], alpha: int | None
) -> tuple[Element, ...]:
    """Return the style of a scene whose channels are stretched as for the network.

    Parameters
    ----------
    bands
        1-based bands for red, green and blue; a single band, or three times the same, is drawn gray.
    low, high
        Measured values of each of them that are drawn as 0 and 1.
    alpha
        1-based band of the opacity.
    """
    pipe = Element("pipe")
    common = {"opacity": "1", "alphaBand": str(-1 if alpha is None else alpha)}
    if len(set(bands)) == 1:
        attributes = {"type": "singlebandgray", "grayBand": str(bands[0]), "gradient": "BlackToWhite"}
        renderer = SubElement(pipe, "rasterrenderer", {**attributes, **common})
        renderer.append(_contrast("contrastEnhancement", low[0], high[0]))
        return (pipe,)
    colors = ("red", "green", "blue")
    channels = {f"{color}Band": str(band) for color, band in zip(colors, bands, strict=True)}
    renderer = SubElement(pipe, "rasterrenderer", {"type": "multibandcolor", **channels, **common})
    for color, lowest, highest in zip(colors, low, high, strict=True):
        renderer.append(_contrast(f"{color}ContrastEnhancement", lowest, highest))
    return (pipe,)


def palette_style(band: int, colors: dict[int, tuple[int, ...]]) -> tuple[Element, ...]:
    """Return the style of a scene whose values stand for colors (red, green, blue, alpha; 0 to 255)."""
    pipe = Element("pipe")
    attributes = {"type": "paletted", "band": str(band), "opacity": "1", "alphaBand": "-1"}
    entries = SubElement(SubElement(pipe, "rasterrenderer", attributes), "colorPalette")
    for value, (red, green, blue, alpha) in colors.items():
        color = f"#{red:02x}{green:02x}{blue:02x}"
        SubElement(entries, "paletteEntry", value=str(value), color=color, label=str(value), alpha=str(alpha))
    return (pipe,)


def _contrast(name: str, low: float, high: float) -> Element:
    element = Element(name)
    SubElement(element, "minValue").text = repr(low)
    SubElement(element, "maxValue").text = repr(high)
    SubElement(element, "algorithm").text = "StretchToMinimumMaximum"
    return element


def _spatial_reference(crs: str) -> Element:
    """Return a coordinate system as XML; QGIS finds the authority's code in the WKT."""
    element = Element("spatialrefsys", nativeFormat="Wkt")
    SubElement(element, "wkt").text = pyproj.CRS.from_user_input(crs).to_wkt("WKT2_2019")
    return element


def _extent(bounds: Bounds) -> Element:
    element = Element("extent")
    for side, value in zip(_SIDES, bounds, strict=True):
        SubElement(element, side).text = repr(value)
    return element


def _layer_tree(layers: list[MapLayer]) -> Element:
    tree = Element("layer-tree-group")
    for layer in layers:
        SubElement(
            tree,
            "layer-tree-layer",
            id=layer.id,
            name=layer.name,
            source=layer.source,
            providerKey=layer.provider,
            checked="Qt::Checked",
            expanded="1" if layer.expanded else "0",
        )
    SubElement(tree, "custom-order", enabled="0")
    return tree


def _map_canvas(crs: str, view: Bounds) -> Element:
    canvas = Element("mapcanvas", name="theMapCanvas", annotationsVisible="1")
    SubElement(canvas, "units").text = "degrees" if pyproj.CRS.from_user_input(crs).is_geographic else "meters"
    canvas.append(_extent(view))
    SubElement(canvas, "rotation").text = "0"
    SubElement(canvas, "destinationsrs").append(_spatial_reference(crs))
    return canvas


def _properties() -> Element:
    properties = Element("properties")
    SubElement(SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    SubElement(SubElement(properties, "SpatialRefSys"), "ProjectionsEnabled", type="int").text = "1"
    return properties


def _themes(layers: list[MapLayer]) -> Element:
    """Return a map theme for each scene, with the results on top, to switch between the two dates."""
    presets = Element("visibility-presets")
    scenes = [layer for layer in layers if layer.date is not None]
    for scene in scenes:
        theme = SubElement(presets, "visibility-preset", {"name": scene.date or "", "has-expanded-info": "0"})
        for layer in layers:
            if layer is scene or layer.in_themes:
                SubElement(theme, "layer", id=layer.id, visible="1", style="default")
    return presets


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
