"""Situations of a pair, drawn by a seed: systems, grids, types, bands, nodata, storage, wrappers, names and shifts.

A situation says what two scenes show of one ground, and how they are stored and named; nothing here uses geosiam.
Places on the ground are in units of the before scene's pixels, right and up from the middle of a place on earth.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]

SITE = 'LOCAL_CS["site",UNIT["metre",1]]'
PLACES: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "Alps": (8.9, 47.2, (
        "EPSG:32632", "EPSG:25832", "EPSG:2056", "EPSG:3035", "EPSG:4326", "EPSG:4258", "EPSG:3857", "ESRI:54009",
        "EPSG:31467", "+proj=tmerc +lat_0=47 +lon_0=9 +k=0.9999 +x_0=1000 +y_0=-2000 +datum=WGS84 +units=m",
        "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +datum=WGS84",
        "+proj=laea +lat_0=40 +lon_0=5 +ellps=GRS80 +units=m",
    )),
    "New York": (-73.9, 40.7, ("EPSG:2263", "EPSG:32618", "EPSG:26918", "EPSG:4326", "EPSG:4269", "EPSG:3857")),
    "dateline": (180.0, -17.3, ("EPSG:4326", "EPSG:32760", "EPSG:32701", "EPSG:3832", "EPSG:4326")),
    "North Pole": (30.0, 89.9995, ("EPSG:3413", "EPSG:3995", "EPSG:5041")),
    "Antarctica": (45.0, -75.0, ("EPSG:3031", "EPSG:32738", "EPSG:4326")),
    "equator": (-78.5, -0.0001, ("EPSG:32717", "EPSG:32617", "EPSG:4326", "EPSG:3857", "EPSG:24817")),
    "Japan": (139.7, 35.6, ("EPSG:6677", "EPSG:32654", "EPSG:4326", "EPSG:6668")),
    "site": (0.0, 0.0, (SITE,)),
}  # fmt: skip
DEGREES = {"EPSG:4326", "EPSG:4258", "EPSG:4269", "EPSG:6668"}
ROTATED_POLE = PLACES["Alps"][2][10]
ENVI_UNTURNED = {"EPSG:2056", "EPSG:3857", "EPSG:3832", "ESRI:54009"}  # GDAL writes no rotation into their headers
NOT_ENVI = {"EPSG:2263", ROTATED_POLE}  # there, they are other systems

DTYPES = ("uint8", "uint16", "int16", "float32", "scaled", "reflectance")
NODATA: dict[str, tuple[str, ...]] = {
    "uint8": ("none", "declared", "collar", "alpha", "unnamed alpha", "mask", "msk", "jpeg", "user"),
    "uint16": ("none", "declared", "collar", "mask", "msk", "user"),
    "int16": ("none", "declared", "fill", "user"),
    "float32": ("none", "declared", "nan", "fill", "lowest", "mask"),
    "scaled": ("none", "declared"),
    "reflectance": ("none", "nan", "declared"),
}
UNDECLARED = ("collar", "unnamed alpha", "fill", "lowest")
ORDERS: dict[str, tuple[str, ...]] = {
    "gray": ("red",),
    "rgb": ("red", "green", "blue"),
    "rgbn": ("red", "green", "blue", "infrared"),
    "bgrn": ("blue", "green", "red", "infrared"),
    "nrgb": ("infrared", "red", "green", "blue"),
}
LAYOUTS = (
    "strips", "one strip", "tiled", "deflate", "lzw", "zstd", "packbits", "bands apart", "bigtiff", "big-endian",
    "overviews", "cog", "jpeg", "webp", "png", "jpg", "world file", "hfa", "envi", "jp2",
)  # fmt: skip
WRAPPERS = (
    "plain", "plain", "plain", "relative", "symlink", "vrt", "nested vrt", "folder", "pattern", "vsizip", "zip",
    "file uri", "http", "tile index", "dataset", "dataarray",
)  # fmt: skip
NAMES = (
    "plain", "with space", "Größe 雪", "!Projekte", "a!b", "x;y", "#1", "100%41", "q?", "[1]", "a'b", 'c"d', "a&b=c",
    "{x}", "trailing ", " leading", "back\\slash", "2020-01-01T12:00", "long" * 40, "a.zip", "~",
)  # fmt: skip
SUFFIXES = (".gpkg", ".gpkg", ".gpkg", ".gpkg", ".geojson", ".fgb", ".parquet", ".shp")
REFUSALS = (
    "no system", "no georeference", "elsewhere", "too coarse", "missing", "empty name", "empty folder", "no data",
    "output is an input", "truncated", "complex", "no such band", "a text", "no system in a picture", "two planets",
)  # fmt: skip
COLORS = ((235, 40, 30), (20, 35, 240), (245, 245, 240), (240, 200, 10), (10, 240, 230))
MARGIN = 40.0  # of objects from the edge of a scene, in pixels of the before scene
SEAM = 18.0  # beside nodata that lossy compression may have touched
LEAST_NODES = 260
APART = 75.0  # middles of objects


@dataclass(frozen=True)
class Footprint:
    """A turned rectangle on the ground that holds a scene's valid pixels."""

    u: float
    v: float
    half: tuple[float, float]
    angle: float  # radians

    def distance(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far places are outside; negative inside."""
        along, across = turned(u - self.u, v - self.v, self.angle)
        return np.maximum(np.abs(along) - self.half[0], np.abs(across) - self.half[1])


@dataclass(frozen=True)
class Thing:
    """A square object on the ground."""

    u: float
    v: float
    half: float
    angle: float
    color: tuple[int, int, int]

    def holds(self, u: NDArray[np.float64], v: NDArray[np.float64], margin: float = 0.0) -> NDArray[np.bool_]:
        along, across = turned(u - self.u, v - self.v, self.angle)
        return np.maximum(np.abs(along), np.abs(across)) <= self.half + margin


def turned(u: NDArray[np.float64], v: NDArray[np.float64], angle: float) -> Arrays:
    cosine, sine = math.cos(angle), math.sin(angle)
    return u * cosine + v * sine, v * cosine - u * sine


@dataclass(frozen=True)
class Ground:
    """The ground around a place on earth, and the size in meters of its units."""

    place: str
    pixel: float

    def between(self, system: str, *, back: bool = False) -> Callable[..., Arrays]:
        """Return the function from coordinates of a system to places on the ground, or ``back``."""
        if system == SITE:
            return (lambda u, v: (u * self.pixel, v * self.pixel)) if back else self._of_site
        lon, lat, _ = PLACES[self.place]
        transformer = _transformer(system, lon, lat)
        if back:
            return lambda u, v: transformer.transform(u * self.pixel, v * self.pixel, direction="INVERSE")
        return lambda x, y: tuple(value / self.pixel for value in transformer.transform(x, y))

    def _of_site(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Arrays:
        return x / self.pixel, y / self.pixel


@functools.lru_cache(100)
def _transformer(system: str, lon: float, lat: float) -> Transformer:
    local = f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m"
    return Transformer.from_crs(CRS.from_user_input(system), CRS.from_user_input(local), always_xy=True)


@dataclass(frozen=True)
class SceneKind:
    """How one scene sees and stores the ground; ``footprint`` is None where all its pixels are valid."""

    system: str
    transform: tuple[float, ...]
    height: int
    width: int
    dtype: str = "uint8"
    order: str = "rgb"
    named: bool = True
    infrared_as_alpha: bool = False
    nodata: str = "none"
    footprint: Footprint | None = None
    layout: str = "strips"
    wrapper: str = "plain"
    gain: float = 1.0
    noise: float = 0.0

    @property
    def affine(self) -> Affine:
        return Affine(*self.transform)

    def corner_distance(self, ground: Ground, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far places are from the scene's edges, in its own pixels; negative outside."""
        x, y = ground.between(self.system, back=True)(u, v)
        cols, rows = ~self.affine @ (near(np.asarray(x), self), np.asarray(y))
        return np.minimum.reduce([cols, self.width - cols, rows, self.height - rows])

    def outside(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far places are outside of the valid pixels on the ground; negative inside."""
        return np.full(np.shape(u), -1e9) if self.footprint is None else self.footprint.distance(u, v)


def near(x: NDArray[np.float64], scene: SceneKind) -> NDArray[np.float64]:
    """Return longitudes as the scene counts them, beyond 180 degrees where it lies across the dateline."""
    if scene.system not in DEGREES:
        return x
    middle = (scene.affine @ (scene.width / 2, scene.height / 2))[0]
    return x - 360 * np.round((x - middle) / 360)


@dataclass(frozen=True)
class Situation:
    """A pair of scenes with what is to be found, or why it is to be refused."""

    seed: int
    number: int
    ground: Ground
    before: SceneKind
    after: SceneKind
    things: tuple[Thing, ...]
    relation: str = "same"
    vanished: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    bend: float = 0.0
    folder: str = "plain"
    name: str = "plain"
    suffix: str = ".gpkg"
    model: str = "survey-fast"
    project: bool = False
    refusal: str | None = None
    options: tuple[str, ...] = field(default=())

    @property
    def farthest(self) -> float:
        """Longest displacement of the after scene's content, in pixels of the before scene."""
        return math.hypot(*self.shift) + abs(self.bend)

    @property
    def coarsest(self) -> float:
        """Size of the larger of both scenes' pixels, in pixels of the before scene."""
        return max(1.0, pixel_of(self.after, self.ground))


def pixel_of(scene: SceneKind, ground: Ground) -> float:
    """Return the size of a scene's pixel in the middle, in units of the ground."""
    cols, rows = np.array([0, 1, 0]) + scene.width / 2, np.array([0, 0, 1]) + scene.height / 2
    u, v = ground.between(scene.system)(*(np.asarray(part) for part in scene.affine @ (cols, rows)))
    return float(np.sqrt(abs((u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0]))))


def draw(seed: int, number: int) -> Situation:
    """Return the situation of a seed and a number."""
    random = np.random.default_rng([seed, number])
    place = _pick(random, list(PLACES))
    ground = Ground(place, float(_pick(random, [0.05, 0.3, 0.5, 1.0, 3.0, 10.0])))
    if place == "North Pole":
        ground = replace(ground, pixel=min(ground.pixel, 1.0))
    before = _first_grid(random, ground)
    after, relation = _second_grid(random, ground, before)
    before, after = _stored(random, before, after, ground)
    situation = Situation(seed, number, ground, before, after, (), relation)
    situation = replace(situation, **_displaced(random, situation))
    situation = replace(
        situation,
        vanished=bool(random.random() < 0.3),
        folder=_pick(random, NAMES),
        name=_pick(random, NAMES) if random.random() < 0.5 else "plain",
        suffix=_pick(random, SUFFIXES) if place != "site" else ".gpkg",
        model="survey" if random.random() < 0.15 else "survey-fast",
        project=bool(random.random() < 0.1),
    )
    situation = replace(situation, things=_things(random, situation))
    refusal = _pick(random, REFUSALS) if random.random() < 0.12 else None
    situation = _consistent(situation)
    if refusal is None and situation.suffix == ".shp" and situation.before.system == ROTATED_POLE:
        refusal = "system in a shapefile"  # whose kind of WKT has no word for it
    if refusal == "output is an input" and (situation.after, situation.before)[number % 2].wrapper == "http":
        refusal = None  # nothing tells that a server's file is one of this machine
    return replace(situation, refusal=refusal)


def _pick(random: np.random.Generator, values: tuple[str, ...] | list[str]) -> str:
    return values[int(random.integers(len(values)))]


def _grid(  # noqa: PLR0917 - each is a property of the grid
    ground: Ground, system: str, middle: tuple[float, float], pixel: float, angle: float, flips: tuple[int, int],
    size: tuple[int, int],
) -> SceneKind:  # fmt: skip
    """Return a scene around a place on the ground, with its pixel size and its angle in degrees."""
    to_system = ground.between(system, back=True)
    u, v = np.array([0.0, 1.0, 0.0]) + middle[0], np.array([0.0, 0.0, 1.0]) + middle[1]
    x, y = (np.asarray(part, float) for part in to_system(u, v))
    if system in DEGREES:
        x = x - 360 * np.round((x - x[0]) / 360)
        across, up = abs(x[1] - x[0]), abs(y[2] - y[0])
    else:
        across = up = math.sqrt(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])))
    height, width = size
    scale = Affine.scale(across * pixel * flips[0], -up * pixel * flips[1])
    transform = (
        Affine.translation(x[0], y[0]) @ Affine.rotation(angle) @ scale @ Affine.translation(-width / 2, -height / 2)
    )
    return SceneKind(system, tuple(transform)[:6], height, width)


