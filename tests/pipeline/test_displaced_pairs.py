"""Pairs that bend apart, through the whole pipeline: what is found in them, and the same result however it is run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from same_result import assert_same

import geosiam as gs
from bent_scenes import Bend, picture, texture
from geosiam.errors import OutputError
from geosiam.imagery import prepare
from geosiam.imagery.displacement import estimate_field
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.inference import scorer
from geosiam.options import DetectOptions, ScoreOptions
from geosiam.pipeline import detect
from geosiam.scores import working_file
from geosiam.scoring import score_to_file

if TYPE_CHECKING:
    from pathlib import Path

    from geosiam.results import DetectResult

SIDE = 640
KEPT = ".a.tif.partial.npz"  # estimates of an unfinished run
BEND = Bend((1.0, -2.0), amplitude=6.0)
PLACES = [(90, 110), (120, 420), (250, 250), (330, 540), (430, 90), (500, 360), (560, 560), (70, 560)]
MOVING = (300, 390)  # first pixel of what moves
THING = 20  # px, side


def write(path: Path, image: np.ndarray, **options: object) -> Path:
    profile = {"crs": "EPSG:32633", "transform": Affine(0.1, 0, 400_000, 0, -0.1, 5_000_000)} | options
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    count, height, width = image.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8", **tiles, **profile
    ) as file:
        file.write(image)
    return path


def ground(side: int = SIDE) -> np.ndarray:
    """Return ground on which things stand, some way apart from the places of what is new."""
    gray, rng = texture(side, side), np.random.default_rng(1)
    image = np.stack([gray, 0.8 * gray + 20, 0.6 * gray + 30])
    for row, col in np.ndindex(side // 50, side // 50):
        row, col = 50 * row + rng.integers(5, 30), 50 * col + rng.integers(5, 30)  # noqa: PLW2901
        if all(max(abs(row - y), abs(col - x)) > 45 for y, x in [*PLACES, MOVING]):
            height, width = rng.integers(8, 16, 2)
            put(image, row, col, np.broadcast_to(rng.uniform(20, 235, (3, 1, 1)), (3, height, width)))
    return image


def put(image: np.ndarray, row: float, col: float, thing: np.ndarray) -> None:
    """Put a thing (3, height, width) into an image, its first pixel at a place."""
    row, col = round(row), round(col)
    image[:, row : row + thing.shape[1], col : col + thing.shape[2]] = thing


def box(row: int, col: int, height: int, width: int) -> shapely.Geometry:
    """Return the outline of pixels in the coordinates of the scenes."""
    return shapely.box(
        400_000 + col / 10, 5_000_000 - (row + height) / 10, 400_000 + (col + width) / 10, 5_000_000 - row / 10
    )


def stop_after(blocks: int):
    left = iter(range(blocks))

    def stop(_done: int, _total: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return stop


@dataclass
class Pair:
    """A bent pair, and the outlines of what is new in the second scene."""

    before: Path
    after: Path
    truth: geopandas.GeoDataFrame

    def counts(self, polygons: Path) -> tuple[int, int]:
        """Return the number of objects that are found, and of polygons that are none of them."""
        found = geopandas.read_file(polygons, layer="anomalies")
        objects = shapely.unary_union(self.truth.geometry.buffer(1.0))
        hit = sum(found.intersects(outline).any() for outline in self.truth.geometry)
        return int(hit), int((~found.intersects(objects)).sum())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder, before = tmp_path_factory.mktemp("bent"), ground()
    after = BEND.applied(before)
    thing = np.broadcast_to(np.array([235.0, 30, 30])[:, None, None], (3, THING, THING))
    for row, col in PLACES:
        down, right = BEND.displacement(np.float64(row), np.float64(col))
        put(after, row + down, col + right, thing)
    outlines = [box(row, col, THING, THING) for row, col in PLACES]
    truth = geopandas.GeoDataFrame(geometry=outlines, crs="EPSG:32633")
    paths = [
        write(folder / f"{name}.tif", picture(image, 2, i))
        for i, (name, image) in enumerate((("before", before), ("after", after)))
    ]
    return Pair(*paths, truth)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "BLOCK_PX", 128)


@pytest.fixture(scope="module")
def detected(pair: Pair) -> DetectResult:
    folder = pair.before.parent / "detected"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "BLOCK_PX", 128)
        return detect(pair.before, pair.after, folder / "a.gpkg", options=DetectOptions(workers=1))


# -- what is found ---------------------------------------------------------------------------------------------------


def test_objects_are_found_and_little_else(pair: Pair, detected: DetectResult, tmp_path: Path) -> None:
    hit, wrong = pair.counts(detected.polygons_path)
    assert hit == len(PLACES)
    assert wrong <= 2
    (line,) = [line for line in detected.warnings if "displacement field" in line]
    assert "\n" not in line
    detect(pair.before, pair.after, tmp_path / "none.gpkg", options=DetectOptions(register="none"))
    _, wrong_before = pair.counts(tmp_path / "none.gpkg")
    assert wrong_before > 5 * (wrong + 1)


def test_the_pair_is_inspected_as_it_is_detected(pair: Pair, detected: DetectResult) -> None:
    report = gs.inspect_pair(pair.before, pair.after).report
    assert report.displacement["applied"] is True
    assert report.resampling == "cubic"
    assert report.alignment == "the grids are the same; resampled through a displacement field"
    assert report.displacement == detected.report.displacement  # with the checksum of the field
    assert set(report.warnings) <= set(detected.warnings)
    unregistered = gs.inspect_pair(pair.before, pair.after, options=DetectOptions(register="none")).report
    assert unregistered.displacement is None


@pytest.mark.parametrize("step", [6, 20])
def test_what_moved_on_bent_ground_is_found(step: int, tmp_path: Path) -> None:
    """The field leaves the thing's own displacement alone."""
    (row, col), height, width = MOVING, 45, 20
    before = ground()
    after = BEND.applied(before)
    thing = np.stack([texture(height, width, seed) for seed in (5, 6, 7)]) * 0.4 + 130
    down, right = BEND.displacement(np.float64(row), np.float64(col))
    put(before, row, col, thing)
    put(after, row + down, col + right + step, thing)
    paths = [
        write(tmp_path / f"{name}.tif", picture(image, 2)) for name, image in (("before", before), ("after", after))
    ]
    result = detect(*paths, tmp_path / "a.gpkg")
    assert any("displacement field" in line for line in result.warnings)
    found = geopandas.read_file(tmp_path / "a.gpkg", layer="anomalies")
    hit = found.intersects(box(row, col, height, width + step))
    assert hit.any()
    assert (~hit).sum() <= 2


