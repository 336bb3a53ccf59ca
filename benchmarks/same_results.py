"""Compare the results of two checkouts, bit by bit: for changes of the code that must not change results.

    python benchmarks/same_results.py --reference ../before --candidate . --data DIR
    python benchmarks/same_results.py --reference ../before --results kept --data DIR       # makes kept/reference
    python benchmarks/same_results.py --reference kept/reference --candidate . --data DIR   # spares half of the time

Runs `geosiam detect` of each checkout, in a process of its own that imports nothing of the other, on three real pairs
(scenes/naip, scenes/landsat and scenes/joplin in the folder of data) and on the pair that the reference's `geosiam
demo` generates, in int8 and in fp32; of the Landsat pair also with scores of type float32. Then it compares

- the score raster: every pixel, and also type, size, nodata, transform, CRS, scale, offset;
- the layers `anomalies` and `footprint`: geometries byte for byte, every column, the order, the CRS;
- what `geosiam vectorize` makes of the scores: with the reference, and with the polygons of `geosiam detect` except for
  the evidence that needs the scenes;
- the pair that the candidate's own `geosiam demo` generates, its truth, and what is found in it.

Only times are left out: they are different in each run. Prints a Markdown table, whose digest is that of everything
compared, and exits with 1 if anything differs or cannot be made.

Floating point is rounded in other ways on other processors and by other versions of PyTorch, so kept results are good
for one machine and environment. Where the processor cannot multiply bytes, `--emulate-int8` computes the same sums in
float64 for both sides.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
import rasterio
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.errors import RasterioError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    Facts = dict[str, Any]  # a name; an array, a column as a list of texts, or a text

DEMO = "demo"
PAIRS = {
    "naip": ("naip/m_4709963_se_14_1_20140720.tif", "naip/m_4709963_se_14_1_20170827.tif"),
    "landsat": ("landsat/2000.tif", "landsat/2015.tif"),
    "joplin": ("joplin/pre", "joplin/post"),
    DEMO: ("before.tif", "after.tif"),
}
FLOAT_SCORES = "landsat"  # the pair whose scores are also stored as they are
TIMES = {"created"}
EVIDENCE = {"shift_px", "shift_fraction", "shadow_fraction", "hint"}
LAYERS = ("anomalies", "footprint")
COMMAND = ["-m", "geosiam_cli"]
EMULATED = [str(Path(__file__).resolve().with_name("_exact_int8.py"))]
SHOWN = 3
WIDEST = 40


@dataclass(frozen=True)
class Case:
    """A pair, and the name and options of the way it is run.

    Parameters
    ----------
    pair
        A key of `PAIRS`.
    variant
        What the table calls the options.
    options
        Of `geosiam detect`; None: it is `geosiam demo` that is run, with defaults.
    emulated
        Whether sums of bytes are computed in float64.
    """

    pair: str
    variant: str
    options: tuple[str, ...] | None = None
    emulated: bool = False

    @property
    def folder(self) -> str:
        """Folder of the results, in the folder of all results."""
        return self.pair if self.options is None else f"{self.pair}-{self.variant}"


@dataclass(frozen=True)
class Run:
    """The exit code of a case, its text on stderr (`said`), and the elapsed seconds; saved beside the results."""

    code: int
    said: str
    seconds: float


@dataclass(frozen=True)
class Side:
    """One of the two sides of the comparison.

    Parameters
    ----------
    checkout
        Checkout that computes the results; None: they exist already.
    results
        Folder with a folder for each case.
    """

    checkout: Path | None
    results: Path

    def check(self) -> None:
        """End the script if this is no checkout, or a process would import geosiam from elsewhere."""
        if self.checkout is None:
            return
        script = "import geosiam, geosiam_cli; print(geosiam.__file__); print(geosiam_cli.__file__)"
        process = self._python("-c", script)
        modules = [Path(line).resolve() for line in process.stdout.splitlines()]
        if process.returncode or not all(path.is_relative_to(self.checkout) for path in modules):
            what = modules or process.stderr.strip()[-300:]
            raise SystemExit(f"{self.checkout} is no checkout of geosiam that can be run: {what}")

    def made(self, case: Case, data: Path | None, demo: Path) -> Run:
        """Run a case, or read the record of an earlier run."""
        folder = self.results / case.folder
        record = folder / "run.json"
        if self.checkout is None:
            if not record.exists():
                raise SystemExit(f"{self.results} has no results of {case.folder}; make them with the checkout")
            return Run(**json.loads(record.read_text(encoding="utf-8")))
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        if case.options is None:
            code, stderr = self._geosiam(case, DEMO, str(folder))
        else:
            place = demo if case.pair == DEMO or data is None else data / "scenes"
            scenes = [str(place / scene) for scene in PAIRS[case.pair]]
            code, stderr = self._geosiam(case, "detect", *scenes, "-o", str(folder / "found.gpkg"), *case.options)
        seconds = time.perf_counter() - start
        if not code and case.options is not None:
            arguments = str(folder / "found.tif"), "-o", str(folder / "vectorized.gpkg")
            code, errors = self._geosiam(case, "vectorize", *arguments)
            stderr += errors if code else ""
        run = Run(code, stderr, seconds)
        record.write_text(json.dumps(asdict(run), indent=2), encoding="utf-8")
        return run

    def _geosiam(self, case: Case, *arguments: str) -> tuple[int, str]:
        process = self._python(*(EMULATED if case.emulated else COMMAND), *arguments)
        return process.returncode, process.stderr

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python so that it finds geosiam in the checkout, whatever is installed and wherever this was started."""
        assert self.checkout is not None
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.checkout), str(self.checkout / "cli")])}
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def side(path: Path, results: Path) -> Side:
    """Return the side of a path: a checkout, or a folder with its results."""
    checkout = path.resolve()
    return Side(checkout, results) if (checkout / "geosiam").is_dir() else Side(None, checkout)


