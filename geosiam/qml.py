"""Styles of QGIS (QML), and of other GIS (SLD), for polygons, their footprint, displacements and score rasters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

QGIS_VERSION = "3.22.0"
"""Version of QGIS in styles and projects: older than any that reads them, which would warn of a newer one."""

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

POLYGON_COLORS = ("#ffe14d", "#ffb000", "#ff6a00", "#e8112d", "#8e0152")
"""Colors of polygons from weak to strong, with steadily falling lightness."""

SCORE_COLORS = (
    (0.0, "#dadaeb", 0),
    (0.15, "#dadaeb", 0),
    (0.3, "#bcbddc", 60),
    (0.5, "#9e9ac8", 100),
    (0.7, "#807dba", 120),
    (0.9, "#6a51a3", 130),
    (1.0, "#3f007d", 140),
)
"""Score, color and opacity (0 to 255) of the score raster.

Low scores are transparent, and high ones translucent, so that the change in the scene below stays visible. Violet,
because the polygons above are yellow to red.
"""

DIFFERENCE_COLORS = (
    (-20.0, "#67001f", 230),
    (-5.0, "#d6604d", 210),
    (-1.5, "#f4a582", 150),
    (-1.0, "#f7f7f7", 0),
    (1.0, "#f7f7f7", 0),
    (1.5, "#92c5de", 150),
    (5.0, "#4393c3", 210),
    (20.0, "#053061", 230),
)
"""Difference of heights in levels of detection, color and opacity: ColorBrewer's red-blue, lowered to raised."""

ARROW_COLORS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
"""Colors of arrows from short to long: viridis."""

_LENGTHS_PX = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # lower bounds of the classes of arrows, the same for all pairs
_ANY_LENGTH_PX = 1e6
_ARROW = {
    "arrow_type": "0", "head_type": "0", "is_curved": "0", "is_repeated": "0", "arrow_width": "0.45",
    "arrow_width_unit": "MM", "arrow_start_width": "0.45", "arrow_start_width_unit": "MM", "head_length": "1.4",
    "head_length_unit": "MM", "head_thickness": "0.85", "head_thickness_unit": "MM",
}  # fmt: skip
_ARROW_OUTLINE = {"outline_color": "255,255,255,255", "outline_width": "0.08"}
_SCORE, _AREA, _LENGTH = "score_mean", "area_m2", "length_px"
_FOOTPRINT_COLOR = "#2b7bba"
_SYMBOLOGY = "Symbology"
_FEATURE_ID = "fid"  # the GeoPackage's own number
_WIDGETS = {"review": "ValueMap", "touches_nodata": "CheckBox", "likely_geometry": "CheckBox", _FEATURE_ID: "Hidden"}
_DECIMALS = {
    "score_mean": 3, "score_max": 3, "score_p90": 3, "area_m2": 2, "area_px": 0, "perimeter_m": 2, "centroid_lon": 7,
    "centroid_lat": 7, "valid_fraction": 2, "shift_px": 2, "shift_fraction": 2,
    "shadow_fraction": 2, "dz_mean": 3, "dz_median": 3, "dz_min": 3, "dz_max": 3, "volume_gain_m3": 2,
    "volume_loss_m3": 2, "volume_sigma_m3": 2, "height_fraction": 2,
}  # fmt: skip
"""Decimal places in the form; the attribute table shows all digits."""
_MIN_LABELED_MM = 4  # side of a square of the polygon's area, on the map, from which its score is written on it
_QGIS_NULL = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"  # what a value map stores as NULL


