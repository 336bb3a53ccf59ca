"""Give our own parsers damaged texts: each must return a value, or raise an error of its own with one line.

    python benchmarks/fuzz_parsers.py TARGET --seconds N [--seed S] [--corpus DIR]

With atheris (`pip install atheris`), inputs are guided by the coverage of geosiam, and new ones are kept in the corpus.
Without it, samples are mutated at random. A finding is printed with its input, and the exit code is 1.

| target | what is read |
|---|---|
| csv, json | a manifest of `geosiam batch` |
| spec | the specification of `geosiam train --anomaly` |
| journal | the journal of an unfinished run |
| state | the state of a pair in a batch |
| verdicts | verdicts that the page of a report exported |
| tiles | the name of a scene, which may be a pattern or a folder of tiles |
| name | a file name with a place and a date |
| event | a line of a worker process |
| stac | a STAC document |
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

_GUIDED = importlib.util.find_spec("atheris") is not None
if _GUIDED:
    import atheris
    from atheris import instrument_imports
else:
    instrument_imports = contextlib.nullcontext

with instrument_imports(include=["geosiam"]) if _GUIDED else instrument_imports():
    from geosiam.batch.dates import SceneDate
    from geosiam.batch.inventory import place_and_date
    from geosiam.batch.manifest import read_manifest
    from geosiam.batch.pool import WorkerEvent
    from geosiam.batch.stac_input import is_stac, read_stac
    from geosiam.batch.state import PairState, load_state
    from geosiam.errors import InputError
    from geosiam.imagery.mosaic import find_tiles, mosaic
    from geosiam.report.verdicts import read_verdicts
    from geosiam.scores.working_file import Journal
    from geosiam.training.targets import parse_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Target = Callable[[bytes, Path], None]

LONGEST = 4096  # bytes of an input
_LONGEST_NAME = 200
_ROUNDING = 1e-5


class Finding(Exception):  # noqa: N818 - it is what is looked for
    """A parser does what it must not."""


def check_csv(data: bytes, folder: Path) -> None:
    """Read a manifest as CSV."""
    _check_manifest(data, folder / "pairs.csv")


def check_json(data: bytes, folder: Path) -> None:
    """Read a manifest as JSON."""
    _check_manifest(data, folder / "pairs.json")


def _check_manifest(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    plan = read_manifest(path)
    names = [pair.name for pair in plan.pairs]
    if len(set(names)) != len(names) or not all(names):
        raise Finding(f"names of pairs are {names}")
    if any("\n" in str(fault) for fault in plan.faults):
        raise Finding(f"a fault has several lines: {plan.faults}")


def check_spec(data: bytes, _: Path) -> None:
    """Read a specification; its text must mean the same."""
    spec = parse_spec(data.decode(errors="surrogateescape"))
    again = parse_spec(str(spec))  # with six digits
    sizes_differ = any(abs(one / other - 1) > _ROUNDING for one, other in zip(again.size_px, spec.size_px, strict=True))
    if sizes_differ or (again.color, again.texture) != (spec.color, spec.texture):
        raise Finding(f"{spec} is read as {again}")


def check_journal(data: bytes, folder: Path) -> None:
    """Read a journal, which is none of this version or a consistent one."""
    path = folder / "journal.json"
    path.write_bytes(data)
    try:
        journal = Journal.load(path)
    except ValueError as error:
        if not str(error).startswith("not a journal"):
            raise
        return
    if journal is None or not all(isinstance(text, str) for text in [*journal.identity, *journal.identity.values()]):
        raise Finding(f"the journal is {journal}")
    journal.differing({"inputs": "0"})
    journal.save()
    again = Journal.load(path)
    if again is None or again.finished.tolist() != journal.finished.tolist():
        raise Finding("a journal that is saved has other blocks")


def check_state(data: bytes, folder: Path) -> None:
    """Read the state of a pair: None, or one of the right types."""
    (folder / "result.json").write_bytes(data)
    state = load_state(folder)
    if state is None:
        return
    if not isinstance(state, PairState) or not isinstance(state.status, str) or not isinstance(state.error, str):
        raise Finding(f"the state is {state}")
    if not isinstance(state.attempts, int) or (state.record and not isinstance(state.record.count, int)):
        raise Finding(f"the state is {state}")


def check_verdicts(data: bytes, folder: Path) -> None:
    """Read verdicts."""
    path = folder / "verdicts.json"
    path.write_bytes(data)
    for pair in read_verdicts(path):
        if not all(isinstance(polygon, int) for polygon in pair.verdicts):
            raise Finding(f"polygons are {list(pair.verdicts)}")


def check_tiles(data: bytes, folder: Path) -> None:
    """Find the tiles of a scene whose name is a text, inside a folder with some files."""
    text = data.decode(errors="surrogateescape").replace("\0", "")[:_LONGEST_NAME]
    if "**" in text or ".." in text or text.startswith(("/", "~")):
        return  # it would walk through this machine's files
    with contextlib.chdir(folder):
        tiles = find_tiles(text)
        if tiles is not None and not all(Path(tile).is_file() for tile in tiles):
            raise Finding(f"tiles are {tiles}")
        if tiles:
            mosaic(tiles)


def check_name(data: bytes, _: Path) -> None:
    """Find the place and the date in a name."""
    place, date = place_and_date(data.decode(errors="surrogateescape"))
    if not isinstance(place, str) or not isinstance(date, SceneDate | None):
        raise Finding(f"{place!r}, {date!r}")


def check_event(data: bytes, _: Path) -> None:
    """Read a line of a worker process; another line is a ValueError."""
    with contextlib.suppress(ValueError):
        event = WorkerEvent.from_line(data.decode(errors="replace"))
        if not (isinstance(event.kind, str) and isinstance(event.pair, str) and isinstance(event.data, dict)):
            raise Finding(f"the event is {event}")


def check_stac(data: bytes, folder: Path) -> None:
    """Read a STAC document that links to nothing elsewhere."""
    if b"http" in data or b".." in data:
        return
    path = folder / "items.json"
    path.write_bytes(data)
    if is_stac(str(path)):
        read_stac(str(path))


_RECORD = {
    "count": 1, "area_m2": 2.0, "score_max": 0.9, "threshold": 0.4, "seconds": 1.0, "pixels": 100,
    "overlap_fraction": 1.0, "valid_fraction": 1.0, "shift_px": 0.0, "corrected": False, "pixel_size": [1.0, 1.0],
    "crs": "EPSG:32633", "footprint": None, "model": {"name": "survey", "checksum": "0", "license": "MIT"},
    "score_type": "uint8", "geosiam_version": "1", "created": "2020", "warnings": [], "memory_mb": None,
    "computed": {"device": "cpu", "precision": "int8"}, "holes": 0, "bend_px": None, "field_applied": False,
    "misfit": None,
}  # fmt: skip
_PAIR = {"before": "a.tif", "after": "b.tif", "threshold": 0.5, "bands": [1, 2, 3], "smooth": True, "nodata": "none,0"}
_ITEM = {
    "type": "Feature", "stac_version": "1.0.0", "id": "a", "bbox": [0, 0, 1, 1], "links": [],
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
    "properties": {"datetime": "2020-01-01T00:00:00Z", "proj:shape": [10, 10]},
    "assets": {"visual": {"href": "a.tif", "type": "image/tiff", "roles": ["visual"]}},
}  # fmt: skip
_STATE = {"geosiam_survey": 1, "status": "done", "identity": "0", "attempts": 1, "facts": _RECORD, "error": ""}


def _texts(*values: object) -> list[bytes]:
    return [value.encode() if isinstance(value, str) else json.dumps(value).encode() for value in values]


TARGETS: dict[str, tuple[Target, list[bytes]]] = {
    "csv": (
        check_csv,
        _texts(
            "before,after,name,date\na.tif,b.tif,x,2017-08-27\n",
            'before;after;threshold\n"a;b.tif";b.tif;auto\n;;\n',
            "before\tafter\tbands\tnodata\tregister\na.tif\tb.tif\t1 2 3\t0,none\tfield\n",
            "before,after,valid_area,smooth,min_area,simplify,connectivity\na,b,c.gpkg,no,20px,0.5m,4\n",
        ),
    ),
    "json": (check_json, _texts([_PAIR], {"pairs": [_PAIR, {"before": "c"}]}, [{"before": "a", "after": None}])),
    "spec": (
        check_spec,
        _texts("color=40,90,200 spread=30 texture=folds size=8-80", "colour=1,2,3", "color=9,9,9 size=1.5-2"),
    ),
    "journal": (
        check_journal,
        _texts({"geosiam_journal": 1, "identity": {"inputs": "0", "model": "1"}, "blocks": 11, "done": "/wA="}),
    ),
    "state": (check_state, _texts(_STATE, {**_STATE, "status": "failed", "facts": {}, "error": "x"})),
    "verdicts": (
        check_verdicts,
        _texts(
            {
                "format": "geosiam verdicts",
                "version": 1,
                "pairs": [{"name": "a", "run": "0", "verdicts": {"1": "confirmed", "2": None}}],
            }
        ),
    ),
    "tiles": (
        check_tiles,
        _texts("tiles", "tiles/*.tif", "[ab].tif", "a?.tif", "tiles/[!a]*", "a.tif", "https://h/*.tif"),
    ),
    "name": (check_name, _texts("site_a_20170827T101500Z_before.tif", "2017-02-31", "https://h/a_2017-08.tif?sig=1")),
    "event": (check_event, _texts({"kind": "done", "pair": "a", "data": {"seconds": 1.0}})),
    "stac": (
        check_stac,
        _texts(_ITEM, {"type": "FeatureCollection", "features": [_ITEM]}, {"type": "Catalog", "id": "a", "links": []}),
    ),
}


@contextlib.contextmanager
def _folder(target: str) -> Iterator[Path]:
    """Yield a folder to work in, with a few rasters for the target that looks for tiles."""
    with tempfile.TemporaryDirectory(prefix="fuzz_parsers.") as name:
        folder = Path(name)
        if target == "tiles":
            _write_tiles(folder)
        yield folder


def _write_tiles(folder: Path) -> None:
    import numpy as np
    import rasterio
    from affine import Affine

    (folder / "tiles").mkdir()
    (folder / "empty").mkdir()
    (folder / "tiles" / "text.tif").write_text("no raster")
    profile = {"driver": "GTiff", "count": 1, "width": 8, "height": 8, "dtype": "uint8", "crs": "EPSG:32633"}
    for i, path in enumerate(("a.tif", "b.tif", "tiles/a.tif", "tiles/b.tif")):
        with rasterio.open(folder / path, "w", transform=Affine(1, 0, 8 * i, 0, -1, 100), **profile) as file:
            file.write(np.ones((1, 8, 8), np.uint8))


def run_once(target: str, data: bytes, folder: Path) -> None:
    """Give one input to a target; raise whatever is not allowed."""
    try:
        TARGETS[target][0](data, folder)
    except InputError as error:
        if "\n" in str(error) or not str(error).strip():
            raise Finding(f"the error is not one line: {str(error)!r}") from error


def mutated(data: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """Return a text with a few parts replaced, repeated, left out, or taken from another one."""
    text = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 3, 6])):
        at = generator.randrange(len(text) + 1)
        end = min(len(text), at + generator.choice([0, 1, 1, 2, 5, 20]))
        other = generator.choice(others)
        start = generator.randrange(len(other) + 1)
        part = generator.choice([
            b"", bytes([generator.randrange(256)]), generator.choice(TOKENS), other[start : start + 12],
            bytes(text[at:end]) * generator.choice([2, 3, 300]),
        ])  # fmt: skip
        text[at:end] = part
    return bytes(text[:LONGEST])


TOKENS = [
    b'"', b"'", b"[", b"]", b"{", b"}", b",", b";", b"\t", b"\n", b"\r", b"\0", b":", b"null", b"true", b"NaN",
    b"1e999",     b"-Infinity", b"-1", b"0", b"99999999999999999999", b"\xff", b"\xef\xbb\xbf", b"\\u0000", b"\\ud800",
    b"\xe2\x80\xa8", b"[" * 2000, b"*", b"?", b"../", b"nan", b"inf", b"none", b"=", b"\x85", b"\x1c",
    "\u0665".encode(), "\u00b2".encode(),
]  # fmt: skip


def mutate_for(target: str, seconds: float, seed: int) -> int:
    """Mutate samples at random for a while; return the number of findings."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    samples = list(TARGETS[target][1])
    count, findings, end = 0, set(), time.monotonic() + seconds
    with _folder(target) as folder:
        while time.monotonic() < end:
            data = mutated(generator.choice(samples), samples, generator)
            count += 1
            try:
                run_once(target, data, folder)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                place = traceback.extract_tb(error.__traceback__)[-1]
                if (kind := (type(error), place.filename, place.lineno)) not in findings:
                    findings.add(kind)
                    print(f"{target}: {data!r}\n{traceback.format_exc(limit=-4)}", flush=True)
    print(f"{target}: {count} executions in {seconds:.0f} s, mutated with seed {seed}: {len(findings)} findings")
    return len(findings)


