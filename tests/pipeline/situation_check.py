"""Run a situation through `detect`, and say what is wrong with its outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
import shapely
from pyproj import CRS, Geod, Transformer
from situation_files import Raster, quiet_writing, raster, wrapped, write
from situations import PLACES, SEAM, UNDECLARED, SceneKind, Situation, draw, pixel_of

import geosiam
from geosiam.errors import GeosiamError
from geosiam_cli.main import main as command

if TYPE_CHECKING:
    from collections.abc import Iterator

MARS = 'GEOGCS["Mars",DATUM["D_Mars",SPHEROID["Mars",3396190,169.89]],PRIMEM["0",0],UNIT["degree",0.0174532925199433]]'
REFUSED, USAGE = 3, 2
LINE = re.compile(r"geosiam: (warning|error): .+|\d+ polygons with a score of at least .+")
OBJECT = re.compile(r"(the|an) object (at|is) ")
LARGE = 50.0  # side in pixels of a flat object of which a network, which sees 34, may leave out more of the middle
CELL = 8.0  # largest side of a cell in pixels
KEPT_APART = ("no system", "no georeference", "missing", "empty name", "empty folder", "truncated", "complex", "a text",
              "no system in a picture", "two planets")  # fmt: skip
"""Refusals of a scene that is no file as the wrappers need it."""


@dataclass
class Outcome:
    """What a run left behind: exit code, lines on stderr, and whatever else it wrote there by any way."""

    code: int
    lines: list[str]
    stray: str


# -- inputs ------------------------------------------------------------------------------------------------------------


def made_faulty(situation: Situation) -> Situation:
    """Return a situation that is to be refused with one scene in the plainest form where the fault needs it."""
    if situation.refusal not in KEPT_APART:
        return situation
    name = _faulty(situation)
    scene = replace(getattr(situation, name), wrapper="plain", layout="deflate")
    if situation.refusal == "no system in a picture":
        scene = replace(scene, layout="world file", dtype="uint8", order="gray", nodata="none", footprint=None)
    return replace(situation, **{name: scene})


def _faulty(situation: Situation) -> str:
    return ("after", "before")[situation.number % 2]


def with_fault(content: Raster, refusal: str | None) -> Raster:
    """Return the content of the faulty scene."""
    profile, image = dict(content.profile), content.image
    if refusal == "no system":
        profile["crs"] = None
    elif refusal == "two planets":
        profile["crs"] = MARS
    elif refusal == "no georeference":
        del profile["transform"]
    elif refusal == "elsewhere":
        profile["transform"] = profile["transform"] @ rasterio.Affine.translation(-3000, 2000)
    elif refusal == "too coarse":
        _, height, width = image.shape
        middle = rasterio.Affine.translation(width / 2, height / 2)
        profile["transform"] = profile["transform"] @ middle @ rasterio.Affine.scale(40) @ ~middle
    elif refusal == "no data":
        profile["nodata"] = image.flat[0].item() if np.isfinite(image.flat[0]) else -1.0
        return replace(content, image=np.full_like(image, profile["nodata"]), profile=profile, mask=None)
    elif refusal == "complex":
        return replace(content, image=image.astype(np.complex64), mask=None, scale=None)
    return replace(content, profile=profile)


@contextlib.contextmanager
def argument(situation: Situation, which: str, folder: Path) -> Iterator[Any]:
    """Write a scene, and yield its argument."""
    scene: SceneKind = getattr(situation, which)
    folder.mkdir()
    content = raster(situation, scene, later=which == "after")
    if situation.refusal and which == _faulty(situation):
        content = with_fault(content, situation.refusal)
        if situation.refusal in KEPT_APART:
            yield _broken_file(content, scene, folder, situation)
            return
    with wrapped(content, scene, folder, situation.name) as given:
        yield given


def _broken_file(content: Raster, scene: SceneKind, folder: Path, situation: Situation) -> str:
    refusal = situation.refusal
    if refusal == "empty name":
        return ""
    if refusal in ("missing", "empty folder"):
        if refusal == "empty folder":
            (folder / situation.name).mkdir()
        return str(folder / situation.name)
    path = folder / f"{situation.name}.tif"
    if refusal == "a text":
        path.write_text("no raster")
        return str(path)
    path = write(content, scene, path)
    if refusal == "truncated":
        os.truncate(path, path.stat().st_size * 6 // 10)
    for sidecar in path.parent.glob("*.aux.xml") if refusal == "no system in a picture" else ():
        sidecar.unlink()
    return str(path)


# -- the run -----------------------------------------------------------------------------------------------------------


def run(situation: Situation, before: Any, after: Any, output: Path, extra: list[str]) -> Outcome:
    """Run ``detect`` through the command line, or the function where a scene is no path."""
    caught = io.StringIO()
    with tempfile.TemporaryFile() as stray, _file_descriptor(2, stray.fileno()):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(caught), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=PendingDeprecationWarning)  # rasterio multiplies the old way
            if isinstance(before, str) and isinstance(after, str):
                arguments = ["detect", before, after, "-o", str(output), *situation.options, *extra]
                code = command([*arguments, "--model", situation.model])
            else:
                code = _call(situation, before, after, output)
        stray.seek(0)
        return Outcome(code, caught.getvalue().splitlines(), stray.read().decode(errors="replace"))


def _call(situation: Situation, before: Any, after: Any, output: Path) -> int:
    given = dict(zip(situation.options[::2], situation.options[1::2], strict=True))
    options = {
        key: tuple(map(int, given[flag].split(",")))
        for key, flag in (("bands", "--bands"), ("after_bands", "--after-bands"))
        if flag in given
    }
    if "--nodata" in given:
        options["nodata"] = tuple(v if v == "none" else float(v) for v in given["--nodata"].split(","))
    try:
        settings = geosiam.DetectOptions(model=situation.model, **options)
        result = geosiam.detect(before, after, output, options=settings)
    except GeosiamError as error:
        sys.stderr.write(f"geosiam: error: {error}\n")
        return REFUSED
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        sys.stderr.write(traceback.format_exc())
        return 1
    sys.stderr.writelines(f"geosiam: warning: {line}\n" for line in result.warnings)
    return 0


@contextlib.contextmanager
def _file_descriptor(number: int, replaced_by: int) -> Iterator[None]:
    """Let a descriptor, to which libraries write past Python, be another one."""
    kept = os.dup(number)
    os.dup2(replaced_by, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def check(situation: Situation, folder: Path) -> list[str]:
    """Make the files of a situation, run it, and return what is wrong; nothing, as it should be.

    The small network scores the middle of some flat objects low: what it leaves of one, the larger network has to find.
    """
    wrong = _check(situation, folder)
    others = [line for line in wrong if not OBJECT.match(line)]
    if situation.model != "survey-fast" or len(others) == len(wrong):
        return wrong
    others += _check(replace(situation, model="survey"), folder / "larger")
    return others if any(not line.startswith("> ") for line in others) else []


def _check(situation: Situation, folder: Path) -> list[str]:
    situation = made_faulty(situation)
    place, temporary, out = folder / situation.folder, folder / "temporary", folder / "out" / situation.folder
    for each in (place, temporary, out):
        each.mkdir(parents=True)
    with contextlib.ExitStack() as stack, contextlib.chdir(place):
        with quiet_writing():
            given = [stack.enter_context(argument(situation, w, place / w)) for w in ("before", "after")]
        inputs = _digests(place)
        output, extra = out / f"o{situation.suffix}", ["--qgz", str(out / "o.qgz")] if situation.project else []
        if situation.refusal == "output is an input":
            extra = ["--scores", str(_some_input(place / _faulty(situation)))]
        if situation.refusal == "no such band":
            extra = ["--bands", "9"]
        kept, tempfile.tempdir = tempfile.tempdir, str(temporary)
        try:
            outcome = run(situation, *given, output, extra)
        finally:
            tempfile.tempdir = kept
        wrong = _wrong_inputs(inputs, _digests(place))
    wrong += [f"left in the temporary folder: {file.name}" for file in temporary.iterdir()]
    if situation.refusal and not (
        extra
        and situation.refusal in ("output is an input", "no such band")
        and not all(isinstance(g, str) for g in given)
    ):
        wrong += _wrong_refusal(situation, outcome, out)
    else:
        wrong += _wrong_result(situation, outcome, output)
    return [*wrong, *(f"> {line}" for line in outcome.lines)] if wrong else []


def _some_input(folder: Path) -> Path:
    return min(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def _wrong_inputs(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"input {name!r} was changed, made or deleted" for name in before | after if before.get(name) != after.get(name)
    ]


def _wrong_refusal(situation: Situation, outcome: Outcome, out: Path) -> list[str]:
    expected = USAGE if situation.refusal == "empty name" and len(outcome.lines) != 1 else REFUSED
    wrong = [] if outcome.code == expected else [f"exit code {outcome.code}, not {expected}"]
    errors = [line for line in outcome.lines if line.startswith(("geosiam: error: ", "Error: "))]
    if len(errors) != 1 or (expected == REFUSED and outcome.lines != errors):
        wrong.append(f"not one line but {outcome.lines}")
    elif expected == REFUSED and not (errors[0].count(": ") >= 3 and ";" in errors[0]):
        wrong.append(f"no fact or remedy in {errors[0]!r}")
    wrong += [f"an output was left: {file.name}" for file in out.rglob("*") if file.is_file()]
    return wrong + ([f"on stderr: {outcome.stray[:300]}"] if outcome.stray else [])


# -- the result --------------------------------------------------------------------------------------------------------


def _wrong_result(situation: Situation, outcome: Outcome, output: Path) -> list[str]:
    if outcome.code:
        return [f"exit code {outcome.code}: {' / '.join(outcome.lines)[-1500:]}"]
    wrong = [f"on stderr: {line}" for line in outcome.lines if not LINE.fullmatch(line)]
    wrong += [f"on stderr: {outcome.stray[:300]}"] if outcome.stray else []
    for scene in (situation.before, situation.after):
        if scene.wrapper == "dataarray" and scene.nodata == "unnamed alpha":
            continue  # GDAL calls the fourth band of bytes alpha when the array becomes a raster
        if scene.nodata in UNDECLARED and not any("counts as" in line for line in outcome.lines):
            wrong.append(f"no word about {scene.nodata}")
    names = {"o.tif", "o.tif.aux.xml", output.name} | (
        {"o.qgz", "o.before.vrt", "o.after.vrt"} if situation.project else set()
    )
    names |= {f"o{s}" for s in (".shx", ".dbf", ".prj", ".cpg", ".qml", ".qpj")} if output.suffix == ".shp" else set()
    names |= {"o.qml"}
    wrong += [f"output {file.name!r}" for file in output.parent.iterdir() if file.name not in names]
    with tempfile.TemporaryDirectory() as plain:  # other libraries read some names in their own way
        for file in output.parent.iterdir():
            shutil.copy(file, Path(plain, file.name))
        wrong += _wrong_scores(situation, Path(plain, "o.tif"))
        frame = _polygons(Path(plain, output.name))
    if outcome.lines and f"{len(frame)} polygons" not in outcome.lines[-1] and "polygons with" in outcome.lines[-1]:
        wrong.append(f"{len(frame)} polygons in the file, but {outcome.lines[-1]!r}")
    return wrong + _wrong_polygons(situation, frame) + _wrong_columns(situation, frame)


def _polygons(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return geopandas.read_file(path, layer="anomalies" if path.suffix == ".gpkg" else None)


def _to_ground(situation: Situation, frame: geopandas.GeoDataFrame) -> list[shapely.Geometry]:
    """Return polygons on the ground, through PROJ alone."""
    system = situation.before.system if situation.ground.place == "site" else frame.crs.to_wkt()
    to_ground = situation.ground.between(system)

    def moved(points: np.ndarray) -> np.ndarray:
        return np.column_stack(to_ground(points[:, 0], points[:, 1]))

    return [shapely.transform(shape, moved) for shape in frame.geometry]


def tolerance(situation: Situation) -> float:
    """Return how far an outline may lie from an object's, in pixels of the before scene."""
    fractions = max((abs(part - round(part)) for part in situation.shift), default=0)
    return 5 + 2 * (situation.coarsest - 1) + 2 * fractions + 0.5 * situation.bend


