"""Opens and reads broken copies of small GeoTIFFs, with little memory and time for each; says what went wrong.

    python tests/imagery/fuzz_worker.py FOLDER SEED CASES

A process of its own, because a decoder may take all memory or break down. It prints one JSON object: how many pairs
were answered and refused, the peak of memory, and what went wrong.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from geosiam.errors import GeosiamError
from geosiam.imagery.grid import Window
from geosiam.imagery.pair import NEUTRAL
from geosiam.imagery.prepare import open_pair

MEMORY = 3 * 2**30
SECONDS = 20
UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
KINDS = {
    "plain": ("uint8", 3, {}),
    "tiled": ("uint16", 3, TILED | {"compress": "deflate", "predictor": 2}),
    "jpeg": ("uint8", 3, TILED | {"compress": "jpeg", "photometric": "ycbcr"}),
    "lzw": ("int16", 1, {"compress": "lzw", "nodata": -999, "blockysize": 7}),
    "floats": ("float32", 4, {"compress": "zstd", "interleave": "band"}),
    "alpha": ("uint8", 4, {"colors": RGBA, "compress": "packbits"}),
    "palette": ("uint8", 1, {"photometric": "palette", "nodata": 3}),
    "big": ("float64", 2, {"BIGTIFF": "YES"} | TILED),
    "mask": ("uint8", 3, {"mask": True}),
}


def make(folder: Path, kind: str) -> Path:
    """Write a small GeoTIFF of a kind."""
    dtype, count, options = KINDS[kind]
    options = dict(options)
    path = folder / f"{kind}.tif"
    colors, mask = options.pop("colors", None), options.pop("mask", False)
    image = np.random.default_rng(len(kind)).integers(1, 250, (count, 100, 130)).astype(dtype)
    profile = {"driver": "GTiff", "crs": "EPSG:32633", "transform": UTM, "dtype": dtype, "count": count}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", height=100, width=130, **profile, **options) as file,
    ):
        if kind == "palette":
            file.write_colormap(1, {i: (i, 255 - i, 7, 255) for i in range(256)})
        if colors:
            file.colorinterp = colors
        file.write(image)
        if mask:
            file.write_mask(image[0] > 20)
    return path


def broken(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with a few bytes changed, mostly in its directory, or a part of it missing."""
    data = bytearray(content)
    start = int.from_bytes(data[4:8], "little") if data[2] == 42 else int.from_bytes(data[8:16], "little")
    how = random.integers(6)
    if how == 0:
        return bytes(data[: random.integers(1, len(data))])
    if how == 1:
        position = int(random.integers(len(data)))
        length = int(random.integers(1, 400))
        return bytes(data[:position] + data[position + length :])
    for _ in range(random.integers(1, 4)):
        near = min(len(data) - 1, start + int(random.integers(0, 260)))
        position = near if how < 5 else int(random.integers(len(data)))
        value = random.choice([0, 1, 2, 127, 128, 255, int(random.integers(256))])
        for offset in range(int(random.choice([1, 1, 2, 4, 8]))):
            if position + offset < len(data):
                data[position + offset] = value
    return bytes(data)


def check(before: Path, after: Path) -> None:
    """Open and read a pair; what it says must hold."""
    with open_pair(before, after) as pair:
        json.dumps(pair.report.to_dict(), allow_nan=False)
        rows, cols = pair.grid.shape
        for corner in ((0, 0), (rows - 1, cols - 1), (pair.overlap.row_start, pair.overlap.col_start)):
            window = Window(corner[0] - 5, corner[0] + 90, corner[1] - 5, corner[1] + 90)
            block = pair.read(window)
            assert (block.valid == pair.valid(window)).all()
            for scene in (block.before, block.after):
                assert scene.shape == (3, 95, 95)
                assert (scene >= 0).all()
                assert (scene <= 1).all()
                assert (scene[:, ~block.valid] == NEUTRAL).all()


def stopped(*_: object) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


def main() -> None:
    """Try the cases of a seed."""
    folder, seed, cases = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=PendingDeprecationWarning)  # rasterio multiplies the old way
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, stopped)
    random = np.random.default_rng(seed)
    originals = {kind: make(folder, kind) for kind in KINDS}
    outcomes: Counter[str] = Counter()
    wrong = []
    for case in range(cases):
        kind = str(random.choice(list(KINDS)))
        path = folder / f"broken_{kind}.tif"
        path.write_bytes(broken(originals[kind].read_bytes(), random))
        other = originals[str(random.choice(list(KINDS)))]
        pair = [(path, path), (path, other), (other, path)][random.integers(3)]
        start = time.monotonic()
        signal.alarm(SECONDS)
        try:
            check(*pair)
            outcomes["answered"] += 1
        except GeosiamError as error:
            outcomes["refused"] += 1
            if "\n" in str(error):
                wrong.append(f"case {case} ({kind}): more than a line: {error}")
        except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
            wrong.append(f"case {case} ({kind}): {traceback.format_exc(limit=-3)}")
            path.rename(folder / f"wrong_{seed}_{case}.tif")
        finally:
            signal.alarm(0)
        outcomes["slowest ms"] = max(outcomes["slowest ms"], int(1000 * (time.monotonic() - start)))
    status = Path("/proc/self/status")  # of this program alone: what getrusage counts began in the one that started it
    if status.exists():
        peak = int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) // 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps({"outcomes": dict(outcomes), "peak MiB": peak, "wrong": wrong}))


if __name__ == "__main__":
    main()
