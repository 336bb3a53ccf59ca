"""How long `geosiam detect` takes from process start to the closed GeoPackage, and how much memory at its peak.

    python benchmarks/end_to_end.py --size 4096 --runs 3

Generates a survey pair of that size once (in --folder, where later runs find it), then runs the command in processes
of their own, for each precision and number of workers, and prints the median.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from geosiam.synthesis.survey import SurveyConfig, write_survey_tiles

CASES = [("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)]


def pair(size: int, folder: Path) -> tuple[Path, Path]:
    """Return the two scenes, generated unless they are there."""
    before, after = folder / "before.tif", folder / "after.tif"
    if not (before.exists() and after.exists()):
        write_survey_tiles(SurveyConfig(height=size, width=size, seed=1, objects=size // 32), folder)
    return before, after


def run(before: Path, after: Path, output: Path, precision: str, workers: int) -> float:
    """Run the command once; return the seconds it took."""
    command = [sys.executable, "-m", "geosiam_cli", "detect", str(before), str(after), "-o", str(output)]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--precision", precision, "--workers", str(workers), "-q"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    """Run all cases, interleaved, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="side of the scenes in pixels")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the scenes are or go; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        before, after = pair(options.size, folder)
        seconds: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
        for _ in range(options.runs):
            for case in CASES:
                seconds[case].append(run(before, after, Path(temporary) / "found.gpkg", *case))
    megapixels = options.size**2 / 1e6
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{platform.machine()}, {options.size} x {options.size} px RGB deflate, {options.runs} runs, median (worst);")
    print(f"peak memory of the largest process {peak:.0f} MiB\n")
    print("| precision | workers | seconds | Mpx/s |\n|---|---|---|---|")
    for (precision, workers), times in seconds.items():
        median = statistics.median(times)
        print(f"| {precision} | {workers} | {median:.1f} ({max(times):.1f}) | {megapixels / median:.1f} |")


if __name__ == "__main__":
    main()
