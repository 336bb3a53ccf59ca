"""Check that `geosiam info` and `geosiam detect` handle unusual rasters: with results or a one-line refusal.

    python benchmarks/odd_rasters.py --data DIR > docs/odd-rasters.md

Compares each .tif of a folder with itself, with a copy that is shifted by a fraction of a pixel and changed in a part,
and with each of the others, through the command line with warnings as errors. Prints a page in Markdown, and exits with
1 if anything ended otherwise than with results, or with exit code 3 and one line.

The changed part is the middle ninth, or the ninth with the most valid pixels if half of the middle is not valid. It is
turned upside down; if that looks the same, its values are halved. The table says how many polygons overlap the part
and, if none does, how much of the change was visible.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
import shapely
import shapely.affinity
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError

from geosiam.imagery.grid import Window
from geosiam.imagery.prepare import open_pair
from geosiam_cli.main import main as geosiam

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFUSED = 3
INTRODUCTION = """\
# Unusual rasters

How geosiam handles forty unusual files: with results, or with a one-line refusal that names the remedy. Made by
`python benchmarks/odd_rasters.py --data DIR`, with the files that the tests read.

Each file is compared with itself, with a modified copy of itself, and with each of the others. The copy is shifted by
0.4 and 0.3 px, and its middle ninth is turned upside down (another ninth if the middle is not valid; values are halved
if turning changes nothing). Polygons *there* overlap this part; the others are caused by the subpixel shift at sharp
edges, or in data that are not images. If no polygon is there, parentheses say how much of the change was visible.
"""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a command.

    Parameters
    ----------
    code
        Exit code.
    message
        Warnings about the pair, or the error message.
    count
        Total number of polygons; None if the command gives none.
    seconds
        Wall time.
    in_part
        Number of polygons that overlap the changed part.
    """

    code: int
    message: str
    count: int | None
    seconds: float
    in_part: int | None = None

    @property
    def fine(self) -> bool:
        """True if the command gave results or a one-line refusal."""
        return self.code == 0 or (self.code == REFUSED and "\n" not in self.message)


def run(*arguments: str) -> Outcome:
    """Run the command line in this process, with warnings as errors."""
    out, err = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)  # rasterio multiplies the old way
        code = geosiam([*arguments, "--json"])
    seconds = time.perf_counter() - start
    if code:
        return Outcome(code, err.getvalue().strip(), None, seconds)
    result = json.loads(out.getvalue())
    messages = result.get("warnings", result.get("summary", {}).get("warnings", []))
    return Outcome(code, "; ".join(messages), result.get("count"), seconds)


def detect(before: Path, after: Path, folder: Path, part: shapely.Polygon | None = None) -> Outcome:
    """Run `geosiam detect`, count the polygons that overlap a part, and delete the results."""
    target = folder / "found.gpkg"
    outcome = run("detect", str(before), str(after), "-o", str(target))
    if outcome.code and target.exists():
        return Outcome(-1, "refused, but a result exists", None, outcome.seconds)
    if part is not None and not outcome.code:
        in_part = int(geopandas.read_file(target, layer="anomalies").intersects(part).sum())
        outcome = replace(outcome, in_part=in_part)
    for file in folder.glob("found.*"):
        file.unlink()
    return outcome


@dataclass(frozen=True)
class ChangedCopy:
    """A copy of a raster with a changed part: its path, and the part in pixels."""

    path: Path
    rows: slice
    cols: slice

    def outline(self, original: Path) -> shapely.Polygon:
        """Return the outline of the part in the CRS of the original."""
        with rasterio.open(original) as file:
            corners = [
                (col, row) for row in (self.rows.start, self.rows.stop) for col in (self.cols.start, self.cols.stop)
            ]
            return shapely.MultiPoint([file.transform @ corner for corner in corners]).convex_hull

    def visible(self, original: Path) -> str:
        """Describe how much of the change is visible to geosiam."""
        height, width = self.rows.stop - self.rows.start, self.cols.stop - self.cols.start
        with open_pair(str(original), str(self.path)) as pair:
            block = pair.read(Window(self.rows.start, self.rows.stop, self.cols.start, self.cols.stop))
        if not block.valid.any():
            return "no pixel of the part is valid in both"
        difference = float(np.abs(block.after - block.before).max(axis=0)[block.valid].mean())
        return f"the part has {height} x {width} px, which differ by {difference:.1%} of the range on average"


