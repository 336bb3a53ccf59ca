"""The plugin: adds the Processing provider when QGIS loads it, and removes it again."""

from __future__ import annotations

from qgis.core import QgsApplication

from geosiam_processing.provider import GeosiamProvider


class GeosiamPlugin:
    """The plugin, which consists of its Processing provider."""

    def __init__(self) -> None:
        self._provider: GeosiamProvider | None = None

    def initProcessing(self) -> None:
        """Add the provider; qgis_process calls only this."""
        self._provider = GeosiamProvider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Add the provider to the toolbox of the desktop."""
        self.initProcessing()

    def unload(self) -> None:
        """Remove the provider."""
        if self._provider is not None:
            QgsApplication.processingRegistry().removeProvider(self._provider)
            self._provider = None