def _wrong_polygons(situation: Situation, frame: geopandas.GeoDataFrame) -> list[str]:
    shapes = _to_ground(situation, frame) if len(frame) else []
    wrong, reach = [], tolerance(situation)
    squares = []
    for thing in situation.things:
        half = thing.half
        corners = np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
        c, s = np.cos(thing.angle), np.sin(thing.angle)
        squares.append(shapely.Polygon(corners @ np.array([[c, s], [-s, c]]) + (thing.u, thing.v)))
    for square in squares:
        matches = [shape for shape in shapes if shape.intersects(square)]
        if not matches:
            wrong.append(f"the object at {square.centroid.x:.0f}, {square.centroid.y:.0f} is missing")
            continue
        whole = shapely.union_all(matches)
        off, ratio = whole.centroid.distance(square.centroid), whole.area / square.area
        overlap = whole.intersection(square).area / square.area
        if off > reach or not 0.5 < ratio < 2.4 or overlap < (0.6 if square.length < 4 * LARGE else 0.5):
            wrong.append(f"an object is {off:.1f} px off, {ratio:.2f} times as large, {overlap:.2f} of it covered")
    for shape in shapes:
        if not any(shape.within(square.buffer(3 * CELL + reach)) for square in squares) and not _in_wedge(
            situation, shape.centroid
        ):
            at = shape.centroid
            wrong.append(f"a polygon of {shape.area:.0f} px at {at.x:.0f}, {at.y:.0f} is no object's")
    return wrong