def _first_grid(random: np.random.Generator, ground: Ground) -> SceneKind:
    system = _pick(random, PLACES[ground.place][2])
    angle = float(random.uniform(-180, 180)) if random.random() < 0.2 else 0.0
    if system in DEGREES and abs(PLACES[ground.place][1]) > 60:
        angle = 0.0  # degrees of longitude are so short there that turned pixels would be slivers
    flips = (1, int(random.choice([1, -1], p=[0.85, 0.15])))
    size = (int(random.integers(250, 400)), int(random.integers(250, 400)))
    return _grid(ground, system, (0.0, 0.0), 1.0, angle, flips, size)


def _second_grid(random: np.random.Generator, ground: Ground, before: SceneKind) -> tuple[SceneKind, str]:
    """Return the after scene's grid, and its relation to that of the before scene."""
    relation = _pick(random, ["same", "same", "whole pixels", "fractions", "ratio", "system", "system", "turned"])
    size = (int(random.integers(230, 420)), int(random.integers(230, 420)))
    far = random.random() < 0.2
    offset = random.uniform(-1, 1, 2) * (0.3 * before.width if far else 20)
    if relation == "same":
        return replace(before), relation
    if relation in ("whole pixels", "fractions", "ratio"):
        ratio = float(np.exp(random.uniform(math.log(0.35), math.log(3)))) if relation == "ratio" else 1.0
        size = (round(size[0] / ratio), round(size[1] / ratio))
        offset = offset.round() if relation == "whole pixels" else offset
        middle = Affine.translation(before.width / 2 + offset[0], before.height / 2 + offset[1])
        corner = Affine.translation(-size[1] / 2, -size[0] / 2)
        if relation == "whole pixels":
            corner = Affine.translation(round(-before.width / 2), round(-before.height / 2))
            middle = Affine.translation(round(before.width / 2) + offset[0], round(before.height / 2) + offset[1])
        transform = before.affine @ middle @ Affine.scale(ratio) @ corner
        return replace(before, transform=tuple(transform)[:6], height=size[0], width=size[1]), relation
    ratio = float(np.exp(random.uniform(math.log(0.5), math.log(2))))
    size = (round(size[0] / ratio), round(size[1] / ratio))
    angle = float(random.uniform(-180, 180)) if relation == "turned" else 0.0
    system = before.system if relation == "turned" else _pick(random, PLACES[ground.place][2])
    if system in DEGREES and abs(PLACES[ground.place][1]) > 60:
        angle = 0.0
    after = _grid(ground, system, (float(offset[0]), float(offset[1])), ratio, angle, (1, 1), size)
    if system in DEGREES and random.random() < 0.3:
        after = replace(
            after, transform=tuple(Affine.translation(float(random.choice([-360, 360])), 0) @ after.affine)[:6]
        )
    return after, relation


