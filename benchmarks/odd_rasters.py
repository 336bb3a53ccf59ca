"""What `geosiam info` and `geosiam detect` make of odd rasters: a right answer or one line, never anything else.

    python benchmarks/odd_rasters.py --data DIR > docs/odd-rasters.md

Takes every .tif of a folder against itself, against itself moved by a part of a pixel and changed in a part, and
against every other one, through the command line with warnings as errors. Prints a Markdown table, and exits with 1 if
anything ended otherwise than with an answer or exit code 3 and one line.

The part that is changed is the middle ninth, or that with the most valid pixels where half of the middle is not valid.
It is turned upside down; where that looks the same, its values are halved. The table says how many polygons lie there,
and where there are none, how much there was to be seen.
"""

from __future__ import annotations

import argparse
import contextlib
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
EXPLAINED = """\
Each file is compared with itself, with a copy of itself, and with each of the others. The copy is moved by 0.4 and 0.3
px, and its middle ninth is turned upside down (another ninth where the middle is not valid; values are halved where
turning changes nothing). *There* are polygons that meet this part; the others are what the move by a part of a pixel
does to sharp edges, or to data that are no picture. Where none is there, brackets say how much there was to be seen.
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, what it said of the pair, polygons found in all and where looked for."""

    code: int
    words: str
    count: int | None
    seconds: float
    there: int | None = None

    @property
    def fine(self) -> bool:
        """Whether it is an answer, or a refusal of one line."""
        return self.code == 0 or (self.code == REFUSED and "\n" not in self.words)


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
    said = result.get("warnings", result.get("summary", {}).get("warnings", []))
    return Outcome(code, "; ".join(said), result.get("count"), seconds)


def detect(before: Path, after: Path, folder: Path, part: shapely.Polygon | None = None) -> Outcome:
    """Run `geosiam detect`, count the polygons that lie in a part, and leave nothing behind."""
    target = folder / "found.gpkg"
    outcome = run("detect", str(before), str(after), "-o", str(target))
    if outcome.code and target.exists():
        return Outcome(-1, "refused, and yet there is a result", None, outcome.seconds)
    if part is not None and not outcome.code:
        there = int(geopandas.read_file(target, layer="anomalies").intersects(part).sum())
        outcome = replace(outcome, there=there)
    for made in folder.glob("found.*"):
        made.unlink()
    return outcome


@dataclass(frozen=True)
class Changed:
    """A copy of a raster with a part of it changed: its path, and the part in pixels."""

    path: Path
    rows: slice
    cols: slice

    def outline(self, original: Path) -> shapely.Polygon:
        """Return where the part lies, in the CRS of the original."""
        with rasterio.open(original) as file:
            corners = [
                (col, row) for row in (self.rows.start, self.rows.stop) for col in (self.cols.start, self.cols.stop)
            ]
            return shapely.MultiPoint([file.transform @ corner for corner in corners]).convex_hull

    def visible(self, original: Path) -> str:
        """Return in words how much of the change geosiam can see."""
        height, width = self.rows.stop - self.rows.start, self.cols.stop - self.cols.start
        with open_pair(str(original), str(self.path)) as pair:
            seen = pair.read(Window(self.rows.start, self.rows.stop, self.cols.start, self.cols.stop))
        if not seen.valid.any():
            return "no pixel of the part is valid in both"
        apart = float(np.abs(seen.after - seen.before).max(axis=0)[seen.valid].mean())
        return f"the part has {height} x {width} px, which differ by {apart:.1%} of the range on average"


def changed(path: Path, folder: Path) -> Changed | None:
    """Write the raster again, moved by a part of a pixel and with a part of it changed; None if it breaks."""
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
    place = {"gcps": gcps[0], "crs": gcps[1]} if gcps[0] else {"transform": transform @ Affine.translation(0.4, 0.3)}
    options = {"driver": "GTiff", "photometric": "palette"} if table else {"driver": "GTiff"}
    kept = {key: profile[key] for key in ("dtype", "count", "width", "height", "crs", "nodata")}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        with rasterio.open(target, "w", **(kept | options | place)) as file:
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
    return Changed(target, rows, cols)


def most_valid_part(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the middle ninth, or that with the most valid pixels if less than half of the middle is."""

    def third(size: int, number: int) -> slice:
        start = size * number // 3
        return slice(start, max(start + 1, size * (number + 1) // 3))

    ninths = [(third(valid.shape[0], i), third(valid.shape[1], j)) for i in (1, 0, 2) for j in (1, 0, 2)]
    return ninths[0] if 2 * valid[ninths[0]].mean() >= 1 else max(ninths, key=lambda part: valid[part].mean())


def change(image: NDArray[Any], valid: NDArray[np.bool_], bands: list[int], rows: slice, cols: slice) -> None:
    """Turn a part upside down; where that looks the same, halve its valid values."""
    part = image[bands, rows, cols]
    turned = part[:, ::-1, ::-1]
    same = np.isclose(part.astype(complex), turned, rtol=0.01, equal_nan=True).all()
    image[bands, rows, cols] = np.where(valid, (part / 2).astype(part.dtype), part) if same else turned


def said(outcome: Outcome, folder: Path) -> str:
    """Return an outcome in a few words, without the path of the folder."""
    if outcome.code == 0:
        answer = f"{outcome.count} polygons" if outcome.count is not None else "answered"
        answer += f", {outcome.there} of them there" if outcome.there is not None and outcome.count else ""
        return f"{answer}: {outcome.words}" if outcome.words else answer
    return outcome.words.removeprefix("geosiam: error: ").replace(f"{folder}/", "")


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def examine(paths: list[Path], folder: Path) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table, and what went wrong."""
    rows, wrong = [], []
    answers: dict[Path, list[int]] = {path: [] for path in paths}
    for first, second in itertools.permutations(paths, 2):
        outcome = detect(first, second, folder)
        answers[first].append(outcome.code)
        if not outcome.fine:
            wrong.append(f"{first.name} with {second.name}: {outcome.words}")
    for path in paths:
        info, same = run("info", str(path), str(path)), detect(path, path, folder)
        altered = changed(path, folder)
        whereabouts = altered.outline(path) if altered and not same.code else None
        other = detect(path, altered.path, folder, whereabouts) if altered else None
        wrong += [f"{path.name}: {o.words}" for o in (info, same, other) if o is not None and not o.fine]
        if info.code != same.code or (same.code == 0 and same.count):
            wrong.append(f"{path.name}: {same.count} polygons between a scene and itself (info: {info.code})")
        whole = said(same, path.parent)
        moved = "-" if altered is None or other is None or other.code else said(other, folder)
        if altered is not None and other is not None and not other.code and not other.there:
            moved += f" ({altered.visible(path)})"
        ways = f"{answers[path].count(0)} answered, {len(answers[path]) - answers[path].count(0)} refused"
        rows.append([path.name, str(same.code), whole, moved, ways])
    return rows, wrong


def main() -> int:
    """Examine a folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of odd rasters")
    paths = sorted(parser.parse_args().data.glob("*.tif"))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        rows, wrong = examine(paths, Path(temporary))
    print("# Odd rasters\n\nMade by `python benchmarks/odd_rasters.py --data DIR`, with the files the tests read.\n")
    print(EXPLAINED)
    print(
        "| file | exit code | with itself | moved by a part of a pixel, a part of it changed | with the other files |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(cell(text) for text in row)} |")
    print(
        f"\n{len(paths)} files, {len(paths) ** 2 + 2 * len(paths)} runs; neither an answer nor one line: {len(wrong)}"
    )
    for text in wrong:
        print(f"- {cell(text[-300:])}")
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
