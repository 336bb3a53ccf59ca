"""Pictures show what rasterio reads there, both scenes stretched alike, and nothing that was not compared."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.warp import transform
from report_samples import GRID, SIZE, UTM, write_scene

from geosiam.errors import SceneNotFoundError, SceneRefusedError
from geosiam.imagery.grid import Grid
from geosiam.polygons.results import read_result
from geosiam.qml import SCORE_COLORS
from geosiam.report.images import PairPictures, SceneView
from geosiam.report.inputs import find_pairs
from geosiam.report.page import color_table, scores_png, webp
from geosiam.scores.raster import ScoreRaster


def part(col: int, row: int, size: int, step: int = 1) -> Grid:
    at = GRID @ Affine.translation(col, row) @ Affine.scale(step)
    return Grid(UTM, at, size // step, size // step)


def noise(kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 250, (3, SIZE, SIZE)).astype(kind)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_part_at_full_size_is_what_rasterio_reads(tmp_path, kind):
    image = noise(kind)
    view = SceneView.open(str(write_scene(tmp_path / "a.tif", image)))
    assert np.array_equal(view.on(part(40, 72, 100)), image[:, 72:172, 40:140])
    view.close()


def test_a_large_part_is_averaged(tmp_path):
    image = noise()
    view = SceneView.open(str(write_scene(tmp_path / "a.tif", image)))
    shown = view.on(part(32, 64, 128, step=4))
    expected = image[:, 64:192, 32:160].reshape(3, 32, 4, 32, 4).mean(axis=(2, 4))
    assert np.abs(shown - expected).max() <= 0.5  # GDAL rounds averages of bytes
    view.close()


def test_what_is_unknown_or_outside_is_nan(tmp_path):
    image = noise()
    image[:, 100:110] = 0
    view = SceneView.open(str(write_scene(tmp_path / "a.tif", image, nodata=0)))
    shown = view.on(part(-20, 90, 50))
    unknown = np.isnan(shown).all(axis=0)
    assert unknown[:, :20].all()
    assert unknown[10:20].all()
    assert np.array_equal(shown[:, :10, 20:], image[:, 90:100, :30])
    assert np.isnan(view.on(part(5000, 5000, 10))).all()
    view.close()


def test_a_scene_in_another_system_lies_at_the_same_place(tmp_path):
    dark = np.full((3, 400, 400), 10, np.uint8)
    (longitude,), (latitude,) = transform(UTM, "EPSG:4326", *([c] for c in GRID @ (100, 200)))
    degree = Affine(1e-5, 0, longitude - 200.5e-5, 0, -1e-5, latitude + 200.5e-5)  # the point is the middle of a pixel
    dark[:, 199:202, 199:202] = 250
    view = SceneView.open(str(write_scene(tmp_path / "a.tif", dark, CRS.from_epsg(4326), degree)))
    shown = view.on(part(80, 180, 40))[0]
    rows, cols = np.nonzero(shown > 130)
    assert np.mean(rows) + 0.5 == pytest.approx(20, abs=0.5)
    assert np.mean(cols) + 0.5 == pytest.approx(20, abs=0.5)
    view.close()


def test_palettes_show_their_colors_and_are_not_averaged(tmp_path):
    indexes = np.random.default_rng(0).integers(0, 2, (1, SIZE, SIZE), np.uint8)
    path = write_scene(tmp_path / "a.tif", indexes, photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (200, 10, 20, 255), 1: (5, 100, 30, 255)})
    view = SceneView.open(str(path))
    colors = {tuple(pixel) for pixel in view.on(part(0, 0, 64, step=4)).reshape(3, -1).T}
    assert colors == {(200.0, 10.0, 20.0), (5.0, 100.0, 30.0)}
    view.close()


def test_an_alpha_band_hides(tmp_path):
    image = np.concatenate([noise(), np.full((1, SIZE, SIZE), 255, np.uint8)])
    image[3, :, :50] = 0
    view = SceneView.open(str(write_scene(tmp_path / "a.tif", image, photometric="rgb", alpha="yes")))
    shown = view.on(part(40, 0, 20))
    assert np.isnan(shown[:, :, :10]).all()
    assert np.array_equal(shown[:, :, 10:], image[:3, :20, 50:60])
    view.close()


@pytest.fixture
def opened(village):
    """Return the pictures of the generated pair, and its polygons."""
    import geopandas

    (pair,) = find_pairs([village])
    pictures = PairPictures.open(pair, read_result(pair.anomalies).record)
    yield pictures, geopandas.read_file(pair.anomalies, layer="anomalies"), ScoreRaster.open(pair.scores).stride
    pictures.close()


def test_a_chip_shows_the_polygon_in_its_box(opened):
    pictures, polygons, stride = opened
    outline = polygons.geometry.iloc[0]
    chip = pictures.chip(outline, 384)
    assert chip.before.shape == chip.after.shape
    assert chip.scores.shape[0] == chip.before.shape[0] // stride
    # The outline in the box, the polygon on the scores: the same cells.
    numbers = [pair.split(" ") for pair in chip.outline[1:].split("Z")[0].split("L")]
    x, y = np.array(numbers, float).T
    cells = chip.scores.shape[0] / 1000
    inside = chip.scores[
        round(y.min() * cells) : round(y.max() * cells), round(x.min() * cells) : round(x.max() * cells)
    ]
    assert inside.max() == pytest.approx(polygons.score_max.iloc[0], abs=0.003)
    assert chip.meters == pytest.approx(chip.before.shape[0] * 0.1, rel=0.002)  # UTM's scale is 0.9996 and up


def test_both_scenes_are_stretched_alike(opened, village):
    pictures, polygons, _ = opened
    outline = polygons.geometry.iloc[0]
    chip = pictures.chip(outline, 384)
    side = chip.before.shape[0]
    with rasterio.open(village / "before.tif") as file:
        whole = file.read()
        middle = file.index(*outline.envelope.centroid.coords[0])
    with rasterio.open(village / "after.tif") as file:
        later = file.read()
    corner = [max(0, min(at - side // 2, length - side)) for at, length in zip(middle, whole.shape[1:], strict=True)]
    near = [
        range(max(0, at - 3), min(at + 3, length - side) + 1)
        for at, length in zip(corner, whole.shape[1:], strict=True)
    ]
    found = [
        (row, col)
        for row in near[0]
        for col in near[1]
        if np.corrcoef(whole[:, row : row + side, col : col + side].ravel(), chip.before.transpose(2, 0, 1).ravel())[
            0, 1
        ]
        > 0.999  # clipping bends the line a little
    ]
    ((row, col),) = found
    straight = np.polyfit(
        whole[:, row : row + side, col : col + side].ravel(), chip.before.transpose(2, 0, 1).ravel(), 1
    )
    again = np.polyfit(later[:, row : row + side, col : col + side].ravel(), chip.after.transpose(2, 0, 1).ravel(), 1)
    assert again == pytest.approx(straight, rel=0.05, abs=4)


def test_an_overview_is_small_and_has_the_scene_upright(opened):
    pictures, polygons, _ = opened
    from geosiam.report.map import Plane

    plane = Plane.of(pictures.grid.crs.to_wkt(), pictures.grid.bounds)
    picture, grid = pictures.overview(plane, 200)
    assert max(picture.shape) == 200
    assert grid.crs == CRS.from_epsg(3857)
    assert polygons.to_crs(3857).total_bounds[0] >= grid.bounds[0]


def test_the_correction_of_a_shift_is_applied(village):
    (pair,) = find_pairs([village])
    record = read_result(pair.anomalies).record
    moved = replace(record, moved_px=(3.0, -5.0))
    outline = shapely.MultiPolygon([shapely.box(*(part for part in _box(pair)))])
    plain, corrected = (PairPictures.open(pair, each) for each in (record, moved))
    first, second = plain.chip(outline, 384), corrected.chip(outline, 384)
    assert np.array_equal(first.before, second.before)
    assert np.array_equal(first.after[13:100, 20:100], second.after[10:97, 25:105])
    for pictures in (plain, corrected):
        pictures.close()


def _box(pair):
    with rasterio.open(pair.before) as file:
        x, y = file.transform @ (250, 250)
    return x, y, x + 1, y + 1


def test_scenes_that_are_gone_or_changed_are_not_shown(village, tmp_path):
    (pair,) = find_pairs([village])
    record = read_result(pair.anomalies).record
    with pytest.raises(SceneNotFoundError, match="does not exist"):
        PairPictures.open(replace(pair, after=tmp_path / "gone.tif"), record)
    with pytest.raises(SceneRefusedError, match="has changed since it was compared"):
        PairPictures.open(replace(pair, after=pair.before), record)
    with pytest.raises(SceneRefusedError, match="is not recorded"):
        PairPictures.open(replace(pair, before=None), record)
    copy = shutil.copyfile(pair.after, tmp_path / "copy.tif")  # a copy has another time, and the same content
    PairPictures.open(replace(pair, after=copy, scores=tmp_path / "gone.tif"), record).close()


def test_scores_have_the_colors_that_qgis_gives_them():
    table = color_table()
    for score, color, alpha in SCORE_COLORS:
        at = table[round(score * 254)]
        expected = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(at[:3].astype(int) - expected).max() <= 1
        assert abs(int(at[3]) - alpha) <= 1
    scores = np.array([[0.0, 1.0], [np.nan, 0.5]], np.float32)
    picture = np.array(Image.open(io.BytesIO(scores_png(scores))).convert("RGBA"))
    assert picture[0, 1].tolist() == table[254].tolist()
    assert picture[1, 0, 3] == 0
    assert picture[0, 0, 3] == picture[1, 0, 3] == 0


@pytest.mark.parametrize("limit", [200_000, 20_000, 4_000, 600])
def test_a_picture_stays_below_its_limit(limit):
    image = noise().transpose(1, 2, 0)
    data = webp(np.ascontiguousarray(image), limit)
    side = max(Image.open(io.BytesIO(data)).size)
    assert len(data) <= limit or side <= 64
    assert (side == SIZE) is (limit == 200_000)


def test_a_picture_with_holes_keeps_them():
    image = np.dstack([noise().transpose(1, 2, 0), np.full((SIZE, SIZE), 255, np.uint8)])
    image[:100, :, 3] = 0
    back = np.array(Image.open(io.BytesIO(webp(image, 10**6))))
    assert back.shape[2] == 4
    assert (back[:100, :, 3] == 0).all()
    assert (back[100:, :, 3] == 255).all()


def test_the_displacement_near_a_polygon_is_applied(village):
    """Crops of the after scene follow the nearest point, whatever lies farther away."""
    (pair,) = find_pairs([village])
    record = read_result(pair.anomalies).record
    left, bottom, right, top = _box(pair)
    outline = shapely.MultiPolygon([shapely.box(left, bottom, right, top)])
    points = np.array([[left + 30, bottom, 9.0, 9.0], [(left + right) / 2, (bottom + top) / 2, 3.0, -5.0]])
    plain = PairPictures.open(pair, record)
    followed = PairPictures(*plain._scenes, plain._scores, record, points)
    moved = PairPictures.open(pair, replace(record, moved_px=(3.0, -5.0)))
    assert np.array_equal(followed.chip(outline, 384).after, moved.chip(outline, 384).after)
    assert not np.array_equal(followed.chip(outline, 384).after, plain.chip(outline, 384).after)
    for pictures in (plain, moved):
        pictures.close()