def test_a_pair_that_fits_has_the_scores_that_it_has_unregistered(pair: Pair, tmp_path: Path) -> None:
    image = ground()
    put(image, 300, 200, np.full((3, 20, 20), 240.0))
    after = write(tmp_path / "after.tif", picture(image, 2, 5))
    for register in ("auto", "none"):
        detect(pair.before, after, tmp_path / f"{register}.gpkg", options=DetectOptions(register=register))
    with rasterio.open(tmp_path / "auto.tif") as one, rasterio.open(tmp_path / "none.tif") as other:
        assert np.array_equal(one.read(), other.read())


# -- however it is run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block_px", "workers"), [(128, 2), (64, 2), (1024, 1)])
def test_blocks_and_threads_do_not_matter(
    pair: Pair, detected: DetectResult, tmp_path: Path, block_px: int, workers: int
) -> None:
    scorer.BLOCK_PX = block_px  # until the fixture resets it
    detect(pair.before, pair.after, tmp_path / "a.gpkg", options=DetectOptions(workers=workers))
    assert_same(tmp_path / "a.gpkg", detected.polygons_path)


def test_the_lazy_scores_are_those_of_the_raster(pair: Pair, tmp_path: Path) -> None:
    score_to_file(pair.before, pair.after, tmp_path / "a.tif", options=ScoreOptions(score_type="float32"))
    with gs.score(pair.before, pair.after) as scores, rasterio.open(tmp_path / "a.tif") as raster:
        expected = raster.read(1, masked=True).filled(np.nan)
        part = np.asarray(scores[40:97, 11:120].compute())
        assert np.array_equal(part, expected[40:97, 11:120], equal_nan=True)
        assert np.array_equal(np.asarray(scores.compute()), expected, equal_nan=True)