def cases(pairs: Sequence[str], precisions: Sequence[str], *, emulate: bool) -> list[Case]:
    """Return the cases to run, the generated pair first."""
    listed = [Case(DEMO, "generated, defaults")] if DEMO in pairs else []
    for pair in pairs:
        for precision in precisions:
            emulated = emulate and precision == "int8"
            name, options = precision + "-emulated" * emulated, ("--precision", precision)
            listed.append(Case(pair, name, options, emulated))
            if pair == FLOAT_SCORES:
                listed.append(Case(pair, f"{name}-float32", (*options, "--score-type", "float32"), emulated))
    return listed


def facts(folder: Path, case: Case) -> Facts:
    """Return all compared facts of a case's results."""
    if case.options is None:
        rasters, tables = ("before", "after", "anomalies"), {"truth": (None,), "anomalies": LAYERS}
    else:
        rasters, tables = ("found",), {"found": LAYERS, "vectorized": LAYERS}
    result = {}
    for name in rasters:
        result |= named(name, raster_facts(folder / f"{name}.tif"))
    for name, layers in tables.items():
        for layer in layers:
            result |= named(f"{name} {layer or ''}".strip(), layer_facts(folder / f"{name}.gpkg", layer))
    return result


def named(what: str, of_it: Facts) -> Facts:
    """Return facts with their subject as the prefix of their names."""
    return {f"{what}: {name}": value for name, value in of_it.items()}


def raster_facts(path: Path) -> Facts:
    """Return the compared facts of a raster, with its pixels as an array (bands, rows, cols)."""
    with rasterio.open(path) as raster:
        about = {
            "types": raster.dtypes,
            "size": raster.shape,
            "nodata": raster.nodatavals,
            "transform": tuple(raster.transform),
            "CRS": raster.crs.to_wkt() if raster.crs else None,
            "scales": raster.scales,
            "offsets": raster.offsets,
        }
        return {**{name: repr(value) for name, value in about.items()}, "pixels": raster.read()}


def layer_facts(path: Path, layer: str | None) -> Facts:
    """Return the compared facts of a layer (None: the first one), with its columns as lists of texts.

    A text is as exact as the number: `repr` gives a float all the digits that it needs.
    """
    about, table = pyogrio.read_arrow(path, layer=layer, return_fids=True)
    result: Facts = {name: repr(about[name]) for name in ("crs", "geometry_type", "geometry_name")}
    result |= {"columns": ", ".join(table.column_names), "rows": str(len(table))}
    for name in table.column_names:
        result[f"type of {name}"] = str(table.schema.field(name).type)
        if name not in TIMES:
            values = table[name].to_pylist()
            result[name] = [value.hex() if isinstance(value, bytes) else repr(value) for value in values]
    return result


