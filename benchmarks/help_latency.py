"""Measure how long a person waits for ``geosiam --help``: the whole process, start to end.

Run with ``python benchmarks/help_latency.py``. The target is 0.4 s; what breaks it is a heavy import at the top of a
module that the command line loads (see tests/test_imports.py).
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

TARGET_S = 0.4
REPEATS = 10


def seconds(args: list[str]) -> list[float]:
    """Return the wall times of ``REPEATS`` runs, after one that warms the disk cache."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "geosiam_cli", *args], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Print one line per command."""
    print(f"Python {platform.python_version()}, {platform.machine()}; {REPEATS} runs each, target {TARGET_S} s")
    for args in (["--help"], ["detect", "--help"], ["models", "--help"]):
        times = seconds(args)
        median, worst = statistics.median(times), max(times)
        verdict = "met" if worst < TARGET_S else "missed"
        print(f"geosiam {' '.join(args):<14}  median {median:.3f} s  slowest {worst:.3f} s  target {verdict}")


if __name__ == "__main__":
    main()
