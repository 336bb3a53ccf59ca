"""Draw a QGIS project without opening QGIS: a panel for each of its map themes, one for all of it, and the legend.

Usage, with the Python that QGIS comes with:

    QT_QPA_PLATFORM=offscreen python3 examples/draw_qgis_project.py review.qgz picture.png
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from qgis.core import (
    QgsApplication,
    QgsLayerTree,
    QgsLayerTreeModel,
    QgsLegendRenderer,
    QgsLegendSettings,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRenderContext,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter

if TYPE_CHECKING:
    from qgis.core import QgsMapLayer

PANEL_PX = 400
GAP_PX = 8
LEGEND_PX = 230
DPI = 96


def panel(project: QgsProject, layers: list[QgsMapLayer]) -> QImage:
    """Return a picture of layers, as QGIS draws its map."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(project.crs())
    settings.setTransformContext(project.transformContext())
    settings.setExtent(project.viewSettings().defaultViewExtent())
    settings.setOutputSize(QSize(PANEL_PX, PANEL_PX))
    settings.setOutputDpi(DPI)
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


def draw_legend(project: QgsProject, painter: QPainter) -> None:
    """Draw the legend of what was found; the scenes need none."""
    root = QgsLayerTree()
    for layer in project.layerTreeRoot().layerOrder():
        if not layer.name().startswith(("before", "after")):
            root.addLayer(layer)
    model = QgsLayerTreeModel(root)  # which the renderer does not keep alive
    context = QgsRenderContext.fromQPainter(painter)
    context.setFlag(QgsRenderContext.Flag.Antialiasing)
    painter.scale(context.scaleFactor(), context.scaleFactor())  # legends are measured in millimetres
    QgsLegendRenderer(model, QgsLegendSettings()).drawLegend(context)


def draw(source: str, target: str) -> bool:
    """Draw a project into a PNG; return whether that went well."""
    project = QgsProject.instance()
    if not project.read(source):
        return False
    themes = project.mapThemeCollection()
    order = project.layerTreeRoot().layerOrder()
    visible_in_themes = [themes.mapThemeVisibleLayers(name) for name in ("before", "after") if themes.hasMapTheme(name)]
    panels = [panel(project, [layer for layer in order if layer in visible]) for visible in [*visible_in_themes, order]]
    width = len(panels) * (PANEL_PX + GAP_PX) + LEGEND_PX
    picture = QImage(width, PANEL_PX, QImage.Format.Format_RGB32)
    picture.setDotsPerMeterX(round(DPI / 0.0254))
    picture.setDotsPerMeterY(round(DPI / 0.0254))
    picture.fill(QColor("white"))
    painter = QPainter(picture)
    for i, image in enumerate(panels):
        painter.drawImage(i * (PANEL_PX + GAP_PX), 0, image)
    painter.translate(len(panels) * (PANEL_PX + GAP_PX), 0)
    draw_legend(project, painter)
    painter.end()
    return picture.save(target)


if __name__ == "__main__":
    application = QgsApplication([], False)  # noqa: FBT003 - Qt takes no keywords
    application.initQgis()
    succeeded = draw(sys.argv[1], sys.argv[2])
    os._exit(0 if succeeded else 1)  # tearing QGIS down with layers alive crashes
