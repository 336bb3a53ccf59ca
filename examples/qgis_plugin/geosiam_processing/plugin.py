"""What QGIS loads and unloads: it adds the provider to the Processing registry."""

from __future__ import annotations

from qgis.core import QgsApplication

from geosiam_processing.provider import GeosiamProvider


class GeosiamPlugin:
    """The plugin, which is its Processing provider and nothing else."""

    def __init__(self) -> None:
        self._provider: GeosiamProvider | None = None

    def initProcessing(self) -> None:
        """Add the provider; this is all that qgis_process calls."""
        self._provider = GeosiamProvider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Add the provider to the toolbox of the desktop."""
        self.initProcessing()

    def unload(self) -> None:
        """Take the provider away."""
        if self._provider is not None:
            QgsApplication.processingRegistry().removeProvider(self._provider)
            self._provider = None
