"""Base of the three algorithms: parameters of the comparison, and running the command."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any, ClassVar

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorLayer,
    QgsProcessingUtils,
)
from qgis.PyQt.QtGui import QIcon

from geosiam_processing import command
from geosiam_processing.settings import EXECUTABLE

if TYPE_CHECKING:
    from qgis.core import QgsProcessingContext, QgsProcessingFeedback

    Parameters = dict[str, Any]

_ENDED_INCOMPLETE, _REFUSED, _USAGE = 4, 3, 2
_NOT_FOUND = (
    "the command geosiam is not found; install it (pip install geosiam) and name it in Settings > Options > "
    "Processing > Providers > geosiam, or in the environment variable GEOSIAM_EXECUTABLE"
)


class SceneParameter(QgsProcessingParameterRasterLayer):
    """A scene: a raster layer, or any other text, which geosiam checks itself."""

    def checkValueIsAcceptable(self, value: Any, context: QgsProcessingContext | None = None) -> bool:  # noqa: ANN401
        """Accept any text: folders and patterns of tiles and URLs are scenes to geosiam and no layers to QGIS."""
        return (isinstance(value, str) and bool(value)) or super().checkValueIsAcceptable(value, context)


class OwnStyle(QgsProcessingLayerPostProcessorInterface):
    """Applies the style in a result's file, which Processing ignores when it loads layers."""

    _alive: ClassVar[list[OwnStyle]] = []  # QGIS keeps only the C++ object alive

    def __init__(self) -> None:
        super().__init__()
        self._alive.append(self)

    def postProcessLayer(
        self, layer: QgsMapLayer, _context: QgsProcessingContext, _feedback: QgsProcessingFeedback
    ) -> None:
        layer.loadDefaultStyle()
        layer.triggerRepaint()
        self._alive.remove(self)


