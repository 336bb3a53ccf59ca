"""The pairs of `accuracy.py`: the objects inserted into each scene, and the ground truth.

A  objects inserted into a copy of a scene, without and with nuisance on the copy
B  the same objects inserted into the second of two real dates, where unlabeled real changes are the nuisance
C  real change with labels: LEVIR-CD samples (buildings) and Beijing
D  no change: the copy with nuisance alone, and consecutive dates
E  two flights that do not fit: `geometry.py`
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.merge import merge
from rasterio.warp import transform_geom
from shapely.geometry import mapping, shape

from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.synthesis.insertion import insert_anomalies, nuisance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

OBJECTS = 100
SIZES = {"5-15 px": (5, 15), "16-64 px": (16, 64)}
FILLS = {"flat": "flat", "foreign texture": "texture", "own texture": "self-texture"}
HEIGHT, WIDTH = 720, 1260  # of the templates, as in the seed paper's figure 6
NUISANCE = {"gain": 1.15, "offset": 8.0, "gamma": 1.1, "shift_px": (1.0, 1.0), "noise_sigma": 4.0, "blur_px": 0.7}
PLACE = CRS.from_epsg(32633), Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)  # for images without a georeference

TEMPLATES = ("aerial/5b90f92da0d7280005fab355_4310", "aerial/5dded5bc0140b80006d2e565_23", "drone/fotomap_small",
             "naip/m_4709963_se_14_1_20090818")  # fmt: skip
DATES = (
    ("naip/m_4709963_se_14_1_20090818", "naip/m_4709963_se_14_1_20120731"),
    ("naip/m_4709963_se_14_1_20120731", "naip/m_4709963_se_14_1_20140720"),
    ("naip/m_4709963_se_14_1_20140720", "naip/m_4709963_se_14_1_20170827"),
    ("landsat/1985", "landsat/2000"),
    ("landsat/2000", "landsat/2015"),
    ("joplin/pre", "joplin/post"),
)


@dataclass(frozen=True)
class Raster:
    """A scene in memory: uint8 (3, rows, cols), georeference and nodata value."""

    name: str
    pixels: NDArray[np.uint8]
    crs: CRS
    transform: Affine
    nodata: float | None = None

    def write(self, path: Path) -> Path:
        """Write the scene as a GeoTIFF."""
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "rgb", "nodata": self.nodata}
        size = {"height": self.pixels.shape[1], "width": self.pixels.shape[2]}
        with rasterio.open(path, "w", crs=self.crs, transform=self.transform, **profile, **size) as file:
            file.write(self.pixels)
        return path

    def like(self, pixels: NDArray[np.uint8]) -> Raster:
        """Return other pixels with the same georeference."""
        return Raster(self.name, pixels, self.crs, self.transform, self.nodata)


@dataclass(frozen=True)
class Case:
    """One pair with ground truth.

    Parameters
    ----------
    group
        Protocol and kind; results are summarized by group.
    scene
        Name of the scene.
    seed
        Seed of everything that is random.
    before, after
        The scenes.
    truth
        int32 (rows, cols) on the grid of ``before``: number of the true object, 0 = none.
    displacement
        True displacement of the content of ``after`` relative to ``before``, float32 (2, rows, cols) on the grid of
        ``before``: pixels to the right and down. None if it is not known.
    matchable
        bool (rows, cols): where an estimate of the displacement is compared with the true one.
    kinds
        Numbers of the true objects of each kind, if there are several.
    """

    group: str
    scene: str
    seed: int
    before: Raster
    after: Raster
    truth: NDArray[np.int32]
    displacement: NDArray[np.float32] | None = None
    matchable: NDArray[np.bool_] | None = None
    kinds: Mapping[str, range] = field(default_factory=dict)


PROTOCOLS = ("A", "B", "C", "D", "E")


def cases(data: Path, protocol: str, seeds: range, part: str = "") -> Iterator[Case]:
    """Yield the pairs of a protocol, of the groups with ``part`` in their name."""
    from geometry import two_flights  # which is made of the parts below

    if protocol == "E":
        yield from two_flights(data, seeds, part)
        return
    makers = {"A": insertions_in_copies, "B": insertions_in_dates, "C": labeled_changes, "D": no_changes}
    yield from (case for case in makers[protocol](data, seeds) if part in case.group)


def insertions_in_copies(data: Path, seeds: range) -> Iterator[Case]:
    """Yield the pairs of protocol A."""
    templates = [template(data / "scenes", name) for name in TEMPLATES]
    for (size, fill), (index, scene), seed in itertools.product(
        itertools.product(SIZES, FILLS), enumerate(templates), seeds
    ):
        donor = templates[(index + 1) % len(templates)].pixels
        inserted = insert_anomalies(
            scene.pixels, count=OBJECTS, size_px=SIZES[size], shape="mixed", fill=FILLS[fill], seed=seed, donor=donor
        )
        yield Case(f"A {size}, {fill}, clean", scene.name, seed, scene, scene.like(inserted.image), inserted.mask)
        after = scene.like(nuisance(inserted.image, seed=seed, **NUISANCE))
        yield Case(f"A {size}, {fill}, nuisance", scene.name, seed, scene, after, inserted.mask)


def insertions_in_dates(data: Path, seeds: range) -> Iterator[Case]:
    """Yield the pairs of protocol B, without objects where either date has no data."""
    scenes = {name: whole(data / "scenes", name) for name in dict.fromkeys(itertools.chain(*DATES))}
    names = list(scenes)
    for (size, fill), (first, second), seed in itertools.product(itertools.product(SIZES, FILLS), DATES, seeds):
        before, after = scenes[first], scenes[second]
        donor = scenes[names[(names.index(second) + 5) % len(names)]].pixels
        count = min(OBJECTS, after.pixels[0].size // 5000)  # Landsat's pieces are small
        inserted = insert_anomalies(
            after.pixels, count=count, size_px=SIZES[size], shape="mixed", fill=FILLS[fill], seed=seed, donor=donor
        )
        has_data = known_pixels(after)
        objects = [(t.geometry, t.id) for t in inserted.truth if has_data[inserted.mask == t.id].all()]
        image = np.where(has_data, inserted.image, after.pixels)
        truth = on_grid(objects, after, before) * known_pixels(before)
        yield Case(f"B {size}, {fill}", f"{first} and {second}", seed, before, after.like(image), truth)


def labeled_changes(data: Path, _seeds: range) -> Iterator[Case]:
    """Yield the pairs of protocol C."""
    levir = data / "change" / "levir"
    for path in sorted((levir / "A").iterdir()):
        pair = [_image(levir / folder / path.name) for folder in "AB"]
        mask = _mask(levir / "label" / f"{path.stem}.png")
        yield Case("C LEVIR", path.stem, 0, *pair, mask)
    beijing = data / "change" / "beijing"
    pair = [_image(beijing / f"beijing_A_{i}.jpg") for i in (1, 2)]
    yield Case("C Beijing", "beijing", 0, *pair, _mask(beijing / "beijing_A_gt.jpg"))


def no_changes(data: Path, seeds: range) -> Iterator[Case]:
    """Yield the pairs of protocol D."""
    for name, seed in itertools.product(TEMPLATES, seeds):
        scene = template(data / "scenes", name)
        none = np.zeros(scene.pixels.shape[1:], np.int32)
        changed = scene.like(nuisance(scene.pixels, seed=seed, **NUISANCE))
        yield Case("D nuisance only", scene.name, seed, scene, changed, none)
    for first, second in DATES:
        before, after = whole(data / "scenes", first), whole(data / "scenes", second)
        place = first.split("/")[0]
        yield Case(
            f"D dates, {place}", f"{first} and {second}", 0, before, after, np.zeros(before.pixels.shape[1:], np.int32)
        )


def template(folder: Path, name: str) -> Raster:
    """Return the middle part of a scene as the network sees it."""
    with open_pair(folder / f"{name}.tif", folder / f"{name}.tif", options=PairOptions(radiometry="none")) as pair:
        rows, cols = min(HEIGHT, pair.grid.height), min(WIDTH, pair.grid.width)
        row, col = (pair.grid.height - rows) // 2, (pair.grid.width - cols) // 2
        block = pair.read(Window(row, row + rows, col, col + cols))
        pixels = (block.before * 255).round().astype(np.uint8)
        return Raster(name, pixels, pair.grid.crs, pair.grid.transform @ Affine.translation(col, row))


def whole(folder: Path, name: str) -> Raster:
    """Return a scene, or the tiles in a folder as one, with its first three bands."""
    path = folder / name
    files = sorted(path.glob("*.tif")) if path.is_dir() else [path.with_suffix(".tif")]
    with rasterio.open(files[0]) as file:
        crs, nodata = file.crs, file.nodata
    pixels, transform = merge(files, indexes=[1, 2, 3])
    return Raster(name, pixels, crs, transform, nodata)


def known_pixels(scene: Raster) -> NDArray[np.bool_]:
    """Return which pixels of a scene have data: bool (rows, cols)."""
    if scene.nodata is None:
        return np.ones(scene.pixels.shape[1:], bool)
    return (scene.pixels != scene.nodata).all(axis=0)


def on_grid(objects: list[tuple[object, int]], source: Raster, target: Raster) -> NDArray[np.int32]:
    """Rasterize objects, given in pixels of one scene, on the grid of another."""
    t = source.transform
    outlines = []
    for geometry, number in objects:
        corners = np.array(shape(mapping(geometry)).exterior.coords)
        x, y = t.a * corners[:, 0] + t.b * corners[:, 1] + t.c, t.d * corners[:, 0] + t.e * corners[:, 1] + t.f
        outline = {"type": "Polygon", "coordinates": [list(zip(x.tolist(), y.tolist(), strict=True))]}
        outlines.append((transform_geom(source.crs, target.crs, outline), number))
    size = target.pixels.shape[1:]
    return (
        rasterize(outlines, out_shape=size, transform=target.transform, dtype="int32")
        if outlines
        else np.zeros(size, np.int32)
    )


def _image(path: Path) -> Raster:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return Raster(path.stem, np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), *PLACE)


def _mask(path: Path) -> NDArray[np.int32]:
    from scipy import ndimage

    labels, _ = ndimage.label(np.asarray(Image.open(path).convert("L")) > 127, np.ones((3, 3)))
    return labels.astype(np.int32)
