"""*Pair info*: the command ``geosiam info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgis.core import (
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterFileDestination,
)

from geosiam_processing.algorithm import GeosiamAlgorithm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qgis.core import QgsProcessingContext, QgsProcessingFeedback


class PairInfo(GeosiamAlgorithm):
    """Inspect a pair without running it."""

    def name(self) -> str:
        return "info"

    def displayName(self) -> str:
        return "Pair info"

    def shortDescription(self) -> str:
        return "Reports what 'Detect anomalies' would do with two scenes, and at what cost"

    def shortHelpString(self) -> str:
        return (
            "Opens both scenes and reports their grids, the overlap, the bands, how the second scene would be warped "
            "and matched, what is wrong with the pair, and how long and how much memory detecting would take. Nothing "
            "is scored."
        )

    def initAlgorithm(self, _configuration: dict[str, Any] | None = None) -> None:
        self.add_scenes()
        self.add_comparison()
        self.add(
            QgsProcessingParameterBoolean("REGISTER", "Correct the misregistration", defaultValue=False),
            "Report what correcting the shift between the scenes would do.",
        )
        self.add(
            QgsProcessingParameterFileDestination(
                "REPORT", "Report", "JSON (*.json)", optional=True, createByDefault=False
            ),
            "The whole report as a file.",
        )
        self.addOutput(QgsProcessingOutputString("TEXT", "Report"))
        self.addOutput(QgsProcessingOutputNumber("WARNINGS", "Number of warnings"))
        self.addOutput(QgsProcessingOutputNumber("SECONDS", "Estimated seconds"))
        self.addOutput(QgsProcessingOutputNumber("MEMORY_MB", "Estimated memory in MB"))

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        report = self.parameterAsFileOutput(parameters, "REPORT", context)
        register = ["--register"] if self.parameterAsBool(parameters, "REGISTER", context) else []
        facts = self.run_command(
            ["info", *self.comparison(parameters, context, feedback), *register, "--json"], feedback
        )
        text = "\n".join(_lines(facts))
        feedback.pushInfo(text)
        for warning in facts["warnings"]:
            feedback.pushWarning(warning)
        results = {
            "TEXT": text,
            "WARNINGS": len(facts["warnings"]),
            "SECONDS": facts["estimated_seconds"],
            "MEMORY_MB": facts["estimated_memory_mb"],
        }
        if report:
            Path(report).write_text(json.dumps(facts, indent=2), encoding="utf-8")
            results["REPORT"] = report
        return results


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(value)}"