def _in_wedge(situation: Situation, place: shapely.Point) -> bool:
    """Return whether a place is where nodata ends in a wedge at the edge of a scene that is compressed with losses.

    A wedge that is narrower than a block of JPEG has no pixel that is exactly nodata, so nothing tells it from ground.
    """
    u, v = np.array([place.x]), np.array([place.y])
    for scene in (situation.before, situation.after):
        edge = scene.corner_distance(situation.ground, u, v)[0]
        near_edges = edge < 2 * SEAM and abs(scene.outside(u, v)[0]) < 2 * SEAM
        if scene.layout == "jpeg" and near_edges:
            return True
    return False


def _wrong_columns(situation: Situation, frame: geopandas.GeoDataFrame) -> list[str]:
    """Compare areas and places in the table with PROJ's."""
    if "centroid_lon" not in frame.columns or not len(frame) or situation.ground.place == "site":
        return []
    to_degrees = Transformer.from_crs(CRS.from_user_input(frame.crs.to_wkt()), 4326, always_xy=True)
    geod, wrong = Geod(ellps="WGS84"), []
    to_ground = situation.ground.between(frame.crs.to_wkt())
    lon, lat, _ = PLACES[situation.ground.place]
    local = Transformer.from_crs(f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84", 4326, always_xy=True)
    for _, row in frame.iterrows():
        degrees = shapely.transform(row.geometry, lambda p: np.column_stack(to_degrees.transform(p[:, 0], p[:, 1])))
        middle = shapely.transform(row.geometry, lambda p: np.column_stack(to_ground(p[:, 0], p[:, 1]))).centroid
        lon, lat = local.transform(middle.x * situation.ground.pixel, middle.y * situation.ground.pixel)
        off = geod.inv(lon, lat, row["centroid_lon"], row["centroid_lat"])[2] / situation.ground.pixel
        if not -180 <= row["centroid_lon"] <= 180 or off > 2:
            wrong.append(f"centroid_lon, centroid_lat are {off:.1f} px off")
        area = abs(geod.geometry_area_perimeter(degrees)[0])
        if abs(row["area_m2"] / area - 1) > 0.1 and situation.ground.place != "North Pole":
            wrong.append(f"area_m2 is {row['area_m2']:.6g}, not {area:.6g}")
    return wrong


def _wrong_scores(situation: Situation, path: Path) -> list[str]:
    """Compare which cells have scores with where both scenes have data."""
    before, after, ground = situation.before, situation.after, situation.ground
    with rasterio.open(path) as file:
        scored, transform = file.read_masks(1) > 0, file.transform
        same = CRS.from_wkt(file.crs.to_wkt()).equals(CRS.from_user_input(before.system), ignore_axis_order=True)
    wrong = [] if same or before.layout in ("hfa", "envi") else ["the scores are in another coordinate system"]
    rows, cols = np.indices(scored.shape) + 0.5
    x, y = transform @ (cols, rows)
    u, v = ground.between(before.system)(x, y)
    pixel = pixel_of(after, ground)
    outside = np.maximum(before.outside(u, v), after.outside(u, v))
    outside = np.maximum(outside, -after.corner_distance(ground, u, v) * pixel)
    lossy = any(scene.layout in ("jpeg", "jpg") for scene in (before, after))
    margin = CELL + situation.farthest + 2 * pixel + SEAM * lossy
    missing, extra = int((~scored & (outside < -margin)).sum()), int((scored & (outside > margin)).sum())
    inside_pixels = before.corner_distance(ground, u, v) > 0
    missing = int((~scored & (outside < -margin) & inside_pixels).sum())
    wrong += [f"{missing} of {scored.size} cells with data have no score"] if missing else []
    return wrong + ([f"{extra} of {scored.size} cells without data have a score"] if extra else [])


# -- one by its number -------------------------------------------------------------------------------------------------


def described(situation: Situation) -> str:
    """Return a situation as text, one field a line."""
    values = dataclasses.asdict(situation)
    lines = [f"{key}: {value!r}" for key, value in values.items()]
    replay = f"python tests/pipeline/try_situations.py {situation.seed} {situation.number}"
    return "\n".join([*lines, f"again: {replay}"])


def checked(seed: int, number: int, folder: Path | None = None) -> str:
    """Check one situation in a temporary folder, or in one that is kept; return what is wrong, or an empty text."""
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="situation.")))
        situation = draw(seed, number)
        try:
            with quiet_writing():
                wrong = check(situation, place)
        except Exception:  # noqa: BLE001 - the check goes on with the next
            wrong = [traceback.format_exc(limit=-6)]
    return "\n".join([*wrong, described(situation)]) if wrong else ""
