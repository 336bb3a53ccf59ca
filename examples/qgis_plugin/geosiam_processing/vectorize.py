"""*Vectorize scores*: the command ``geosiam vectorize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qgis.core import QgsProcessing, QgsProcessingOutputNumber, QgsProcessingParameterVectorDestination

from geosiam_processing.algorithm import GeosiamAlgorithm, SceneParameter

if TYPE_CHECKING:
    from qgis.core import QgsProcessingContext, QgsProcessingFeedback


class VectorizeScores(GeosiamAlgorithm):
    """Make polygons of a score raster at another threshold."""

    def name(self) -> str:
        return "vectorize"

    def displayName(self) -> str:
        return "Vectorize scores"

    def shortDescription(self) -> str:
        return "Makes polygons of anomaly scores at another threshold, without scoring again"

    def shortHelpString(self) -> str:
        return (
            "Makes polygons of a score raster that 'Detect anomalies' wrote. Nothing is scored again, so trying other "
            "thresholds and minimum areas takes seconds."
        )

    def initAlgorithm(self, _configuration: dict[str, Any] | None = None) -> None:
        self.add(SceneParameter("SCORES", "Anomaly scores"), "The raster of 'Detect anomalies'.")
        self.add_threshold()
        self.add(
            QgsProcessingParameterVectorDestination("OUTPUT", "Anomalies", QgsProcessing.SourceType.TypeVectorPolygon),
            "Polygons; a GeoPackage brings its style along.",
        )
        self.addOutput(QgsProcessingOutputNumber("COUNT", "Number of polygons"))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        polygons = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        scores = self.scene(parameters, "SCORES", context)
        output = self.run_command(
            ["vectorize", scores, *self.cut(parameters, context), "-o", polygons, "--json"], feedback
        )

        return {"OUTPUT": self.styled(polygons, context), "COUNT": output["count"]}