def differences(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """Return a line for each fact that differs."""
    names = {**reference, **candidate}
    pairs = ((name, reference.get(name), candidate.get(name)) for name in names)
    return [f"{name}: {text}" for name, expected, actual in pairs if (text := difference(expected, actual))]


def difference(expected: object, actual: object) -> str:
    """Describe how two values of a fact differ; empty if they are identical."""
    if expected is None or actual is None:
        return "" if expected is actual else f"only in the {'candidate' if expected is None else 'reference'}"
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        return difference_of_pixels(expected, actual)
    if isinstance(expected, list) and isinstance(actual, list):
        return difference_of_rows(expected, actual)
    return "" if expected == actual else f"{short(expected)} against {short(actual)}"


def difference_of_rows(expected: list[str], actual: list[str]) -> str:
    """Describe how two columns differ; empty if they are identical, or of different lengths, which `rows` reports."""
    if len(expected) != len(actual):
        return ""
    rows = [row for row, (left, right) in enumerate(zip(expected, actual, strict=True)) if left != right]
    if not rows:
        return ""
    if Counter(expected) == Counter(actual):
        return f"{len(rows)} of {len(expected)} rows in another order"
    values = f"{short(expected[rows[0]])} against {short(actual[rows[0]])}"
    return f"{len(rows)} of {len(expected)} rows differ, row {rows[0]} is {values}"


def difference_of_pixels(expected: NDArray[Any], actual: NDArray[Any]) -> str:
    """Describe how two rasters differ; empty if their bytes are equal, those of NaN included."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return f"{expected.dtype} {expected.shape} against {actual.dtype} {actual.shape}"
    if expected.tobytes() == actual.tobytes():
        return ""
    apart = bytewise(expected) != bytewise(actual)
    pixels = int(apart.any(axis=-1).sum())
    largest = np.nanmax(np.abs(expected.astype(np.float64) - actual.astype(np.float64)), initial=0)
    return f"{pixels} of {expected.size} differ, by {largest:.3g} at most"


def bytewise(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array's bytes, with one more axis for those of a value."""
    return np.ascontiguousarray(values)[..., None].view(np.uint8)


def short(value: object) -> str:
    """Return a value as text, and of a long one its beginning."""
    text = str(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}..."


def digest(compared: Mapping[str, Any]) -> str:
    """Return a digest of all facts."""
    sha256 = hashlib.sha256()
    for name, value in compared.items():
        sha256.update(f"\n{name}\n".encode())
        sha256.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return sha256.hexdigest()[:12]


def by_detect_and_vectorize(compared: Mapping[str, Any]) -> list[str]:
    """Describe how the polygons of `geosiam vectorize` differ from those of `geosiam detect`, apart from evidence."""

    def of(what: str) -> Facts:
        start = f"{what} "
        mine = {name.removeprefix(start): value for name, value in compared.items() if name.startswith(start)}
        return {name: value for name, value in mine.items() if name.partition(": ")[2] not in EVIDENCE}

    return [f"vectorize, unlike detect: {text}" for text in differences(of("found"), of("vectorized"))]


def numbers(compared: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of cells of the score raster, and of polygons."""
    name = "found" if "found: pixels" in compared else "anomalies"
    return compared[f"{name}: pixels"].size, len(compared[f"{name} anomalies: id"])


def verdict(texts: Collection[str]) -> str:
    """Return the text of the differences in the table."""
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; ".join([*list(texts)[:SHOWN], *more]).replace("|", "\\|") or "identical"


def judged(case: Case, reference: Side, candidate: Side | None, data: Path | None) -> tuple[list[str], bool]:
    """Run a case on both sides; return its row of the table, and whether all is identical."""
    demo = reference.results / DEMO
    run = reference.made(case, data, demo)
    if run.code:
        hint = "; see --emulate-int8" if "precision int8" in run.said else ""
        raise SystemExit(f"the reference ended with {run.code} on {case.folder}: {run.said.strip()[-300:]}{hint}")
    expected = facts(reference.results / case.folder, case)
    cells, polygons = numbers(expected)
    row = [case.pair, case.variant, digest(expected), f"{cells:,}", str(polygons), f"{run.seconds:.0f}"]
    if candidate is None:
        texts = by_detect_and_vectorize(expected)
        return [*row, "-", verdict(texts) if texts else "made"], not texts
    candidate_run = candidate.made(case, data, demo)
    if candidate_run.code:
        last_line = (candidate_run.said.strip().splitlines() or [""])[-1]
        return [*row, f"{candidate_run.seconds:.0f}", f"ended with {candidate_run.code}: {last_line}"], False
    try:
        actual = facts(candidate.results / case.folder, case)
    except (RasterioError, DataSourceError, DataLayerError) as error:
        return [*row, f"{candidate_run.seconds:.0f}", f"cannot be read: {error}"], False
    texts = differences(expected, actual) + by_detect_and_vectorize(actual)
    return [*row, f"{candidate_run.seconds:.0f}", verdict(texts)], not texts


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="checkout, or a folder with its results")
    parser.add_argument("--candidate", type=Path, help="checkout to compare; default: none, only make the reference")
    default = os.environ.get("GEOSIAM_DATA")
    parser.add_argument(
        "--data", type=Path, default=default, help="folder with real scenes; default: that of GEOSIAM_DATA"
    )
    parser.add_argument("--results", type=Path, help="folder that keeps the results, in reference and candidate")
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS), help="pairs to run; default: all")
    parser.add_argument(
        "--precision", nargs="+", choices=["int8", "fp32", "bf16"], default=["int8", "fp32"], help="default: int8 fp32"
    )
    parser.add_argument("--emulate-int8", action="store_true", help="for a processor without 8-bit multiplication")
    args = parser.parse_args()
    if args.data is None and set(args.only) != {DEMO}:
        parser.error("name the folder of real scenes with --data or GEOSIAM_DATA, or take --only demo")
    return args


def main() -> int:
    """Print the table."""
    args = parsed()
    data = None if args.data is None else args.data.resolve()
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        results = (args.results or Path(scratch)).resolve()
        reference = side(args.reference, results / "reference")
        candidate = None if args.candidate is None else Side(args.candidate.resolve(), results / "candidate")
        for each in filter(None, (reference, candidate)):
            each.check()
        print("| pair | variant | digest | cells | polygons | reference, s | candidate, s | verdict |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for case in cases(args.only, args.precision, emulate=args.emulate_int8):
            row, identical = judged(case, reference, candidate, data)
            print(f"| {' | '.join(row)} |", flush=True)
            same = same and identical
    print("\nAll identical." if same and candidate else "\nMade." if same else "\nNot identical.")
    return not same


if __name__ == "__main__":
    sys.exit(main())
