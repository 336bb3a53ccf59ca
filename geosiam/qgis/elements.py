"""The parts of a QGIS project as XML, in the words of QGIS 3.22, which newer versions read as well."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

import pyproj

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from geosiam.qgis.layers import MapLayer

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
