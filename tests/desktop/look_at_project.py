"""Run by QGIS's own Python: open projects, draw them, print what was seen as a JSON list.

Usage: python3 look_at_project.py '[{"project": PATH, "pictures": [{"layers": [NAME...], "width": W, "height": H,
"points": [[X, Y]...]}]}...]'. Points are map coordinates; their colors come back as [red, green, blue, alpha]. In
place of "project", "raster" names a raster that is loaded as a user does it, and drawn.
"""

import json
import os
import sys

from qgis.core import (
    QgsApplication,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

QgsApplication.setPrefixPath("/usr", True)  # noqa: FBT003 - Qt takes no keywords
app = QgsApplication([], False)  # noqa: FBT003
app.initQgis()
messages, other_versions = [], []
QgsApplication.messageLog().messageReceived.connect(lambda text, tag, level: messages.append([tag, text, int(level)]))
project = QgsProject.instance()
project.readVersionMismatchOccurred.connect(other_versions.append)


def corners(rectangle):
    """Return left, bottom, right and top."""
    return [rectangle.xMinimum(), rectangle.yMinimum(), rectangle.xMaximum(), rectangle.yMaximum()]


def described(layer):
    """Return what there is to know of a layer."""
    renderer = layer.renderer()
    facts = {
        "name": layer.name(),
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "extent": corners(layer.extent()),
        "source": layer.source(),
        "renderer": renderer.type() if renderer else None,
    }
    if isinstance(layer, QgsVectorLayer):
        widgets = {f.name(): layer.editorWidgetSetup(i).type() for i, f in enumerate(layer.fields())}
        facts |= {"features": layer.featureCount(), "widgets": widgets, "called": layer.displayExpression()}
        if facts["renderer"] == "graduatedSymbol":
            facts |= {"attribute": renderer.classAttribute(), "classes": len(renderer.ranges())}
        return facts
    facts["bands"] = renderer.usesBands()
    if facts["renderer"] == "singlebandpseudocolor":
        ramp = renderer.shader().rasterShaderFunction()
        facts["items"] = [[item.value, item.color.name(), item.color.alpha()] for item in ramp.colorRampItemList()]
        facts["ramp"] = ramp.sourceColorRamp() is not None
    if facts["renderer"] == "multibandcolor":
        stretch = renderer.redContrastEnhancement()
        facts["stretch"] = [stretch.minimumValue(), stretch.maximumValue()]
    return facts


def drawn(layers, crs, extent, picture):
    """Draw layers on nothing; return the colors at the points."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(picture["width"], picture["height"]))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    settings.setFlag(QgsMapSettings.Antialiasing, False)  # noqa: FBT003
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    places = [settings.mapToPixel().transform(x, y) for x, y in picture["points"]]
    return [list(image.pixelColor(int(place.x()), int(place.y())).getRgb()) for place in places]


def look_at_raster(asked):
    """Load and draw a raster."""
    layer = QgsRasterLayer(asked["raster"], "raster")
    pictures = [drawn([layer], layer.crs(), layer.extent(), picture) for picture in asked["pictures"]]
    return described(layer) | {"colors": pictures}


def look_at_project(asked):
    """Open and draw a project."""
    messages.clear()
    other_versions.clear()
    opened = project.read(asked["project"])
    view = project.viewSettings().defaultViewExtent()
    layers = project.layerTreeRoot().layerOrder()
    themes = project.mapThemeCollection()
    pictures = []
    for picture in asked.get("pictures", []):
        chosen = [layer for name in picture["layers"] for layer in layers if layer.name() == name]
        pictures.append(drawn(chosen, project.crs(), view, picture))
    return {
        "opened": opened,
        "error": project.error(),
        "title": project.title(),
        "crs": project.crs().authid(),
        "view": corners(view),
        "themes": {name: [layer.name() for layer in themes.mapThemeVisibleLayers(name)] for name in themes.mapThemes()},
        "layers": [described(layer) for layer in layers],
        "colors": pictures,
        "messages": list(messages),
        "other_versions": list(other_versions),
    }


seen = [(look_at_raster if "raster" in one else look_at_project)(one) for one in json.loads(sys.argv[1])]
sys.stdout.write(json.dumps(seen) + "\n")
sys.stdout.flush()
os._exit(0)  # tearing QGIS down with layers alive crashes