def polygon_qml(threshold: float, comments: Mapping[str, str], reviews: Sequence[str]) -> str:
    """Return the QGIS style of the polygons: outlined, graduated by mean score from the threshold to 1.

    Parameters
    ----------
    threshold
        Lowest score of a polygon.
    comments
        Descriptions of the columns by name, for which the form has fields.
    reviews
        Verdicts that the form offers for the column ``review``.
    """
    root = Element("qgis", version=QGIS_VERSION, styleCategories=f"{_SYMBOLOGY}|Labeling|Fields|Forms|MapTips")
    root.set("labelsEnabled", "1")
    renderer = SubElement(
        root,
        "renderer-v2",
        {"type": "graduatedSymbol", "attr": _SCORE, "graduatedMethod": "GraduatedColor", "enableorderby": "0"},
    )
    ranges, symbols = SubElement(renderer, "ranges"), SubElement(renderer, "symbols")
    for i, (lower, upper, color) in enumerate(_classes(threshold)):
        label = _class_label(lower, upper)
        SubElement(
            ranges,
            "range",
            {"symbol": str(i), "lower": f"{lower:.9f}", "upper": f"{upper:.9f}", "label": label, "render": "true"},
        )
        _add_fill_symbol(symbols, str(i), _fill(color))
    _add_labels(root)
    _add_fields(root, comments, reviews)
    # Name of a polygon in the list beside the form; the default is `review`, which is empty at first. The list is
    # sorted by this text: without leading zeros, 10 would come before 2.
    SubElement(root, "previewExpression").text = f"'#' || lpad(id, 4, '0') || '   ' || format_number({_SCORE}, 2)"
    SubElement(
        root, "mapTip"
    ).text = "<b>[% round(score_mean, 2) %]</b> (max [% round(score_max, 2) %]), [% round(area_m2, 1) %] m²"
    return _document(root)


def footprint_qml() -> str:
    """Return the QGIS style of the footprint: a dashed outline without a fill."""
    root = Element("qgis", version=QGIS_VERSION, styleCategories=_SYMBOLOGY)
    symbols = SubElement(SubElement(root, "renderer-v2", type="singleSymbol", enableorderby="0"), "symbols")
    _add_fill_symbol(symbols, "0", {**_fill(_FOOTPRINT_COLOR), "style": "no", "outline_style": "dash"})
    return _document(root)


def displacement_qml(to_map: Sequence[float]) -> str:
    """Return the QGIS style of a displacement: arrows to where the after scene shows the ground of each point.

    Parameters
    ----------
    to_map
        Map units right per pixel right and per pixel down, and map units up likewise, as they are drawn.
    """
    root = Element("qgis", version=QGIS_VERSION, styleCategories=_SYMBOLOGY)
    renderer = SubElement(
        root,
        "renderer-v2",
        {"type": "graduatedSymbol", "attr": _LENGTH, "graduatedMethod": "GraduatedColor", "enableorderby": "0"},
    )
    ranges, symbols = SubElement(renderer, "ranges"), SubElement(renderer, "symbols")
    right, up = (f'{across!r} * "dx_px" + {down!r} * "dy_px"' for across, down in (to_map[:2], to_map[2:]))
    line = {"geometryModifier": f"make_line($geometry, translate($geometry, {right}, {up}))", "SymbolType": "Line"}
    for i, (lower, upper, label, color) in enumerate(_length_classes()):
        bounds = {"lower": f"{lower:.9f}", "upper": f"{upper:.9f}"}
        SubElement(ranges, "range", {"symbol": str(i), **bounds, "label": label, "render": "true"})
        generated = _add_symbol(symbols, "marker", str(i), "GeometryGenerator", line)
        arrow = _add_symbol(generated, "line", f"@{i}@0", "ArrowLine", _ARROW)
        _add_symbol(arrow, "fill", f"@@{i}@0@0", "SimpleFill", {**_fill(color, 255), **_ARROW_OUTLINE})
    return _document(root)


def _length_classes() -> Iterator[tuple[float, float, str, str]]:
    """Yield lower and upper bound, label and color of the classes of lengths in pixels."""
    for lower, upper, color in zip(_LENGTHS_PX, (*_LENGTHS_PX[1:], _ANY_LENGTH_PX), ARROW_COLORS, strict=True):
        label = f"more than {lower:g} px" if upper == _ANY_LENGTH_PX else f"{lower:g} to {upper:g} px"
        yield lower, upper, label, color


