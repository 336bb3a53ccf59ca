"""Run by QGIS's own Python: run algorithms of the plugin through Processing, print what came of each as a JSON list.

Usage: python3 run_algorithms.py '{"plugins": FOLDER, "setting": TEXT, "runs": [{"algorithm": ID, "parameters": {...},
"cancel": true or false, "layers": [NAME...]}...]}'. With "cancel" a run is cancelled as soon as it has made some
progress. Parameters named in "layers" are given as layers of the project instead of paths. Results are loaded into the
project, as the dialog does it.
"""

import json
import os
import sys

from qgis.core import (
    QgsApplication,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProject,
    QgsRasterLayer,
)

asked = json.loads(sys.argv[1])
QgsApplication.setPrefixPath("/usr", True)  # noqa: FBT003 - Qt takes no keywords
app = QgsApplication([], False)  # noqa: FBT003
app.initQgis()
sys.path += [asked["plugins"], QgsApplication.pkgDataPath() + "/python/plugins"]

from processing.core.Processing import Processing  # noqa: E402
from processing.core.ProcessingConfig import ProcessingConfig  # noqa: E402
from processing.tools.general import runAndLoadResults  # noqa: E402

import geosiam_processing  # noqa: E402 - found only now

Processing.initialize()
plugin = geosiam_processing.classFactory(None)
plugin.initProcessing()
# Not by setSettingValue, which refuses a file that is gone: it may vanish after it was chosen.
ProcessingConfig.settings["GEOSIAM_EXECUTABLE"].value = asked.get("setting", "")


class Feedback(QgsProcessingFeedback):
    """Remembers what it is told."""

    def __init__(self, *, cancel):
        super().__init__()
        self.heard = []
        self.steps = []
        if cancel:
            self.progressChanged.connect(lambda _: self.cancel())
        self.progressChanged.connect(self.steps.append)

    def pushWarning(self, warning):  # noqa: N802 - QGIS's name
        self.heard.append(["warning", warning])

    def pushInfo(self, info):  # noqa: N802
        self.heard.append(["info", info])


def run(algorithm, parameters, *, cancel=False, layers=()):
    """Run one; the layers named are parameters whose rasters are loaded into the project first."""
    parameters = dict(parameters)
    for name in layers:
        layer = QgsRasterLayer(parameters[name], name)
        QgsProject.instance().addMapLayer(layer)
        parameters[name] = layer.id()
    feedback = Feedback(cancel=cancel)
    before = set(QgsProject.instance().mapLayers())
    try:
        results = runAndLoadResults(algorithm, parameters, feedback)
    except QgsProcessingException as error:
        results = {"error": str(error)}
    loaded = [layer for key, layer in QgsProject.instance().mapLayers().items() if key not in before]
    styles = {layer.name(): layer.renderer().type() for layer in loaded}
    return {"results": results, "heard": feedback.heard, "steps": feedback.steps, "loaded": styles}


seen = [run(**one) for one in asked["runs"]]
plugin.unload()
left = QgsApplication.processingRegistry().providerById("geosiam")
sys.stdout.write(json.dumps({"runs": seen, "unloaded": left is None}) + "\n")
sys.stdout.flush()
os._exit(0)  # tearing QGIS down crashes