class GeosiamAlgorithm(QgsProcessingAlgorithm):
    """An algorithm that is a command of geosiam."""

    def createInstance(self) -> GeosiamAlgorithm:
        return type(self)()

    def icon(self) -> QIcon:
        return self.provider().icon() if self.provider() is not None else QIcon()

    def add(self, parameter: QgsProcessingParameterDefinition, explained: str, *, advanced: bool = False) -> None:
        """Add a parameter with its tool tip."""
        parameter.setHelp(explained)
        if advanced:
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
        self.addParameter(parameter)

    def add_scenes(self) -> None:
        """Add the two scenes."""
        self.add(
            SceneParameter("BEFORE", "First scene (before)"),
            "Georeferenced raster; the result is on its grid. A layer, a file, a folder or pattern of tiles, a URL.",
        )
        self.add(
            SceneParameter("AFTER", "Second scene (after)"),
            "Raster of the same place at another time; it is resampled to the grid of the first one.",
        )

    def add_threshold(self) -> None:
        """Add the parameters by which scores become polygons."""
        double = QgsProcessingParameterNumber.Type.Double
        self.add(
            QgsProcessingParameterNumber("THRESHOLD", "Threshold", double, optional=True, minValue=0.001, maxValue=1.0),
            "Minimum score for a cell to be part of a polygon. Not set: the threshold of the model.",
        )
        self.add(
            QgsProcessingParameterString("MIN_AREA", "Minimum area, such as 1.5m2 or 20px", optional=True),
            "Smaller polygons are left out. In square meters, or in pixels of the first scene.",
        )

    def add_comparison(self) -> None:
        """Add the parameters that decide the scores."""
        self.add(
            QgsProcessingParameterString("MODEL", "Model", optional=True),
            "A name that 'geosiam models' lists, such as survey-fast, or a weights file. Empty: the default.",
        )
        self.add(
            QgsProcessingParameterString("BANDS", "Bands for red, green and blue, such as 4,3,2", optional=True),
            "One or three band numbers of both scenes, counted from 1. Empty: by color interpretation.",
        )
        polygons = [QgsProcessing.SourceType.TypeVectorPolygon]
        self.add(
            QgsProcessingParameterVectorLayer("VALID_AREA", "Valid area", polygons, optional=True),
            "Area of interest: outside of these polygons nothing is read or scored.",
        )

    def comparison(
        self, parameters: Parameters, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> list[str]:
        """Return the scenes and the options that decide the scores, as the command takes them."""
        arguments = [self.scene(parameters, name, context) for name in ("BEFORE", "AFTER")]
        for name, option in (("MODEL", "--model"), ("BANDS", "--bands")):
            arguments += self.text(parameters, name, option, context)
        if parameters.get("VALID_AREA"):
            area = self.parameterAsCompatibleSourceLayerPath(
                parameters, "VALID_AREA", context, ["gpkg", "shp", "geojson"], "gpkg", feedback
            )
            arguments += ["--valid-area", area]
        return arguments

    def cut(self, parameters: Parameters, context: QgsProcessingContext) -> list[str]:
        """Return the options by which scores become polygons."""
        return [
            *self.text(parameters, "THRESHOLD", "--threshold", context),
            *self.text(parameters, "MIN_AREA", "--min-area", context),
        ]

    def text(self, parameters: Parameters, name: str, option: str, context: QgsProcessingContext) -> list[str]:
        """Return an option, or nothing if it is not set: geosiam has its own default."""
        value = self.parameterAsString(parameters, name, context) if parameters.get(name) is not None else ""
        return [f"{option}={value}"] if value else []

    def scene(self, parameters: Parameters, name: str, context: QgsProcessingContext) -> str:
        """Return the scene as the command takes it: the source of a layer, or the text as it is."""
        layer = parameters[name]
        if not isinstance(layer, QgsMapLayer):
            value = self.parameterAsString(parameters, name, context)
            may_load = False
            layer = QgsProcessingUtils.mapLayerFromString(value, context, may_load)
        if layer is None:
            return value
        if layer.providerType() != "gdal":
            kind = layer.providerType()
            raise QgsProcessingException(f"{layer.name()} comes from {kind}; save it as a GeoTIFF first")
        return layer.source().split("|")[0]

    def styled(self, path: str, context: QgsProcessingContext) -> str:
        """Return the path of a result, to be drawn with its own style if it is loaded."""
        if context.willLoadLayerOnCompletion(path):
            context.layerToLoadOnCompletionDetails(path).setPostProcessor(OwnStyle())
        return path

    def run_command(self, arguments: list[str], feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Run geosiam and return the JSON object that it prints.

        Raises
        ------
        QgsProcessingException
            The command is not found, refuses its input, fails or is cancelled: one line says why.
        """
        executable = command.find_executable(ProcessingConfig.getSetting(EXECUTABLE) or "", os.environ)
        if executable is None:
            raise QgsProcessingException(_NOT_FOUND)
        whole = [executable, *arguments]
        feedback.pushCommandInfo(shlex.join(whole))
        try:
            outcome = command.run(whole, command.clean_environment(executable, os.environ), feedback)
        except OSError as error:
            raise QgsProcessingException(f"{executable} cannot be started ({error}); {_NOT_FOUND}") from error
        return self._result(outcome, feedback)

    def _result(self, outcome: command.Outcome, feedback: QgsProcessingFeedback) -> dict[str, Any]:
        if outcome.cancelled:
            raise QgsProcessingException("cancelled; run it again with the same outputs to go on where it stopped")
        if outcome.code == _ENDED_INCOMPLETE and "error" not in outcome.result:
            feedback.pushWarning(outcome.error)
        elif outcome.code in (_REFUSED, _USAGE, _ENDED_INCOMPLETE):
            raise QgsProcessingException(outcome.error)
        elif outcome.code:
            how = f"signal {-outcome.code}" if outcome.code < 0 else f"exit code {outcome.code}"
            raise QgsProcessingException(f"geosiam ended unexpectedly ({how}): {outcome.error}")
        return outcome.result