def test_an_interrupted_run_goes_on_to_the_same_result(pair: Pair, detected: DetectResult, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        detect(pair.before, pair.after, tmp_path / "a.gpkg", on_progress=stop_after(9))
    done = []
    detect(pair.before, pair.after, tmp_path / "a.gpkg", on_progress=lambda *progress: done.append(progress))
    assert done[0][0] > done[0][1] / 5
    assert_same(tmp_path / "a.gpkg", detected.polygons_path)


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what is estimated from now on."""
    made = []

    def estimate(*args: object, **options: object) -> object:
        made.append(estimate_field(*args, **options))
        return made[-1]

    monkeypatch.setattr(prepare, "estimate_field", estimate)
    return made


def test_a_resumed_run_does_not_estimate_again(
    pair: Pair, detected: DetectResult, estimates: list[object], tmp_path: Path
) -> None:
    for blocks in (5, 4):
        with pytest.raises(KeyboardInterrupt):
            detect(pair.before, pair.after, tmp_path / "a.gpkg", on_progress=stop_after(blocks))
    assert len(estimates) == 2  # the first one, and the finer one
    assert (tmp_path / KEPT).exists()
    result = detect(pair.before, pair.after, tmp_path / "a.gpkg")
    assert len(estimates) == 2
    assert result.report.displacement == detected.report.displacement
    assert_same(tmp_path / "a.gpkg", detected.polygons_path)
    assert not list(tmp_path.glob(".*"))
    detect(pair.before, pair.after, tmp_path / "a.gpkg")
    assert len(estimates) == 4


def test_an_estimate_that_leads_to_no_correction_is_kept_as_well(estimates: list[object], tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.tif", picture(ground(), 2, i)) for i in range(2)]
    with pytest.raises(KeyboardInterrupt):
        score_to_file(*paths, tmp_path / "a.tif", on_progress=stop_after(3))
    result = score_to_file(*paths, tmp_path / "a.tif")
    assert result.report.displacement["applied"] is False
    assert len(estimates) == 1


def test_that_nothing_can_be_matched_is_kept_as_well(estimates: list[object], tmp_path: Path) -> None:
    even = np.full((3, SIDE, SIDE), 120, np.uint8)
    paths = [write(tmp_path / f"{i}.tif", even) for i in range(2)]
    with pytest.raises(KeyboardInterrupt):
        score_to_file(*paths, tmp_path / "a.tif", on_progress=stop_after(3))
    score_to_file(*paths, tmp_path / "a.tif")
    assert estimates == [None]


@pytest.mark.parametrize("damage", ["a byte", "its end", "all of it", "another version"])
def test_a_damaged_estimate_is_not_trusted(
    damage: str, pair: Pair, estimates: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        detect(pair.before, pair.after, tmp_path / "a.gpkg", on_progress=stop_after(5))
    file = tmp_path / KEPT
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    whole = file.read_bytes()
    file.write_bytes(
        {"a byte": bytes(content), "its end": whole[:-9], "all of it": b"", "another version": whole}[damage]
    )
    if damage == "another version":
        monkeypatch.setattr(working_file, "__version__", "0.0.0")
    detect(pair.before, pair.after, tmp_path / "a.gpkg")
    assert len(estimates) == 4


def test_another_run_estimates_for_itself(pair: Pair, estimates: list[object], tmp_path: Path) -> None:
    """Whether the scene, an option or nothing but the wish to restart differs; a refused run changes nothing."""
    after = tmp_path / "after.tif"
    shutil.copy(pair.after, after)

    def interrupted(blocks: int = 5, **options: object) -> bytes:
        with pytest.raises(KeyboardInterrupt):
            score_to_file(
                pair.before,
                after,
                tmp_path / "a.tif",
                options=ScoreOptions(**options),
                on_progress=stop_after(blocks),
            )
        return (tmp_path / KEPT).read_bytes() if (tmp_path / KEPT).exists() else b""

    first = interrupted()
    assert interrupted(restart=True) == first
    assert len(estimates) == 4
    with pytest.raises(OutputError, match="another choice of bands"):
        score_to_file(pair.before, after, tmp_path / "a.tif", options=ScoreOptions(bands=(1, 1, 1)))
    assert (tmp_path / KEPT).read_bytes() == first
    assert len(estimates) == 6
    assert interrupted(restart=True, bands=(1, 1, 1)) != first
    shutil.copy(pair.before, after)
    with pytest.raises(OutputError, match="another after scene"):
        score_to_file(pair.before, after, tmp_path / "a.tif", options=ScoreOptions(bands=(1, 1, 1)))
    assert len(estimates) == 9  # a scene does not bend away from itself
    assert interrupted(restart=True, register="none") == b""


# -- a corridor ------------------------------------------------------------------------------------------------------


def test_the_shift_of_a_corridor_is_corrected(tmp_path: Path) -> None:
    """A narrow band has no room for a patch, but for local matches."""
    side = 900
    image = ground(side)
    moved = np.roll(image, (4, 3), axis=(1, 2))
    rows, cols = np.indices((side, side))
    band = (np.abs(rows - 250 - 0.37 * cols) < 125) * 255
    paths = [
        write(
            tmp_path / f"{i}.tif",
            np.stack([*(np.where(band, layer, 0) for layer in picture(scene, 2, i)), band]).astype(np.uint8),
            photometric="rgb",
            alpha="yes",
        )
        for i, scene in enumerate((image, moved))
    ]
    with open_pair(*paths, options=PairOptions(register="none")) as pair:
        assert pair.report.moved_px == (0, 0)
    with open_pair(*paths) as pair:
        assert pair.report.moved_px == (4, 3)
        assert [line for line in pair.report.warnings if "is shifted; it was moved by -4 rows and -3 columns" in line]
        block = pair.read(pair.overlap)
    difference = np.abs(block.before - block.after)[:, block.valid]
    assert difference.mean() < 0.03
