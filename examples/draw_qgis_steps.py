"""Draw the panels of QGIS from a folder of results to a verdict: its own widgets, without a screen.

Usage, with the Python that QGIS comes with:

    QT_QPA_PLATFORM=offscreen python3 examples/draw_qgis_steps.py review.qgz FOLDER

leaves in FOLDER qgis-browser.png (the Browser panel, with the folder of the project unfolded), qgis-project.png (the
panel of layers and the map) and qgis-form.png (the polygons as a form, one of them being judged). Nothing is saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qgis.core import QgsApplication, QgsLayerTreeModel, QgsProject
from qgis.gui import (
    QgsBrowserGuiModel,
    QgsBrowserTreeView,
    QgsDualView,
    QgsGui,
    QgsLayerTreeMapCanvasBridge,
    QgsLayerTreeView,
    QgsMapCanvas,
)
from qgis.PyQt.QtCore import QCoreApplication, QElapsedTimer, Qt, QThread
from qgis.PyQt.QtWidgets import QComboBox, QSplitter, QWidget

PATIENCE_MS = 20_000
SETTLE_MS = 400
FONT_PT = 9
JUDGED = "confirmed"


def settle(milliseconds: int = SETTLE_MS) -> None:
    """Let Qt process its events for some time."""
    clock = QElapsedTimer()
    clock.start()
    while clock.elapsed() < milliseconds:
        QCoreApplication.processEvents()
        QThread.msleep(10)


def save(widget: QWidget, target: Path) -> bool:
    """Draw a widget into a PNG; return whether that went well."""
    settle()
    return widget.grab().save(str(target))


def draw_browser(target: Path) -> bool:
    """Draw the Browser panel; the first place in it is the folder of the project."""
    model = QgsBrowserGuiModel()
    model.initialize()
    view = QgsBrowserTreeView()
    view.setBrowserModel(model)
    view.setModel(model)
    view.setHeaderHidden(True)
    view.resize(360, 260)
    view.show()
    home = model.index(0, 0)
    view.expand(home)
    clock = QElapsedTimer()
    clock.start()
    while not model.rowCount(home) and clock.elapsed() < PATIENCE_MS:  # folders are read by another thread
        settle()
    for row in range(model.rowCount(home)):
        file = model.index(row, 0, home)
        if model.data(file) == "anomalies.gpkg":
            view.expand(file)
    return save(view, target)


def draw_project(project: QgsProject, target: Path) -> bool:
    """Draw the panel of layers and the map beside it, a part of the scene enlarged."""
    layers, canvas, window = QgsLayerTreeView(), QgsMapCanvas(), QSplitter()
    model = QgsLayerTreeModel(project.layerTreeRoot())
    layers.setModel(model)
    bridge = QgsLayerTreeMapCanvasBridge(project.layerTreeRoot(), canvas)
    canvas.setDestinationCrs(project.crs())
    window.addWidget(layers)
    window.addWidget(canvas)
    window.resize(1100, 560)
    window.setSizes([260, 840])
    window.show()
    settle()
    bridge.setCanvasLayers()
    extent = project.viewSettings().defaultViewExtent()
    extent.scale(0.6)
    canvas.setExtent(extent)
    canvas.refresh()
    canvas.waitWhileRendering()
    return save(window, target)


def draw_form(project: QgsProject, target: Path) -> bool:
    """Draw the table of polygons as a form, while somebody chooses a verdict."""
    (layer,) = project.mapLayersByName("anomalies")
    canvas = QgsMapCanvas()
    canvas.setLayers([layer])
    canvas.setDestinationCrs(project.crs())
    QgsGui.editorWidgetRegistry().initEditors(canvas)
    layer.startEditing()
    table = QgsDualView()
    table.init(layer, canvas)
    table.setView(QgsDualView.AttributeEditor)
    table.resize(860, 640)
    table.show()
    settle()
    for choice in table.findChildren(QComboBox):
        if (row := choice.findText(JUDGED, Qt.MatchFlag.MatchFixedString)) >= 0:
            choice.setCurrentIndex(row)
    succeeded = save(table, target)
    layer.rollBack()
    return succeeded


def draw(source: str, folder: Path) -> bool:
    """Draw all pictures of a project; return whether that went well."""
    project = QgsProject.instance()
    if not project.read(source):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    return (
        draw_browser(folder / "qgis-browser.png")
        and draw_project(project, folder / "qgis-project.png")
        and draw_form(project, folder / "qgis-form.png")
    )


if __name__ == "__main__":
    application = QgsApplication([], True)  # noqa: FBT003 - Qt takes no keywords
    application.initQgis()
    application.setStyle("Fusion")
    font = application.font()
    font.setPointSize(FONT_PT)
    application.setFont(font)
    succeeded = draw(sys.argv[1], Path(sys.argv[2]))
    os._exit(0 if succeeded else 1)  # tearing QGIS down with layers alive crashes