def guide_for(target: str, seconds: float, seed: int, corpus: Path) -> None:
    """Let atheris look for findings for a while; it ends the process."""
    corpus.mkdir(parents=True, exist_ok=True)
    for i, sample in enumerate(TARGETS[target][1]):
        (corpus / f"sample_{i}").write_bytes(sample)
    words = corpus.with_name(f"{corpus.name}.dict")
    words.write_text("\n".join('"' + "".join(f"\\x{byte:02x}" for byte in token[:64]) + '"' for token in TOKENS) + "\n")
    options = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", f"-max_len={LONGEST}", "-rss_limit_mb=4096"]
    options += ["-timeout=20", "-print_final_stats=1", "-verbosity=1", f"-dict={words}"]
    with _folder(target) as folder:
        atheris.Setup(
            [sys.argv[0], *options, f"-artifact_prefix={corpus.parent}{os.sep}{target}-", str(corpus)],
            lambda data: run_once(target, data, folder),
        )
        atheris.Fuzz()


def main() -> int:
    """Fuzz one parser, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder of inputs that atheris keeps; without it, none are kept")
    parser.add_argument("--mutate", action="store_true", help="mutate at random, also where atheris is installed")
    args = parser.parse_args()
    if _GUIDED and not args.mutate and args.target != "all":
        with tempfile.TemporaryDirectory() as temporary:
            guide_for(args.target, args.seconds, args.seed, args.corpus or Path(temporary, "corpus"))
        return 0
    targets = TARGETS if args.target == "all" else [args.target]
    return int(sum(mutate_for(target, args.seconds, args.seed) for target in targets) > 0)


if __name__ == "__main__":
    sys.exit(main())
