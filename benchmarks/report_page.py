"""Measure the size of the page of `geosiam report`, and the time that headless Chromium takes to open it.

    python benchmarks/report_page.py
    python benchmarks/report_page.py --pictures docs/images    # the pictures of docs/report.md

Makes pages of generated scenes with 0, 25 and 5,000 anomalies, opens each from its file in a fresh browser, and prints
the median from the start of navigation to the drawn page. Ends with 1 where one takes 2 seconds or more. Needs
playwright and a Chromium, and says so where there is none.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
import shapely
from affine import Affine

from geosiam.pipeline import detect
from geosiam.polygons.geopackage import LAYER
from geosiam.polygons.results import open_geopackage
from geosiam.polygons.writer import write_polygons
from geosiam.report import ReportOptions, ReportPair, UnmatchedScene, find_pairs, write_report
from geosiam.synthesis.pairs import SyntheticConfig, write_pair_tiles

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LIMIT_S = 2.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def generate_pair(folder: Path, seed: int = 0, size: int = 1024, east: float = 0.0) -> ReportPair:
    """Return a generated pair, moved to the east by some meters, with the results of `detect`."""
    folder.mkdir(parents=True)
    scenes = write_pair_tiles(SyntheticConfig(height=size, width=size, seed=seed), folder)
    scenes.truth.unlink()
    for scene in (scenes.before, scenes.after):
        with rasterio.open(scene, "r+") as file:
            file.transform = Affine.translation(east, 0) @ file.transform
    detect(scenes.before, scenes.after, folder / "anomalies.gpkg")
    return find_pairs([folder])[0]


def with_anomalies(pair: ReportPair, folder: Path, count: int) -> ReportPair:
    """Return the pair with its polygons replaced by this number of squares all over the scene."""
    assert pair.anomalies is not None
    anomalies = geopandas.read_file(pair.anomalies, layer=LAYER)
    rng = np.random.default_rng(0)
    left, bottom, right, top = anomalies.total_bounds
    x, y = rng.uniform(left, right, count), rng.uniform(bottom, top, count)
    squares = [shapely.MultiPolygon([shapely.box(a, b, a + 0.8, b + 0.8)]) for a, b in zip(x, y, strict=True)]
    repeated = anomalies.iloc[np.zeros(count, int)].reset_index(drop=True)
    repeated = repeated.set_geometry(geopandas.GeoSeries(squares, crs=anomalies.crs))
    repeated["id"] = np.arange(1, count + 1)
    repeated["score_mean"] = rng.uniform(0.5, 1, count)
    target = folder / f"{count}.gpkg"
    with open_geopackage(pair.anomalies) as db:
        ((provenance,),) = db.execute("SELECT provenance FROM runs")
    write_polygons(repeated, target, provenance=json.loads(provenance))
    return replace(pair, name=f"{count} anomalies", anomalies=target)


def seconds(browser: Browser, page: Path) -> float:
    """Open a page in a fresh context; return the seconds until it is drawn."""
    context = browser.new_context()
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(page.as_uri())
    opened.wait_for_selector("html[data-ready]")
    drawn = opened.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
    )
    context.close()
    assert not errors, errors
    return float(drawn) / 1000


def measure(browser: Browser, folder: Path, runs: int) -> bool:
    """Print the table; return whether all pages open in time."""
    pair = generate_pair(folder / "village")
    print(f"{platform.machine()}, Chromium {browser.version}, {runs} runs each, median (worst);")
    print("| anomalies | cards | page | opens in |\n|---|---|---|---|")
    in_time = True
    for pair_to_show in (with_anomalies(pair, folder, 0), pair, with_anomalies(pair, folder, 5000)):
        result = write_report([pair_to_show], folder / pair_to_show.name)
        took = [seconds(browser, result.path) for _ in range(runs)]
        in_time &= statistics.median(took) < LIMIT_S
        size = f"{result.size / 1e6:.1f} MB"
        print(f"| {result.anomalies} | {result.cards} | {size} | {statistics.median(took):.2f} s ({max(took):.2f} s) |")
    return in_time


def draw(browser: Browser, folder: Path, pictures: Path) -> None:
    """Make the pictures of the documentation, of generated scenes only."""
    places = (("riverside", 3, 0.0), ("village", 0, 110.0), ("harbour-road", 7, 220.0))
    pairs = [generate_pair(folder / name, seed, east=east) for name, seed, east in places]
    failed = ReportPair("north-field", "2026-05/north.tif", "2026-06/north.tif", None, None, "failed",
                        error="2026-06/north.tif: cannot be opened (truncated); copy or export it again")  # fmt: skip
    unmatched = UnmatchedScene("2026-06/quarry.tif", "no before scene has its name or covers the same ground")
    options = ReportOptions(title="Weekly survey")
    result = write_report([*pairs, failed], folder / "page", options=options, unmatched=[unmatched])
    shots: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
        ("report-review", {"viewport": {"width": 1440, "height": 940}}, ("c", "c", "r", "c", "u", "c")),
        ("report-swipe", {"viewport": {"width": 1440, "height": 940}, "color_scheme": "dark"}, ("c", "r", "c", "2")),
        ("report-phone", {"viewport": {"width": 375, "height": 812}, "device_scale_factor": 2}, ()),
    ]
    for name, settings, keys in shots:
        context = browser.new_context(**settings)
        page: Page = context.new_page()
        page.goto(result.path.as_uri())
        page.wait_for_selector("html[data-ready]")
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(1000)  # the map glides to its place
        page.screenshot(path=pictures / f"{name}.png")
        context.close()


def main() -> int:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw into this folder in place of measuring")
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("playwright is not installed: nothing measured")
        return 0
    if CHROMIUM is None:
        print("there is no Chromium here: nothing measured")
        return 0
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        folder = Path(temporary)
        if options.pictures is not None:
            draw(browser, folder, options.pictures)
            return 0
        return 0 if measure(browser, folder, options.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
