"""Run by QGIS's own Python: open a project, draw it, print what was seen as JSON.

Usage: python3 look_at_project.py '{"project": PATH, "pictures": [{"layers": [NAME...], "width": W, "height": H,
"path": PNG or null, "points": [[X, Y]...]}]}'. No layers: those of the project, in its order. Points are map
coordinates; their colours come back as [red, green, blue, alpha].
"""

import json
import os
import sys

from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsProject, QgsVectorLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

asked = json.loads(sys.argv[1])
QgsApplication.setPrefixPath("/usr", True)  # noqa: FBT003 - Qt takes no keywords
app = QgsApplication([], False)  # noqa: FBT003
app.initQgis()
messages = []
QgsApplication.messageLog().messageReceived.connect(lambda text, tag, level: messages.append([tag, text, int(level)]))
project = QgsProject.instance()
other_versions = []
project.readVersionMismatchOccurred.connect(other_versions.append)
opened = project.read(asked["project"])


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
        facts |= {"features": layer.featureCount(), "widgets": widgets}
        if facts["renderer"] == "graduatedSymbol":
            facts |= {"attribute": renderer.classAttribute(), "classes": len(renderer.ranges())}
        return facts
    facts["bands"] = layer.renderer().usesBands()
    if facts["renderer"] == "singlebandpseudocolor":
        ramp = renderer.shader().rasterShaderFunction()
        facts["items"] = [[item.value, item.color.name(), item.color.alpha()] for item in ramp.colorRampItemList()]
        facts["ramp"] = ramp.sourceColorRamp() is not None
    if facts["renderer"] == "multibandcolor":
        stretch = renderer.redContrastEnhancement()
        facts["stretch"] = [stretch.minimumValue(), stretch.maximumValue()]
    return facts


def drawn(picture):
    """Draw layers on nothing; return the colours at the points."""
    layers = project.layerTreeRoot().layerOrder()
    if picture.get("layers"):
        layers = [layer for name in picture["layers"] for layer in layers if layer.name() == name]
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(project.crs())
    settings.setTransformContext(project.transformContext())
    settings.setExtent(project.viewSettings().defaultViewExtent())
    settings.setOutputSize(QSize(picture["width"], picture["height"]))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    settings.setFlag(QgsMapSettings.Antialiasing, picture.get("smooth", False))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    if picture.get("path"):
        image.save(picture["path"])
    places = [settings.mapToPixel().transform(x, y) for x, y in picture.get("points", [])]
    return [list(image.pixelColor(int(place.x()), int(place.y())).getRgb()) for place in places]


seen = {
    "opened": opened,
    "error": project.error(),
    "title": project.title(),
    "crs": project.crs().authid(),
    "view": corners(project.viewSettings().defaultViewExtent()),
    "themes": {
        name: [layer.name() for layer in project.mapThemeCollection().mapThemeVisibleLayers(name)]
        for name in project.mapThemeCollection().mapThemes()
    },
    "layers": [described(layer) for layer in project.layerTreeRoot().layerOrder()],
    "colours": [drawn(picture) for picture in asked.get("pictures", [])],
    "messages": messages,
    "other_versions": other_versions,
}
sys.stdout.write(json.dumps(seen) + "\n")
sys.stdout.flush()
os._exit(0)  # tearing QGIS down with layers alive crashes
