"""Results to make pages of, and a browser to open them in."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from report_samples import SIZE, UTM, record, squares, write_scene

from geosiam.polygons.writer import write_polygons
from geosiam.report import ReportOptions, ReportPair, find_pairs, write_report
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rasterio.crs import CRS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def make_pair(tmp_path: Path) -> Callable[..., ReportPair]:
    """Return a function that makes a pair with some polygons, and scenes of noise if wanted."""

    def make(name: str, count: int = 3, *, scenes: bool = False, crs: CRS = UTM) -> ReportPair:
        folder = tmp_path / name.replace("/", "_")
        folder.mkdir()
        write_polygons(squares(count, crs), folder / "anomalies.gpkg", provenance=record(folder))
        if scenes:
            rng = np.random.default_rng(0)
            for which in ("before", "after"):
                write_scene(folder / f"{which}.tif", rng.integers(0, 255, (3, SIZE, SIZE), np.uint8), crs)
        pair = find_pairs([folder])[0]
        return ReportPair(name, pair.before, pair.after, pair.scores, pair.anomalies)

    return make


@pytest.fixture(scope="session")
def village(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a generated pair and what `detect` found in it."""
    from geosiam.options import DetectOptions
    from geosiam.pipeline import detect

    folder = tmp_path_factory.mktemp("village") / "village"
    folder.mkdir()
    scenes = write_pair_tiles(SyntheticConfig(height=512, width=512, seed=3, objects=10), folder)
    scenes.truth.unlink()
    detect(scenes.before, scenes.after, folder / "anomalies.gpkg", options=DetectOptions(register=False))
    return folder


@pytest.fixture(scope="session")
def village_page(village: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of `village`."""
    folder = tmp_path_factory.mktemp("page")
    return write_report(find_pairs([village]), folder, options=ReportOptions(title="A village")).path


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Return a headless Chromium, or skip."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()
