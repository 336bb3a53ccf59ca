"""What several rooms' tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real scenes, or skip."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GEOSIAM_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: GEOSIAM_DATA is unset and {default} does not exist")
    return folder
