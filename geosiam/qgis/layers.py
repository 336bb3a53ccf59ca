"""What a project shows: a layer for each file, with where it lies and how it is drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, fromstring

import pyproj

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class MapLayer:
    """One layer of a project.

    Parameters
    ----------
    name
        What the legend calls it.
    source
        Where QGIS finds it: a path relative to the project, or what GDAL opens.
    kind
        ``raster`` or ``vector``.
    crs
        Its coordinate system, in any words that pyproj knows.
    bounds
        Its extent in that coordinate system; None where it has none.
    style
        The children of a QGIS style, such as ``pipe`` or ``renderer-v2``.
    date
        ``before`` or ``after`` for a scene.
    unfolded
        Whether the legend shows its classes from the start.
    theme
        Whether it is part of the map themes that show one of the dates.
    """

    name: str
    source: str
    kind: str
    crs: str
    bounds: Bounds | None
    style: tuple[Element, ...]
    date: str | None = None
    unfolded: bool = False
    theme: bool = False

    @property
    def id(self) -> str:
        """Return what the parts of the project call it."""
        return f"{self.kind}_{hashlib.sha256(f'{self.name} {self.source}'.encode()).hexdigest()[:16]}"

    @property
    def provider(self) -> str:
        """Return what of QGIS opens it."""
        return "gdal" if self.kind == "raster" else "ogr"

    def element(self) -> Element:
        """Return the layer as XML."""
        layer = Element("maplayer", type=self.kind)
        if self.kind == "vector":
            layer.set("geometry", "Polygon")
        if self.bounds is not None:
            layer.append(extent(self.bounds))
        SubElement(layer, "id").text = self.id
        SubElement(layer, "datasource").text = self.source
        SubElement(layer, "layername").text = self.name
        SubElement(layer, "srs").append(spatial_reference(self.crs))
        provider = SubElement(layer, "provider")
        provider.text = self.provider
        if self.kind == "vector":
            provider.set("encoding", "UTF-8")
        styles = SubElement(layer, "map-layer-style-manager", current="default")
        SubElement(styles, "map-layer-style", name="default")
        layer.extend(self.style)
        return layer


def of_qml(qml: str) -> tuple[Element, ...]:
    """Return the parts of a style that geosiam wrote as a file."""
    return tuple(fromstring(qml))  # noqa: S314 - we wrote it ourselves


def color_composite(
    bands: Sequence[int], low: Sequence[float], high: Sequence[float], alpha: int | None
) -> tuple[Element, ...]:
    """Return the style of a scene: its channels stretched as the network sees them.

    Parameters
    ----------
    bands
        1-based bands for red, green and blue; or one band, which is drawn gray.
    low, high
        The measured values of each of them that are drawn as 0 and 1.
    alpha
        1-based band that says how opaque a pixel is.
    """
    pipe = Element("pipe")
    common = {"opacity": "1", "alphaBand": str(-1 if alpha is None else alpha)}
    if len(set(bands)) == 1:
        chosen = {"type": "singlebandgray", "grayBand": str(bands[0]), "gradient": "BlackToWhite"}
        renderer = SubElement(pipe, "rasterrenderer", {**chosen, **common})
        renderer.append(_stretch("contrastEnhancement", low[0], high[0]))
        return (pipe,)
    colors = ("red", "green", "blue")
    channels = {f"{color}Band": str(band) for color, band in zip(colors, bands, strict=True)}
    renderer = SubElement(pipe, "rasterrenderer", {"type": "multibandcolor", **channels, **common})
    for color, lowest, highest in zip(colors, low, high, strict=True):
        renderer.append(_stretch(f"{color}ContrastEnhancement", lowest, highest))
    return (pipe,)


def palette(band: int, colors: dict[int, tuple[int, ...]]) -> tuple[Element, ...]:
    """Return the style of a scene whose values stand for colors (red, green, blue, alpha; 0 to 255)."""
    pipe = Element("pipe")
    chosen = {"type": "paletted", "band": str(band), "opacity": "1", "alphaBand": "-1"}
    entries = SubElement(SubElement(pipe, "rasterrenderer", chosen), "colorPalette")
    for value, (red, green, blue, alpha) in colors.items():
        color = f"#{red:02x}{green:02x}{blue:02x}"
        SubElement(entries, "paletteEntry", value=str(value), color=color, label=str(value), alpha=str(alpha))
    return (pipe,)


def _stretch(name: str, low: float, high: float) -> Element:
    element = Element(name)
    SubElement(element, "minValue").text = repr(low)
    SubElement(element, "maxValue").text = repr(high)
    SubElement(element, "algorithm").text = "StretchToMinimumMaximum"
    return element


VERSION = "3.22.0"

Bounds = tuple[float, float, float, float]
"""Left, bottom, right and top."""


def project(layers: Iterable[MapLayer], title: str, crs: str, view: Bounds) -> Element:
    """Return a whole project.

    Parameters
    ----------
    layers
        From top to bottom.
    title
        What QGIS shows in its title bar.
    crs
        The coordinate system of the map, in any words that pyproj knows.
    view
        What the map shows when it is opened, in that coordinate system.
    """
    layers = list(layers)
    root = Element("qgis", version=VERSION, projectname=title)
    SubElement(root, "title").text = title
    SubElement(root, "projectCrs").append(spatial_reference(crs))
    root.append(_tree(layers))
    root.append(_canvas(crs, view))
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
    whole.append(spatial_reference(crs))
    return root


def spatial_reference(crs: str) -> Element:
    """Return a coordinate system; QGIS finds the authority's code inside the WKT."""
    element = Element("spatialrefsys", nativeFormat="Wkt")
    SubElement(element, "wkt").text = pyproj.CRS.from_user_input(crs).to_wkt("WKT2_2019")
    return element


def extent(bounds: Bounds) -> Element:
    """Return an extent."""
    element = Element("extent")
    for side, value in zip(_SIDES, bounds, strict=True):
        SubElement(element, side).text = repr(value)
    return element


def options(values: Mapping[str, str]) -> Element:
    """Return QGIS's form of a dictionary of texts."""
    element = Element("Option", type="Map")
    for name, value in values.items():
        SubElement(element, "Option", name=name, value=value, type="QString")
    return element


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _tree(layers: list[MapLayer]) -> Element:
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
            expanded="1" if layer.unfolded else "0",
        )
    SubElement(tree, "custom-order", enabled="0")
    return tree


def _canvas(crs: str, view: Bounds) -> Element:
    canvas = Element("mapcanvas", name="theMapCanvas", annotationsVisible="1")
    SubElement(canvas, "units").text = "degrees" if pyproj.CRS.from_user_input(crs).is_geographic else "meters"
    canvas.append(extent(view))
    SubElement(canvas, "rotation").text = "0"
    SubElement(canvas, "destinationsrs").append(spatial_reference(crs))
    return canvas


def _properties() -> Element:
    properties = Element("properties")
    SubElement(SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    SubElement(SubElement(properties, "SpatialRefSys"), "ProjectionsEnabled", type="int").text = "1"
    return properties


def _themes(layers: list[MapLayer]) -> Element:
    """Return a map theme for each date: all that was found above that scene alone, to switch to and fro."""
    presets = Element("visibility-presets")
    scenes = [layer for layer in layers if layer.date is not None]
    for scene in scenes:
        theme = SubElement(presets, "visibility-preset", {"name": scene.date or "", "has-expanded-info": "0"})
        for layer in layers:
            if layer is scene or layer.theme:
                SubElement(theme, "layer", id=layer.id, visible="1", style="default")
    return presets