def _stored(
    random: np.random.Generator, before: SceneKind, after: SceneKind, ground: Ground
) -> tuple[SceneKind, SceneKind]:
    """Return both scenes with types, bands, nodata, layouts and wrappers."""
    first = _pick(random, DTYPES) if random.random() < 0.6 else "uint8"
    second = first
    if first in ("scaled", "reflectance"):
        second = _pick(random, ("scaled", "reflectance"))
    gray = random.random() < 0.2
    scenes = []
    for scene, dtype in ((before, first), (after, second)):
        order = "gray" if gray else _pick(random, ["rgb", "rgb", "rgbn", "bgrn", "nrgb"])
        nodata = _pick(random, NODATA[dtype]) if random.random() < 0.6 else "none"
        layout = _pick(random, LAYOUTS) if random.random() < 0.7 else "strips"
        named = bool(random.random() < 0.5) and dtype in ("uint8", "uint16") and order != "gray"
        scene = replace(  # noqa: PLW2901 - made complete
            scene,
            dtype=dtype,
            order=order,
            named=named,
            infrared_as_alpha=bool(named and order == "rgbn" and nodata == "none" and random.random() < 0.3),
            nodata=nodata,
            layout=layout,
            wrapper=_pick(random, WRAPPERS),
            gain=float(random.uniform(0.92, 1.08)),
            noise=float(random.choice([0.0, 1.0, 2.0])),
        )
        scene = _possible(scene)  # noqa: PLW2901 - likewise
        scenes.append(replace(scene, footprint=_footprint(random, scene, ground)))
    return scenes[0], scenes[1]


