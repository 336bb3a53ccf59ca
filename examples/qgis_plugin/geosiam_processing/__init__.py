"""geosiam in QGIS's Processing toolbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qgis.gui import QgisInterface

    from geosiam_processing.plugin import GeosiamPlugin


def classFactory(_iface: QgisInterface | None) -> GeosiamPlugin:
    """Return the plugin; QGIS asks for it by this name, without an interface in qgis_process."""
    from geosiam_processing.plugin import GeosiamPlugin  # noqa: PLC0415 - metadata may be asked for without QGIS

    return GeosiamPlugin()
