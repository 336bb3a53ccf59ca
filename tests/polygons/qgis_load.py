"""Run by QGIS's own Python: load polygons and scores, draw them, print what was seen as JSON.

Usage: python3 qgis_load.py POLYGONS.gpkg SCORES.tif MAP.png
"""

import json
import os
import sys

from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

polygons_path, scores_path, map_path = sys.argv[1:]
QgsApplication.setPrefixPath("/usr", True)  # noqa: FBT003 - Qt takes no keywords
app = QgsApplication([], False)  # noqa: FBT003
app.initQgis()
messages = []
QgsApplication.messageLog().messageReceived.connect(lambda text, tag, level: messages.append([tag, text, int(level)]))

polygons = QgsVectorLayer(f"{polygons_path}|layername=anomalies", "anomalies", "ogr")
scores = QgsRasterLayer(scores_path, "scores")

settings = QgsMapSettings()
settings.setLayers([polygons, scores])
settings.setExtent(scores.extent())
settings.setDestinationCrs(scores.crs())
settings.setOutputSize(QSize(scores.width(), scores.height()))
settings.setBackgroundColor(QColor("white"))
settings.setFlag(QgsMapSettings.Antialiasing, False)  # noqa: FBT003
job = QgsMapRendererSequentialJob(settings)
job.start()
job.waitForFinished()
image = job.renderedImage()
settings.setOutputSize(QSize(scores.width() * 10, scores.height() * 10))
large = QgsMapRendererSequentialJob(settings)
large.start()
large.waitForFinished()
large.renderedImage().save(map_path)

renderer = polygons.renderer()
graduated = renderer is not None and renderer.type() == "graduatedSymbol"
places = [(15, 20), (35, 55), (5, 80), (55, 85)]
seen = {
    "valid": polygons.isValid(),
    "features": polygons.featureCount(),
    "crs": polygons.crs().authid(),
    "renderer": renderer.type() if renderer else None,
    "attribute": renderer.classAttribute() if graduated else None,
    "classes": len(renderer.ranges()) if graduated else 0,
    "widgets": {
        name: polygons.editorWidgetSetup(polygons.fields().indexFromName(name)).type()
        for name in ("fid", "score_mean", "touches_nodata", "before", "review")
    },
    "editable": [
        field.name() for index, field in enumerate(polygons.fields()) if not polygons.editFormConfig().readOnly(index)
    ],
    "raster_valid": scores.isValid(),
    "raster_renderer": scores.renderer().type(),
    "colors": {f"{row},{col}": list(image.pixelColor(col, row).getRgb()[:3]) for row, col in places},
    "messages": messages,
}
sys.stdout.write(json.dumps(seen) + "\n")
sys.stdout.flush()
os._exit(0)  # tearing QGIS down with layers alive crashes