def _possible(scene: SceneKind) -> SceneKind:
    """Return a scene whose layout can store its type, bands and nodata, and whose wrapper can tell of them."""
    if scene.nodata == "jpeg":
        scene = replace(scene, layout="jpeg")
    if scene.nodata in ("alpha", "unnamed alpha"):
        scene = replace(scene, order="gray" if scene.order == "gray" else "rgb", named=scene.nodata == "alpha")
    count = len(ORDERS[scene.order]) + (scene.nodata in ("alpha", "unnamed alpha"))
    byte, plain = scene.dtype == "uint8", scene.nodata in ("none", "collar")
    possible = {
        "jpeg": byte and count in (1, 3) and scene.nodata in ("none", "mask", "msk", "jpeg", "collar"),
        "jpg": byte and count in (1, 3) and scene.nodata == "none",
        "png": scene.dtype in ("uint8", "uint16") and plain and count in (1, 3),
        "world file": byte and plain and count in (1, 3),
        "webp": byte and count == 3 and scene.nodata not in ("mask", "msk"),
        "jp2": scene.dtype in ("uint8", "uint16") and plain and count in (1, 3) and scene.system != ROTATED_POLE,
        "hfa": scene.nodata not in ("mask", "msk", "alpha") and scene.system != SITE,
        "envi": scene.nodata not in ("mask", "msk", "alpha") and _envi_tells_place(scene),
        "cog": True,
    }
    if scene.layout == "jp2" and scene.affine.e > 0:
        possible["jp2"] = False  # GDAL writes no such georeference into JPEG 2000
    if not possible.get(scene.layout, True):
        scene = replace(scene, layout="tiled")
    return scene


