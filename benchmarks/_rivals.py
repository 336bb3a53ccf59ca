"""Run another program's estimate of a displacement on two files; started by `registration.py` with an interpreter.

    python _rivals.py arosics before.tif after.tif out.npz WINDOW GRID
    python _rivals.py efolki before.tif after.tif out.npz FOLDER

``out.npz`` holds ``field``, float32 (2, rows, cols): pixels to the right and down by which the content of the second
file lies beside that of the first, NaN = not known; and ``seconds``, wall and CPU time without imports.

It needs only the other program and what that program needs itself. AROSICS: tie points every GRID pixels from windows
of WINDOW pixels, shifts up to 100 pixels; the points that it does not call outliers are interpolated linearly. EFolki,
GeFolki's variant for two optical scenes: 6 levels, radii from 32 down to 8, 2 iterations, rank 4.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SHIFT_PX = 100


def by_arosics(before: str, after: str, window: str, grid: str) -> NDArray[np.float32]:
    """Return the field of AROSICS' local co-registration."""
    from arosics import COREG_LOCAL
    from osgeo import gdal
    from scipy.interpolate import LinearNDInterpolator

    gdal.UseExceptions()
    file = gdal.Open(before)
    rows, cols = file.RasterYSize, file.RasterXSize
    settings = {"window_size": (int(window), int(window)), "grid_res": int(grid), "max_shift": MAX_SHIFT_PX}
    local = COREG_LOCAL(before, after, **settings, CPUs=1, q=True, progress=False, ignore_errors=True)
    points = local.CoRegPoints_table
    points = points[points.X_SHIFT_PX.ne(local.outFillVal) & (points.OUTLIER == 0)]
    if len(points) < 3:
        return np.full((2, rows, cols), np.nan, np.float32)
    shifts = -points[["X_SHIFT_PX", "Y_SHIFT_PX"]].to_numpy(float)  # those that the second file is corrected by
    between = LinearNDInterpolator(points[["X_IM", "Y_IM"]].to_numpy(float), shifts)
    field = np.moveaxis(between(*np.meshgrid(np.arange(cols), np.arange(rows))), -1, 0)
    return field.astype(np.float32)


def by_efolki(before: str, after: str, _folder: str) -> NDArray[np.float32]:
    """Return the field of EFolki, whose modules can be imported."""
    import rasterio
    from algorithm import EFolki

    gray = []
    for path in (before, after):
        with rasterio.open(path) as file:
            gray.append(file.read([1, 2, 3]).mean(axis=0, dtype=np.float32))
    u, v = EFolki(*gray, iteration=2, radius=[32, 24, 16, 8], rank=4, levels=6)
    return np.stack([u, v]).astype(np.float32)


def main() -> None:
    """Run what the command line names."""
    name, first, second, target, *more = sys.argv[1:]
    if name == "arosics":
        import arosics as _
    else:
        sys.path.insert(0, str(Path(more[0]) / "python"))
        import algorithm as _  # noqa: F401
    start = np.array([time.perf_counter(), time.process_time()])
    field = {"arosics": by_arosics, "efolki": by_efolki}[name](first, second, *more)
    seconds = np.array([time.perf_counter(), time.process_time()]) - start
    np.savez(target, field=field, seconds=seconds)


if __name__ == "__main__":
    main()
