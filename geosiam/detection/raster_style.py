"""How QGIS draws the score raster: a style file beside it, which QGIS reads on load."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

# Score, colour, opacity (0 to 255): nothing to see where nothing is, so that the scene below shows through. Violet,
# because the polygons above are yellow to red.
STEPS = (
    (0.0, "#dadaeb", 0),
    (0.25, "#bcbddc", 60),
    (0.5, "#9e9ac8", 150),
    (0.7, "#807dba", 200),
    (0.9, "#6a51a3", 230),
    (1.0, "#3f007d", 255),
)


def raster_qml() -> str:
    """Return the style: transparent at 0 to dark violet at 1."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = SubElement(
        SubElement(root, "pipe"),
        "rasterrenderer",
        {
            "type": "singlebandpseudocolor",
            "band": "1",
            "opacity": "1",
            "alphaBand": "-1",
            "classificationMin": "0",
            "classificationMax": "1",
        },
    )
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        {
            "colorRampType": "INTERPOLATED",
            "classificationMode": "1",
            "clip": "0",
            "minimumValue": "0",
            "maximumValue": "1",
        },
    )
    for score, colour, alpha in STEPS:
        step = {"value": f"{score:g}", "label": f"{score:g}", "color": colour, "alpha": str(alpha)}
        SubElement(shader, "item", step)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + tostring(root, encoding="unicode")