def polygon_sld(threshold: float, layer: str) -> str:
    """Return the same classes and colors of polygons as a Styled Layer Descriptor 1.0, for other GIS."""
    ogc, sld = "http://www.opengis.net/ogc", "http://www.opengis.net/sld"
    root = Element("StyledLayerDescriptor", {"xmlns": sld, "xmlns:ogc": ogc, "version": "1.0.0"})
    named = SubElement(root, "NamedLayer")
    SubElement(named, "Name").text = layer
    style = SubElement(SubElement(named, "UserStyle"), "FeatureTypeStyle")
    for lower, upper, color in _classes(threshold):
        rule = SubElement(style, "Rule")
        SubElement(rule, "Title").text = _class_label(lower, upper)
        between = SubElement(SubElement(rule, "ogc:Filter"), "ogc:PropertyIsBetween")
        SubElement(between, "ogc:PropertyName").text = _SCORE
        for side, value in (("LowerBoundary", lower), ("UpperBoundary", upper)):
            SubElement(SubElement(between, f"ogc:{side}"), "ogc:Literal").text = f"{value:.9f}"
        symbolizer = SubElement(rule, "PolygonSymbolizer")
        fill, stroke = SubElement(symbolizer, "Fill"), SubElement(symbolizer, "Stroke")
        SubElement(fill, "CssParameter", name="fill").text = color
        SubElement(fill, "CssParameter", name="fill-opacity").text = "0.35"
        SubElement(stroke, "CssParameter", name="stroke").text = color
    return tostring(root, encoding="unicode")


def raster_qml() -> str:
    """Return the QGIS style of a score raster: transparent up to 0.15 and where unscored, then to dark violet at 1."""
    return _raster_document(SCORE_COLORS)


def difference_qml(detection: float) -> str:
    """Return the QGIS style of a difference of heights in meters: red below, blue above, transparent in between.

    Parameters
    ----------
    detection
        Level of detection in meters, up to which a difference is transparent; NaN = unknown.
    """
    unit = detection if math.isfinite(detection) and detection > 0 else 0.1
    return _raster_document([(times * unit, color, alpha) for times, color, alpha in DIFFERENCE_COLORS])


def _raster_document(colors: Sequence[tuple[float, str, int]]) -> str:
    """Return the style of a raster of one band by value, color and opacity, ascending."""
    low, high = f"{colors[0][0]:.6g}", f"{colors[-1][0]:.6g}"
    root = Element("qgis", version=QGIS_VERSION, styleCategories=_SYMBOLOGY)
    pipe = SubElement(root, "pipe")
    # Smoothing would invent values between cells, and edges around nodata.
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
            "classificationMin": low,
            "classificationMax": high,
        },
    )
    # Without an origin, QGIS stretches the ramp to the minimum and maximum when the user changes the style.
    SubElement(SubElement(renderer, "minMaxOrigin"), "limits").text = "None"
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        {
            "colorRampType": "INTERPOLATED",
            "classificationMode": "1",
            "clip": "0",
            "minimumValue": low,
            "maximumValue": high,
            "labelPrecision": "2",
        },
    )
    shader.append(_color_ramp(colors))
    for value, color, alpha in colors:
        label = f"{value:.3g}"
        SubElement(shader, "item", {"value": f"{value:.6g}", "label": label, "color": color, "alpha": str(alpha)})
    return _document(root)


def _document(root: Element) -> str:
    return DOCTYPE + tostring(root, encoding="unicode")


def _add_fill_symbol(symbols: Element, name: str, properties: Mapping[str, str]) -> None:
    _add_symbol(symbols, "fill", name, "SimpleFill", properties)


def _add_symbol(parent: Element, kind: str, name: str, layer_class: str, properties: Mapping[str, str]) -> Element:
    """Add a symbol of one layer, and return the layer."""
    symbol = SubElement(parent, "symbol", {"type": kind, "name": name, "alpha": "1", "force_rhr": "0"})
    layer = SubElement(symbol, "layer", {"class": layer_class, "enabled": "1", "locked": "0", "pass": "0"})
    for key, value in properties.items():
        SubElement(layer, "prop", k=key, v=value)
    return layer


