"""The plugin's one setting."""

from __future__ import annotations

EXECUTABLE = "GEOSIAM_EXECUTABLE"
"""Name of the setting, and of the environment variable that is used if the setting is empty."""
