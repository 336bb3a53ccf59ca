"""How QGIS and other GIS draw the polygons: styles as XML, kept inside the GeoPackage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLORS = ("#ffe14d", "#ffb000", "#ff6a00", "#e8112d", "#8e0152")  # weak to strong, lightness falling all the way
FIELD, AREA = "score_mean", "area_m2"
FOOTPRINT_COLOR = "#2b7bba"
_CATEGORIES = "Symbology"
_FEATURE_ID = "fid"  # the GeoPackage's own number
_WIDGETS = {"review": "ValueMap", "touches_nodata": "CheckBox", _FEATURE_ID: "Hidden"}
_DECIMALS = {
    "score_mean": 3, "score_max": 3, "score_p90": 3, "area_m2": 2, "area_px": 0, "perimeter_m": 2, "centroid_lon": 7,
    "centroid_lat": 7, "valid_fraction": 2, "shift_px": 2, "shadow_fraction": 2,
}  # fmt: skip
"""Digits behind the point in the form; the table has all there are."""
LABEL_MM = 4  # least size of a polygon on the map, as the side of a square, for its score to be written on it


def polygon_qml(threshold: float, comments: Mapping[str, str], reviews: Sequence[str]) -> str:
    """Return the QGIS style of the polygons: outlined, graduated by mean score from the threshold to 1.

    Parameters
    ----------
    threshold
        The least score there can be.
    comments
        Column names and what they mean; shown as tool tips.
    reviews
        The words that the column ``review`` can hold, which the form offers as a choice.
    """
    root = Element("qgis", version="3.22.0", styleCategories=f"{_CATEGORIES}|Labeling|Fields|Forms|MapTips")
    root.set("labelsEnabled", "1")
    renderer = SubElement(
        root,
        "renderer-v2",
        {"type": "graduatedSymbol", "attr": FIELD, "graduatedMethod": "GraduatedColor", "enableorderby": "0"},
    )
    ranges, symbols = SubElement(renderer, "ranges"), SubElement(renderer, "symbols")
    for i, (lower, upper, color) in enumerate(_classes(threshold)):
        label = _label(lower, upper)
        SubElement(
            ranges,
            "range",
            {"symbol": str(i), "lower": f"{lower:.9f}", "upper": f"{upper:.9f}", "label": label, "render": "true"},
        )
        symbol = SubElement(symbols, "symbol", {"type": "fill", "name": str(i), "alpha": "1", "force_rhr": "0"})
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        for key, value in _fill(color).items():
            SubElement(layer, "prop", k=key, v=value)
    _label_rule(root)
    _fields(root, comments, reviews)
    # What the list beside the form calls a polygon; of itself QGIS takes `review`, which is empty at first. It sorts by
    # this text, so that without zeros before them 10 would come before 2.
    SubElement(root, "previewExpression").text = f"'#' || lpad(id, 4, '0') || '   ' || format_number({FIELD}, 2)"
    SubElement(
        root, "mapTip"
    ).text = "<b>[% round(score_mean, 2) %]</b> (max [% round(score_max, 2) %]), [% round(area_m2, 1) %] m²"
    return _document(root)


def footprint_qml() -> str:
    """Return the QGIS style of what was looked at: a dashed line around it, nothing inside."""
    root = Element("qgis", version="3.22.0", styleCategories=_CATEGORIES)
    symbols = SubElement(SubElement(root, "renderer-v2", type="singleSymbol", enableorderby="0"), "symbols")
    symbol = SubElement(symbols, "symbol", {"type": "fill", "name": "0", "alpha": "1", "force_rhr": "0"})
    layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    for key, value in {**_fill(FOOTPRINT_COLOR), "style": "no", "outline_style": "dash"}.items():
        SubElement(layer, "prop", k=key, v=value)
    return _document(root)


def _document(root: Element) -> str:
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + tostring(root, encoding="unicode")


def _label_rule(root: Element) -> None:
    """Write the score on polygons that are large enough on the map."""
    rules = SubElement(SubElement(root, "labeling", type="rule-based"), "rules", key="scores")
    # A polygon's side in metres against that many millimetres at the scale of the map.
    large = f"sqrt({AREA}) >= @map_scale * {LABEL_MM / 1000}"
    rule = SubElement(rules, "rule", {"key": "large", "description": "score, where there is room", "filter": large})
    settings = SubElement(rule, "settings", calloutType="simple")
    text = {"fieldName": f"format_number({FIELD}, 2)", "isExpression": "1", "fontFamily": "Sans", "fontSize": "8"}
    style = SubElement(settings, "text-style", text | {"fontSizeUnit": "Point", "textColor": "0,0,0,255"})
    halo = {"bufferDraw": "1", "bufferSize": "0.7", "bufferSizeUnits": "MM", "bufferColor": "255,255,255,255"}
    SubElement(style, "text-buffer", halo)
    SubElement(settings, "placement", {"placement": "1", "centroidInside": "1", "centroidWhole": "1"})  # on centroid


def polygon_sld(threshold: float, layer: str) -> str:
    """Return the same classes and colors as a Styled Layer Descriptor 1.0, for other GIS."""
    ogc, sld = "http://www.opengis.net/ogc", "http://www.opengis.net/sld"
    root = Element("StyledLayerDescriptor", {"xmlns": sld, "xmlns:ogc": ogc, "version": "1.0.0"})
    named = SubElement(root, "NamedLayer")
    SubElement(named, "Name").text = layer
    style = SubElement(SubElement(named, "UserStyle"), "FeatureTypeStyle")
    for lower, upper, color in _classes(threshold):
        rule = SubElement(style, "Rule")
        SubElement(rule, "Title").text = _label(lower, upper)
        between = SubElement(SubElement(rule, "ogc:Filter"), "ogc:PropertyIsBetween")
        SubElement(between, "ogc:PropertyName").text = FIELD
        for side, value in (("LowerBoundary", lower), ("UpperBoundary", upper)):
            SubElement(SubElement(between, f"ogc:{side}"), "ogc:Literal").text = f"{value:.9f}"
        symbolizer = SubElement(rule, "PolygonSymbolizer")
        fill, stroke = SubElement(symbolizer, "Fill"), SubElement(symbolizer, "Stroke")
        SubElement(fill, "CssParameter", name="fill").text = color
        SubElement(fill, "CssParameter", name="fill-opacity").text = "0.35"
        SubElement(stroke, "CssParameter", name="stroke").text = color
    return tostring(root, encoding="unicode")


def _classes(threshold: float) -> list[tuple[float, float, str]]:
    """Return lower bound, upper bound and color of equal classes from the threshold to 1."""
    count = len(COLORS)
    edges = [threshold + (1 - threshold) * i / count for i in range(count + 1)]
    edges[0] -= 1e-6  # a mean may lie a rounding error below the threshold
    return [(edges[i], edges[i + 1], COLORS[i]) for i in range(count)]


def _label(lower: float, upper: float) -> str:
    """Return the bounds of a class with as many digits as tell them apart."""
    digits = max(2, math.ceil(-math.log10(max(upper - lower, 1e-9))))
    return f"{lower:.{digits}f} - {upper:.{digits}f}"


def _fill(color: str) -> dict[str, str]:
    rgb = ",".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
    return {
        "color": f"{rgb},90",
        "outline_color": f"{rgb},255",
        "outline_style": "solid",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
        "style": "solid",
    }


def _fields(root: Element, comments: Mapping[str, str], reviews: Sequence[str]) -> None:
    """Describe the columns, make ``review`` a choice in the form, and show the rest as a reader wants it."""
    configuration = SubElement(root, "fieldConfiguration")
    for name in (_FEATURE_ID, *comments):
        widget = SubElement(SubElement(configuration, "field", name=name), "editWidget")
        widget.set("type", _WIDGETS.get(name, "Range" if name in _DECIMALS else "TextEdit"))
        options = SubElement(SubElement(widget, "config"), "Option", type="Map")
        if name in _DECIMALS:
            for key, value, kind in (
                ("Style", "SpinBox", "QString"), ("AllowNull", "true", "bool"),
                ("Precision", f"{_DECIMALS[name]}", "int"), ("Min", "-1e15", "double"),
                ("Max", "1e15", "double"), ("Step", "1", "double"),
            ):  # fmt: skip
                SubElement(options, "Option", name=key, value=value, type=kind)
        if name == "review":
            choices = SubElement(options, "Option", name="map", type="List")
            # The long name is what QGIS stores as NULL.
            for label, value in (
                ("unreviewed", "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"),
                *zip(reviews, reviews, strict=True),
            ):
                SubElement(SubElement(choices, "Option", type="Map"), "Option", name=label, value=value, type="QString")
    aliases = SubElement(root, "aliases")
    for i, name in enumerate(comments):
        SubElement(aliases, "alias", index=str(i + 1), field=name, name="")
    editable = SubElement(root, "editable")
    for name in (_FEATURE_ID, *comments):
        SubElement(editable, "field", name=name, editable="1" if name == "review" else "0")


# Score, color, opacity (0 to 255): nothing to see where nothing is, and never so much that what changed in the scene
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
    for score, color, alpha in STEPS:
        step = {"value": f"{score:g}", "label": f"{score:g}", "color": color, "alpha": str(alpha)}
        SubElement(shader, "item", step)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + tostring(root, encoding="unicode")


def _ramp() -> Element:
    """Return the same colors as a ramp, which the legend and the style dialog of QGIS show."""
    colors = [",".join([*map(str, bytes.fromhex(color[1:])), str(alpha)]) for _, color, alpha in STEPS]
    between = zip(STEPS[1:-1], colors[1:-1], strict=True)
    values = {
        "color1": colors[0],
        "color2": colors[-1],
        "discrete": "0",
        "rampType": "gradient",
        "stops": ":".join(f"{score:g};{color}" for (score, _, _), color in between),
    }
    ramp = Element("colorramp", name="[source]", type="gradient")
    options = SubElement(ramp, "Option", type="Map")
    for name, value in values.items():
        SubElement(options, "Option", name=name, value=value, type="QString")
        SubElement(ramp, "prop", k=name, v=value)  # for QGIS before 3.26
    return ramp