def _envi_tells_place(scene: SceneKind) -> bool:
    """Return whether an ENVI header, as GDAL writes it, says where the scene is."""
    grid = scene.affine
    turned_grid, upward = bool(grid.b or grid.d), grid.determinant > 0
    lost = (
        (turned_grid and upward)
        or (turned_grid and scene.system in DEGREES)  # their pixels are oblong
        or ((turned_grid or upward) and scene.system in ENVI_UNTURNED)
        or scene.system in NOT_ENVI
    )
    return not lost


def _footprint(random: np.random.Generator, scene: SceneKind, ground: Ground) -> Footprint | None:
    """Return a turned rectangle that leaves the corners of the scene without data."""
    if scene.nodata == "none":
        return None
    size = pixel_of(scene, ground)
    u, v = ground.between(scene.system)(
        *(np.asarray([part]) for part in scene.affine @ (scene.width / 2, scene.height / 2))
    )
    half = (
        float(random.uniform(0.4, 0.44)) * scene.width * size,
        float(random.uniform(0.4, 0.44)) * scene.height * size,
    )
    # Degrees turn from the scene's own axes, so that its corners are cut.
    x, y = scene.affine @ (scene.width / 2 + 1, scene.height / 2)
    right = ground.between(scene.system)(np.asarray([x]), np.asarray([y]))
    own = math.atan2(float(right[1][0] - v[0]), float(right[0][0] - u[0]))
    turn = math.radians(float(random.uniform(14, 30)) * float(random.choice([-1, 1])))
    return Footprint(float(u[0]), float(v[0]), half, own + turn)


def _displaced(random: np.random.Generator, situation: Situation) -> dict[str, object]:
    """Return how far the after scene's content lies apart, where enough of both scenes can be matched."""
    kind = random.random()
    if kind < 0.4 or situation.coarsest > 1.5 or _common_nodes(situation) < LEAST_NODES:
        return {}
    if kind < 0.8:
        shift = random.integers(-5, 6, 2).astype(float) if random.random() < 0.7 else random.uniform(-4, 4, 2)
        return {"shift": (float(shift[0]), float(shift[1]))}
    return {"bend": float(random.uniform(2, 4))}


def _common_nodes(situation: Situation) -> int:
    """Return how many squares of 16 pixels both scenes show: of few, geosiam corrects no displacement by itself."""
    before, after, ground = situation.before, situation.after, situation.ground
    rows, cols = np.mgrid[16 : before.height - 8 : 16, 16 : before.width - 8 : 16]
    u, v = ground.between(before.system)(*(before.affine @ (cols.astype(float), rows.astype(float))))
    outside = np.maximum(before.outside(u, v), after.outside(u, v))
    return int(((outside < -16) & (after.corner_distance(ground, u, v) * pixel_of(after, ground) > 16)).sum())


