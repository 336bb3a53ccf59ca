"""*Detect anomalies*: the command ``geosiam detect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from geosiam_processing.algorithm import GeosiamAlgorithm

if TYPE_CHECKING:
    from qgis.core import QgsProcessingContext, QgsProcessingFeedback

RADIOMETRY = ("auto", "none", "linear", "histogram")
PRECISION = ("auto", "fp32", "bf16", "fp16", "int8")  # models and histories keep the number: new ones go to the end
SCORE_TYPE = ("uint8", "float32")


class DetectAnomalies(GeosiamAlgorithm):
    """Find what differs between two scenes, as scores and polygons."""

    def name(self) -> str:
        return "detect"

    def displayName(self) -> str:
        return "Detect anomalies"

    def shortDescription(self) -> str:
        return "Finds what changed or does not belong between two georeferenced scenes"

    def tags(self) -> list[str]:
        return ["change", "anomaly", "difference", "siamese", "neural", "drone", "survey"]

    def shortHelpString(self) -> str:
        return (
            "Compares two georeferenced scenes of the same place with a fully convolutional Siamese network. "
            "Each cell gets the probability that the scenes differ there; cells at or above the threshold become "
            "polygons with score, area, and whether they touch nodata.\n\n"
            "The second scene is resampled to the grid of the first one, whatever its coordinate system and extent. "
            "Cells outside the overlap, and cells with nodata in either scene, get no score.\n\n"
            "A cancelled run keeps its scores beside its outputs: run it again with the same parameters to resume it. "
            "This needs output files that you name; temporary ones are new each time.\n\n"
            "The column review of the polygons is for your verdict: confirmed, rejected or unsure."
        )

    def initAlgorithm(self, _configuration: dict[str, Any] | None = None) -> None:
        self.add_scenes()
        self.add_threshold()
        self.add_comparison()
        self.add(
            QgsProcessingParameterBoolean("REGISTER", "Correct the misregistration", defaultValue=False),
            "Estimate the shift between the scenes and correct it if the estimate is reliable.",
        )
        self.add(
            QgsProcessingParameterEnum("RADIOMETRY", "Radiometric normalization", list(RADIOMETRY), defaultValue=0),
            "How brightness and color of the second scene are matched to the first one, once for the whole pair.",
        )
        self._add_execution()
        self.add(
            QgsProcessingParameterVectorDestination("OUTPUT", "Anomalies", QgsProcessing.SourceType.TypeVectorPolygon),
            "Polygons; a GeoPackage brings its style along.",
        )
        self.add(
            QgsProcessingParameterRasterDestination("SCORES", "Anomaly scores"),
            "Raster of anomaly probabilities, from which 'Vectorize scores' makes polygons at other thresholds.",
        )
        self.add(
            QgsProcessingParameterFileDestination(
                "PROJECT", "QGIS project", "QGIS project (*.qgz)", optional=True, createByDefault=False
            ),
            "A project that shows both scenes, the scores and the polygons.",
        )
        self.addOutput(QgsProcessingOutputNumber("COUNT", "Number of polygons"))
        self.addOutput(QgsProcessingOutputNumber("USED_THRESHOLD", "Threshold they were cut at"))

    def _add_execution(self) -> None:
        self.add(
            QgsProcessingParameterEnum("PRECISION", "Precision", list(PRECISION), defaultValue=0),
            "Arithmetic of the network; fp32 is the reference, the others are faster.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterEnum("SCORE_TYPE", "Score type", list(SCORE_TYPE), defaultValue=0),
            "uint8: smaller, but scores above 0.998 become 1; float32: full precision.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterString("DEVICE", "Device: auto, cpu, cuda or cuda:N", optional=True),
            "Where the network runs. Empty: a GPU if there is one.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterNumber("WORKERS", "Threads", optional=True, minValue=1),
            "Threads that read and score; the result does not depend on their number. Not set: one per processor.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterBoolean("SKIP_UNREADABLE", "Skip unreadable blocks", defaultValue=False),
            "Leave nodata where a scene cannot be decoded, instead of failing.",
            advanced=True,
        )
        self.add(
            QgsProcessingParameterBoolean("RESTART", "Start from scratch", defaultValue=False),
            "Discard what a cancelled run of the same outputs left, instead of resuming it.",
            advanced=True,
        )

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        polygons = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        scores = self.parameterAsOutputLayer(parameters, "SCORES", context)
        project = self.parameterAsFileOutput(parameters, "PROJECT", context)
        arguments = [
            *self.comparison(parameters, context, feedback),
            *self.cut(parameters, context),
            *self._options(parameters, context),
            *([f"--qgz={project}"] if project else []),
        ]
        output = self.run_command(
            ["detect", *arguments, "-o", polygons, "--scores", scores, "--json", "--progress", "json"], feedback
        )

        results = {"OUTPUT": self.styled(polygons, context), "SCORES": self.styled(scores, context)}
        results |= {"COUNT": output["count"], "USED_THRESHOLD": output["threshold"]}
        return {**results, "PROJECT": project} if project else results

    def _options(self, parameters: dict[str, Any], context: QgsProcessingContext) -> list[str]:
        switches = (("REGISTER", "--register"), ("RESTART", "--restart"), ("SKIP_UNREADABLE", "--on-error=skip"))
        return [
            *(option for name, option in switches if self.parameterAsBool(parameters, name, context)),
            f"--radiometry={RADIOMETRY[self.parameterAsEnum(parameters, 'RADIOMETRY', context)]}",
            f"--precision={PRECISION[self.parameterAsEnum(parameters, 'PRECISION', context)]}",
            f"--score-type={SCORE_TYPE[self.parameterAsEnum(parameters, 'SCORE_TYPE', context)]}",
            *self.text(parameters, "DEVICE", "--device", context),
            *self.text(parameters, "WORKERS", "--workers", context),
        ]
