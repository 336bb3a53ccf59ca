"""What `geosiam info` and `geosiam detect` make of odd rasters: a right answer or one line, never anything else.

    python benchmarks/odd_rasters.py --data DIR > docs/odd-rasters.md

Takes every .tif of a folder against itself, against itself moved by a part of a pixel and changed in the middle, and
against every other one, through the command line with warnings as errors. Prints a Markdown table, and exits with 1 if
anything ended otherwise than with an answer or exit code 3 and one line.
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
from dataclasses import dataclass
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError

from geosiam_cli.main import main as geosiam

REFUSED = 3


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, what it said of the pair, polygons found, lines on stderr."""

    code: int
    words: str
    count: int | None
    seconds: float

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


def detect(before: Path, after: Path, folder: Path) -> Outcome:
    """Run `geosiam detect` and leave nothing behind."""
    target = folder / "found.gpkg"
    outcome = run("detect", str(before), str(after), "-o", str(target))
    if outcome.code and target.exists():
        return Outcome(-1, "refused, and yet there is a result", None, outcome.seconds)
    for made in folder.glob("found.*"):
        made.unlink()
    return outcome


def changed(path: Path, folder: Path) -> Path | None:
    """Write the raster again, moved by a part of a pixel and with its middle upside down; None if it breaks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as file:
                image, profile, colours = file.read(), file.profile, file.colorinterp
                table = file.colormap(1) if colours[0].name == "palette" else None
                masked = MaskFlags.per_dataset in file.mask_flag_enums[0] and "alpha" not in {c.name for c in colours}
                mask = file.read_masks(1) if masked else None
                gcps, rpcs, transform = file.gcps, file.rpcs, file.transform
                units = file.scales, file.offsets
    except (RasterioError, OSError):
        return None
    rows, cols = (slice(size // 3, max(size // 3 + 1, 2 * size // 3)) for size in image.shape[1:])
    image[:, rows, cols] = image[:, rows, cols][:, ::-1, ::-1]
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
                file.colorinterp = colours
    return target


def said(outcome: Outcome, folder: Path) -> str:
    """Return an outcome in a few words, without the path of the folder."""
    if outcome.code == 0:
        answer = f"{outcome.count} polygons" if outcome.count is not None else "answered"
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
        other = detect(path, altered, folder) if altered else None
        wrong += [f"{path.name}: {o.words}" for o in (info, same, other) if o is not None and not o.fine]
        if info.code != same.code or (same.code == 0 and same.count):
            wrong.append(f"{path.name}: {same.count} polygons between a scene and itself (info: {info.code})")
        whole = said(same, path.parent)
        moved = "-" if other is None or other.code else said(other, folder)
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
    print("| file | exit code | with itself | moved by a part of a pixel, its middle turned | with the other files |")
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