def _things(random: np.random.Generator, situation: Situation) -> tuple[Thing, ...]:
    """Return objects that lie inside the valid pixels of both scenes and apart from each other."""
    things: list[Thing] = []
    before, after, ground = situation.before, situation.after, situation.ground
    half = 14.0 * max(1.0, situation.coarsest / 1.5)
    to_ground = ground.between(before.system)
    for _ in range(60):
        col, row = random.uniform(MARGIN, before.width - MARGIN), random.uniform(MARGIN, before.height - MARGIN)
        u, v = to_ground(*(np.asarray([part]) for part in before.affine @ (col, row)))
        reach = 1.5 * half + SEAM + situation.farthest
        inside = max(before.outside(u, v)[0], after.outside(u, v)[0]) < -reach
        pixel = pixel_of(after, ground)
        edges = min(before.corner_distance(ground, u, v)[0], after.corner_distance(ground, u, v)[0] * pixel)
        if not inside or edges < reach:
            continue
        if all(math.hypot(u[0] - thing.u, v[0] - thing.v) > APART + 2 * half for thing in things):
            color = COLORS[int(random.integers(len(COLORS)))]
            if before.order == "gray":
                color = (245, 245, 245)
            angle = float(random.uniform(0, math.pi / 2))
            things.append(Thing(float(u[0]), float(v[0]), half * float(random.uniform(1, 1.2)), angle, color))
        if len(things) == 3:
            break
    return tuple(things)


def _consistent(situation: Situation) -> Situation:
    """Return a situation whose options fit both scenes, and whose names fit the wrappers."""
    before, after = situation.before, situation.after
    before, after = (_named(scene, situation) for scene in (before, after))
    if "user" in (before.nodata, after.nodata):
        # A value that the user names for one scene leaves the other as its file declares it.
        before, after = (
            replace(scene, nodata="declared" if scene.dtype != "uint8" else "mask", layout="tiled")
            if scene.nodata in UNDECLARED
            else scene
            for scene in (before, after)
        )
    options: list[str] = []
    if not _same_by_default(before, after):
        for option, scene in (("--bands", before), ("--after-bands", after)):
            order = ORDERS[scene.order]
            options += [option, ",".join(str(order.index(color) + 1) for color in ("red", "green", "blue"))]
    if "user" in (before.nodata, after.nodata):
        values = [_user_value(scene) if scene.nodata == "user" else "none" for scene in (before, after)]
        options += ["--nodata", ",".join(values)]
    return replace(situation, before=before, after=after, options=tuple(options))


def _named(scene: SceneKind, situation: Situation) -> SceneKind:
    """Return a scene in a wrapper that can tell its name and place."""
    kind, name, anywhere = scene.wrapper, situation.name, situation.folder + situation.name
    in_archive, virtual = kind in ("vsizip", "zip"), kind in ("vrt", "nested vrt")
    turned_grid = bool(scene.affine.b or scene.affine.d or scene.affine.e > 0)
    folder = "pattern" if scene.layout == "envi" else "folder"  # of a folder, only files with usual suffixes are tiles
    instead = (
        (in_archive and "\\" in name, "plain"),  # there it ends the name of a folder
        # A member of zip:// begins at the first "!"; rasterio reads both as URIs, in which "#" begins a fragment.
        (kind == "zip" and ("!" in anywhere or "#" in anywhere), "vsizip"),
        (kind == "file uri" and "#" in anywhere, "plain"),
        (kind == "dataarray" and scene.nodata in ("mask", "msk"), "plain"),  # it has at most a value that means nodata
        # GDAL leaves out the blank with which the name of a virtual raster's source begins, and turns backslashes.
        (virtual and (name.startswith(" ") or "\\" in name), "plain"),
        # GDAL's tile index takes neither turned tiles nor those whose rows go up, and no double quotes.
        (kind == "tile index" and (turned_grid or '"' in anywhere), folder),
        (kind == "folder", folder),
    )
    return replace(scene, wrapper=next((other for condition, other in instead if condition), kind))


def _same_by_default(before: SceneKind, after: SceneKind) -> bool:
    """Return whether the bands that are compared without options show the same colors."""
    scenes = before, after
    return all(scene.order in ("gray", "rgb") for scene in scenes) or all(map(_names_colors, scenes))


def _names_colors(scene: SceneKind) -> bool:
    """Return whether the file says which bands are red, green and blue, and its layout and wrapper can tell so."""
    told = scene.layout not in ("hfa", "envi") and scene.wrapper not in ("dataarray", "tile index")
    return scene.named and told


def _user_value(scene: SceneKind) -> str:
    """Return a value that no pixel of the ground has."""
    return {"uint8": "255", "uint16": "65535", "int16": "-4321"}[scene.dtype]