def write_changed_copy(path: Path, folder: Path) -> ChangedCopy | None:
    """Write a copy of a raster, shifted by a fraction of a pixel and changed in a part; None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as file:
                image, profile, colors = file.read(), file.profile, file.colorinterp
                table = file.colormap(1) if colors[0].name == "palette" else None
                alpha = [i for i, color in enumerate(colors) if color.name == "alpha"]
                masked = MaskFlags.per_dataset in file.mask_flag_enums[0] and not alpha
                mask = file.read_masks(1) if masked else None
                valid = file.dataset_mask() > 0
                gcps, rpcs, transform = file.gcps, file.rpcs, file.transform
                units = file.scales, file.offsets
    except (RasterioError, OSError):
        return None
    rows, cols = most_valid_part(valid)
    bands = [i for i in range(len(image)) if i not in alpha]
    change(image, valid[rows, cols], bands, rows, cols)
    target = folder / path.name
    georeference = (
        {"gcps": gcps[0], "crs": gcps[1]} if gcps[0] else {"transform": transform @ Affine.translation(0.4, 0.3)}
    )
    options = {"driver": "GTiff", "photometric": "palette"} if table else {"driver": "GTiff"}
    profile = {key: profile[key] for key in ("dtype", "count", "width", "height", "crs", "nodata")}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        with rasterio.open(target, "w", **(profile | options | georeference)) as file:
            file.write(image)
            file.scales, file.offsets = units
            if table:
                file.write_colormap(1, table)
            if mask is not None:
                file.write_mask(mask > 0)
            if rpcs is not None:
                file.rpcs = rpcs
            if not table:
                file.colorinterp = colors
    return ChangedCopy(target, rows, cols)


def most_valid_part(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the middle ninth, or the one with the most valid pixels if less than half of the middle is valid."""

    def third(size: int, number: int) -> slice:
        start = size * number // 3
        return slice(start, max(start + 1, size * (number + 1) // 3))

    ninths = [(third(valid.shape[0], i), third(valid.shape[1], j)) for i in (1, 0, 2) for j in (1, 0, 2)]
    return ninths[0] if 2 * valid[ninths[0]].mean() >= 1 else max(ninths, key=lambda part: valid[part].mean())


def change(image: NDArray[Any], valid: NDArray[np.bool_], bands: list[int], rows: slice, cols: slice) -> None:
    """Turn a part upside down; if that looks the same, halve its valid values."""
    part = image[bands, rows, cols]
    turned = part[:, ::-1, ::-1]
    looks_the_same = np.isclose(part.astype(complex), turned, rtol=0.01, equal_nan=True).all()
    image[bands, rows, cols] = np.where(valid, (part / 2).astype(part.dtype), part) if looks_the_same else turned


def describe(outcome: Outcome, *folders: Path) -> str:
    """Describe an outcome without the paths of the folders."""
    message = functools.reduce(lambda text, folder: text.replace(f"{folder}/", ""), folders, outcome.message)
    if outcome.code == 0:
        answer = f"{outcome.count} polygons" if outcome.count is not None else "answered"
        answer += f", {outcome.in_part} of them there" if outcome.in_part is not None and outcome.count else ""
        return f"{answer}: {message}" if message else answer
    return message.removeprefix("geosiam: error: ")


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def examine(paths: list[Path], folder: Path) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table, and descriptions of all failures."""
    rows, failures = [], []
    codes: dict[Path, list[int]] = {path: [] for path in paths}
    for first, second in itertools.permutations(paths, 2):
        outcome = detect(first, second, folder)
        codes[first].append(outcome.code)
        if not outcome.fine:
            failures.append(f"{first.name} with {second.name}: {outcome.message}")
    for path in paths:
        info, same = run("info", str(path), str(path)), detect(path, path, folder)
        changed = write_changed_copy(path, folder)
        part = changed.outline(path) if changed and not same.code else None
        edited = detect(path, changed.path, folder, part) if changed else None
        failures += [f"{path.name}: {o.message}" for o in (info, same, edited) if o is not None and not o.fine]
        if info.code != same.code or (same.code == 0 and same.count):
            failures.append(f"{path.name}: {same.count} polygons between a scene and itself (info: {info.code})")
        with_copy = "-" if changed is None or edited is None or edited.code else describe(edited, folder, path.parent)
        if changed is not None and edited is not None and not edited.code and not edited.in_part:
            with_copy += f" ({changed.visible(path)})"
        with_others = f"{codes[path].count(0)} answered, {len(codes[path]) - codes[path].count(0)} refused"
        rows.append([path.name, str(same.code), describe(same, path.parent), with_copy, with_others])
    return rows, failures


def main() -> int:
    """Examine a folder and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of unusual rasters")
    paths = sorted(parser.parse_args().data.glob("*.tif"))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        rows, failures = examine(paths, Path(temporary))
    print(INTRODUCTION)
    print(
        "| file | exit code | with itself | moved by a part of a pixel, a part of it changed | with the other files |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(cell(text) for text in row)} |")
    runs = len(paths) ** 2 + 2 * len(paths)
    print(f"\n{len(paths)} files, {runs} runs; neither an answer nor one line: {len(failures)}")
    for text in failures:
        print(f"- {cell(text[-300:])}")
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
