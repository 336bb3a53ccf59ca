"""``python -m geosiam_cli`` is ``geosiam``."""

from __future__ import annotations

from geosiam_cli.main import program

program()
