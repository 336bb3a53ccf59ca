"""The plugin's one setting."""

from __future__ import annotations

EXECUTABLE = "GEOSIAM_EXECUTABLE"
"""Name of the setting, and of the environment variable that counts where it is empty."""