def _fill(color: str, opacity: int = 90) -> dict[str, str]:
    rgb = ",".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
    return {
        "color": f"{rgb},{opacity}",
        "outline_color": f"{rgb},255",
        "outline_style": "solid",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
        "style": "solid",
    }


def _classes(threshold: float) -> list[tuple[float, float, str]]:
    """Return lower bound, upper bound and color of equal classes from the threshold to 1."""
    count = len(POLYGON_COLORS)
    edges = [threshold + (1 - threshold) * i / count for i in range(count + 1)]
    edges[0] -= 1e-6  # a mean may lie a rounding error below the threshold
    return [(edges[i], edges[i + 1], POLYGON_COLORS[i]) for i in range(count)]


def _class_label(lower: float, upper: float) -> str:
    """Return the bounds of a class, with enough digits to distinguish them."""
    digits = max(2, math.ceil(-math.log10(max(upper - lower, 1e-9))))
    return f"{lower:.{digits}f} - {upper:.{digits}f}"


def _add_labels(root: Element) -> None:
    """Label polygons that are large enough on the map with their score."""
    rules = SubElement(SubElement(root, "labeling", type="rule-based"), "rules", key="scores")
    # The side of a square of the polygon's area in meters, against the minimum in meters at the scale of the map.
    large = f"sqrt({_AREA}) >= @map_scale * {_MIN_LABELED_MM / 1000}"
    rule = SubElement(rules, "rule", {"key": "large", "description": "score, where there is room", "filter": large})
    settings = SubElement(rule, "settings", calloutType="simple")
    text = {"fieldName": f"format_number({_SCORE}, 2)", "isExpression": "1", "fontFamily": "Sans", "fontSize": "8"}
    style = SubElement(settings, "text-style", text | {"fontSizeUnit": "Point", "textColor": "0,0,0,255"})
    halo = {"bufferDraw": "1", "bufferSize": "0.7", "bufferSizeUnits": "MM", "bufferColor": "255,255,255,255"}
    SubElement(style, "text-buffer", halo)
    SubElement(settings, "placement", {"placement": "1", "centroidInside": "1", "centroidWhole": "1"})  # on centroid


def _add_fields(root: Element, comments: Mapping[str, str], reviews: Sequence[str]) -> None:
    """Configure the form: ``review`` is a choice and can be edited; the other columns are shown, rounded."""
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
            for label, value in (("unreviewed", _QGIS_NULL), *zip(reviews, reviews, strict=True)):
                SubElement(SubElement(choices, "Option", type="Map"), "Option", name=label, value=value, type="QString")
    aliases = SubElement(root, "aliases")
    for i, name in enumerate(comments):
        SubElement(aliases, "alias", index=str(i + 1), field=name, name="")
    editable = SubElement(root, "editable")
    for name in (_FEATURE_ID, *comments):
        SubElement(editable, "field", name=name, editable="1" if name == "review" else "0")


def _color_ramp(stops: Sequence[tuple[float, str, int]]) -> Element:
    """Return the colors as a ramp, which the legend and the style dialog of QGIS show."""
    colors = [",".join([*map(str, bytes.fromhex(color[1:])), str(alpha)]) for _, color, alpha in stops]
    low, high = stops[0][0], stops[-1][0]
    between = zip(stops[1:-1], colors[1:-1], strict=True)
    values = {
        "color1": colors[0],
        "color2": colors[-1],
        "discrete": "0",
        "rampType": "gradient",
        "stops": ":".join(f"{(value - low) / (high - low):.6g};{color}" for (value, _, _), color in between),
    }
    ramp = Element("colorramp", name="[source]", type="gradient")
    options = SubElement(ramp, "Option", type="Map")
    for name, value in values.items():
        SubElement(options, "Option", name=name, value=value, type="QString")
        SubElement(ramp, "prop", k=name, v=value)  # for QGIS before 3.26
    return ramp
