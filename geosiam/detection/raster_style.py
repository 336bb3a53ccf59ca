"""How QGIS draws the score raster: a style file beside it, which QGIS reads on load."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, tostring

# Score, colour, opacity (0 to 255): nothing to see where nothing is, and never so much that what changed in the scene
# below is hidden. Violet, because the polygons above are yellow to red.
STEPS = (
    (0.0, "#dadaeb", 0),
    (0.15, "#dadaeb", 0),
    (0.3, "#bcbddc", 60),
    (0.5, "#9e9ac8", 100),
    (0.7, "#807dba", 120),
    (0.9, "#6a51a3", 130),
    (1.0, "#3f007d", 140),
)


def raster_qml() -> str:
    """Return the style: transparent up to 0.15, then to dark violet at 1; cells without a score are transparent."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = SubElement(root, "pipe")
    # Cells are what is known: smoothing would invent scores between them, and edges around nodata.
    nearest = {"zoomedInResamplingMethod": "nearestNeighbour", "zoomedOutResamplingMethod": "nearestNeighbour"}
    SubElement(SubElement(pipe, "provider"), "resampling", {"enabled": "false", "maxOversampling": "2", **nearest})
    renderer = SubElement(
        pipe,
        "rasterrenderer",
        {
            "type": "singlebandpseudocolor",
            "band": "1",
            "opacity": "1",
            "alphaBand": "-1",
            "nodataColor": "",
            "classificationMin": "0",
            "classificationMax": "1",
        },
    )
    # Without its origin QGIS stretches the ramp from the least to the greatest score when the user touches the style.
    SubElement(SubElement(renderer, "minMaxOrigin"), "limits").text = "None"
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        {
            "colorRampType": "INTERPOLATED",
            "classificationMode": "1",
            "clip": "0",
            "minimumValue": "0",
            "maximumValue": "1",
            "labelPrecision": "2",
        },
    )
    shader.append(_ramp())
    for score, colour, alpha in STEPS:
        step = {"value": f"{score:g}", "label": f"{score:g}", "color": colour, "alpha": str(alpha)}
        SubElement(shader, "item", step)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + tostring(root, encoding="unicode")


def _ramp() -> Element:
    """Return the same colours as a ramp, which the legend and the style dialog of QGIS show."""
    colours = [",".join([*map(str, bytes.fromhex(colour[1:])), str(alpha)]) for _, colour, alpha in STEPS]
    between = zip(STEPS[1:-1], colours[1:-1], strict=True)
    values = {
        "color1": colours[0],
        "color2": colours[-1],
        "discrete": "0",
        "rampType": "gradient",
        "stops": ":".join(f"{score:g};{colour}" for (score, _, _), colour in between),
    }
    ramp = Element("colorramp", name="[source]", type="gradient")
    options = SubElement(ramp, "Option", type="Map")
    for name, value in values.items():
        SubElement(options, "Option", name=name, value=value, type="QString")
        SubElement(ramp, "prop", k=name, v=value)  # for QGIS before 3.26
    return ramp
