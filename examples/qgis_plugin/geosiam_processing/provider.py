"""The Processing provider: its algorithms, and the setting with the path of geosiam."""

from __future__ import annotations

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from geosiam_processing.detect import DetectAnomalies
from geosiam_processing.info import PairInfo
from geosiam_processing.settings import EXECUTABLE
from geosiam_processing.vectorize import VectorizeScores

ICON = Path(__file__).with_name("icon.svg")


class GeosiamProvider(QgsProcessingProvider):
    """The group *geosiam* in the toolbox."""

    def id(self) -> str:
        return "geosiam"

    def name(self) -> str:
        return "geosiam"

    def icon(self) -> QIcon:
        return QIcon(str(ICON))

    def svgIconPath(self) -> str:
        return str(ICON)

    def load(self) -> bool:
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        described = "The command geosiam (empty: that of the environment variable GEOSIAM_EXECUTABLE, or of PATH)"
        ProcessingConfig.addSetting(Setting(self.name(), EXECUTABLE, described, "", valuetype=Setting.FILE))
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        ProcessingConfig.removeSetting(EXECUTABLE)

    def loadAlgorithms(self) -> None:
        for algorithm in (DetectAnomalies, VectorizeScores, PairInfo):
            self.addAlgorithm(algorithm())

    def supportsNonFileBasedOutput(self) -> bool:
        return False  # files are replaced atomically, which a table in a database cannot be

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        return ["gpkg", "geojson", "fgb", "parquet", "shp"]

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        return ["tif"]
