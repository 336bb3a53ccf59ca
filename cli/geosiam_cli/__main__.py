"""``python -m geosiam_cli`` is ``geosiam``."""

from __future__ import annotations

import sys

from geosiam_cli.main import main

sys.exit(main())
