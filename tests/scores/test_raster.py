"""The score raster: what is written is what is read, complete or not at all."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from geosiam.errors import OptionError, OutputError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.imagery.grid import Block, Grid, Lattice, Window
from geosiam.scores.raster import STRIDE_TAG, ScoreRaster
from geosiam.scores.working_file import SCORE_NODATA, decode, encode
from geosiam.scores.writer import ScoreRasterWriter

UTM = CRS.from_epsg(32633)


TRANSFORM = Affine(4, 0, 500_000, 0, -4, 5_800_000)


def grid_of(rows, cols):
    return Grid(UTM, TRANSFORM, cols, rows)


def random_scores(rows, cols, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, cols)).astype(np.float32)
    scores[rng.random((rows, cols)) < 0.1] = np.nan
    return scores


def write(path, scores, *, dtype="uint8", tags=None, block=512):
    rows, cols = scores.shape
    with ScoreRasterWriter(path, grid_of(rows, cols), dtype=dtype, tags=tags or {}) as writer:
        for b in Lattice(rows, cols, block, block):
            writer.write(b, scores[b.cells.slices])


def read(path, rows=512):
    strips = list(ScoreRaster.open(path).strips(rows))
    assert [start for start, _ in strips] == list(np.cumsum([0] + [len(s) for _, s in strips[:-1]]))
    return np.concatenate([s for _, s in strips])


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1, width=32)), min_size=1))
def test_encoding_keeps_scores_to_half_a_step_and_nodata_exactly(values):
    scores = np.array(values, np.float32)
    back = decode(encode(scores))
    assert np.array_equal(np.isnan(back), np.isnan(scores))
    assert np.nanmax(np.abs(back - scores), initial=0) <= 0.5 / 254 + 1e-7


def test_every_stored_value_survives_decoding_and_encoding():
    stored = np.arange(256, dtype=np.uint8)
    assert np.array_equal(encode(decode(stored)), stored)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_scores_come_back_in_strips_of_any_height(tmp_path, dtype):
    scores = random_scores(700, 1100)
    write(tmp_path / "s.tif", scores, dtype=dtype)
    tolerance = 0.5 / 254 + 1e-7 if dtype == "uint8" else 0
    for rows in (1, 300, 512, 5000):
        back = read(tmp_path / "s.tif", rows)
        assert back.dtype == np.float32
        assert np.array_equal(np.isnan(back), np.isnan(scores))
        assert np.nanmax(np.abs(back - scores)) <= tolerance


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_counts_are_those_of_the_scores(tmp_path, dtype):
    scores = random_scores(700, 600)
    write(tmp_path / "s.tif", scores, dtype=dtype)
    raster = ScoreRaster.open(tmp_path / "s.tif")
    steps = np.rint(scores[~np.isnan(scores)].astype(np.float64) * 254).astype(int)
    assert (raster.counts() == np.bincount(steps, minlength=255)).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_result_is_a_cog_that_says_what_it_is(tmp_path, dtype):
    write(tmp_path / "s.tif", random_scores(700, 1100), dtype=dtype, tags={STRIDE_TAG: "8", "GEOSIAM_MODEL": "survey"})
    with rasterio.open(tmp_path / "s.tif") as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert src.overviews(1)
        assert src.block_shapes == [(512, 512)]
        assert src.descriptions == ("anomaly score",)
        assert src.tags()["GEOSIAM_MODEL"] == "survey"
        assert (src.crs, src.transform, src.shape) == (UTM, TRANSFORM, (700, 1100))
        if dtype == "uint8":
            assert src.nodata == SCORE_NODATA
            assert src.scales == (1 / 254,)
        else:
            assert np.isnan(src.nodata)
    raster = ScoreRaster.open(tmp_path / "s.tif")
    assert raster.stride == 8
    assert raster.grid == grid_of(700, 1100)


def test_overviews_average_without_nodata(tmp_path):
    scores = np.full((1024, 1024), np.nan, np.float32)
    scores[::2] = 1
    write(tmp_path / "s.tif", scores)
    with rasterio.open(tmp_path / "s.tif", overview_level=0) as src:
        assert (src.read(1) == 254).all()


def test_blocks_never_written_are_nodata(tmp_path):
    with ScoreRasterWriter(tmp_path / "s.tif", grid_of(600, 600), tags={}) as writer:
        writer.write(Block(0, Window(0, 10, 0, 10)), np.zeros((10, 10), np.float32))
    back = read(tmp_path / "s.tif")
    assert (back[:10, :10] == 0).all()
    assert np.isnan(back).sum() == 600 * 600 - 100


def test_the_same_scores_make_the_same_pixels_whatever_the_blocks(tmp_path):
    scores = random_scores(600, 700)
    write(tmp_path / "a.tif", scores, block=512)
    write(tmp_path / "b.tif", scores, block=100)
    assert np.array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"), equal_nan=True)


def test_a_style_is_put_beside_unless_there_is_one(tmp_path):
    write(tmp_path / "s.tif", random_scores(10, 10))
    assert "singlebandpseudocolor" in (tmp_path / "s.qml").read_text()
    (tmp_path / "s.qml").write_text("mine")
    write(tmp_path / "s.tif", random_scores(10, 10))
    assert (tmp_path / "s.qml").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.qml", "s.tif"]


def test_an_exception_leaves_nothing_new_and_what_was_there(tmp_path):
    (tmp_path / "s.tif").write_bytes(b"previous")

    def interrupted():
        with ScoreRasterWriter(tmp_path / "s.tif", grid_of(600, 600), tags={}) as writer:
            writer.write(Block(0, Window(0, 600, 0, 600)), random_scores(600, 600))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["s.tif"]
    assert (tmp_path / "s.tif").read_bytes() == b"previous"


def test_a_missing_folder_and_a_foreign_dtype_are_refused(tmp_path):
    with (
        pytest.raises(OutputError, match="folder does not exist"),
        ScoreRasterWriter(tmp_path / "no" / "s.tif", grid_of(1, 1), tags={}),
    ):
        pass
    with pytest.raises(OptionError, match="uint8 or float32"):
        ScoreRasterWriter(tmp_path / "s.tif", grid_of(1, 1), dtype="int8", tags={})


def test_a_name_that_cannot_be_taken_is_one_line(tmp_path):
    (tmp_path / "s.tif").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "s.tif", random_scores(10, 10))
    assert [p.name for p in tmp_path.iterdir()] == ["s.tif"]


def test_scores_must_fill_their_window(tmp_path):
    with (
        pytest.raises(ValueError, match="do not fill"),
        ScoreRasterWriter(tmp_path / "s.tif", grid_of(10, 10), tags={}) as writer,
    ):
        writer.write(Block(0, Window(0, 5, 0, 5)), np.zeros((5, 4), np.float32))


FULL_DISK = """
import resource, signal, sys
import numpy as np
from affine import Affine
from rasterio.crs import CRS
from geosiam.scores.writer import ScoreRasterWriter
from geosiam.errors import OutputError
from geosiam.imagery.grid import Block, Grid, Window

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
scores = np.random.default_rng(0).random((700, 700)).astype(np.float32)
grid = Grid(CRS.from_epsg(32633), Affine(4, 0, 500_000, 0, -4, 5_800_000), 700, 700)
for room in (200, 2_000, 200_000, 505_000, 560_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        with ScoreRasterWriter(sys.argv[1], grid, tags={}) as writer:
            writer.write(Block(0, Window(0, 700, 0, 700)), scores)
    except OutputError as error:
        print(str(error).startswith(f"{sys.argv[1]}: cannot be written ("))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """Files may only grow so large in another process; the raster and its overviews need about 630 kB."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "s.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 5
    assert not list(tmp_path.iterdir())


def plain(path, array, **options):
    profile = {"driver": "GTiff", "crs": UTM, "transform": TRANSFORM} | options
    count, rows, cols = array.shape
    with rasterio.open(path, "w", count=count, height=rows, width=cols, dtype=array.dtype, **profile) as dst:
        dst.write(array)
    return path


def test_any_one_band_raster_of_probabilities_will_do(tmp_path):
    values = np.array([[[0, 0.25], [-9999, 1]]], np.float64)
    back = read(plain(tmp_path / "f.tif", values, nodata=-9999))
    assert np.array_equal(back, np.array([[0, 0.25], [np.nan, 1]], np.float32), equal_nan=True)
    mask = read(plain(tmp_path / "m.tif", np.array([[[0, 1]]], np.uint8)))
    assert mask.tolist() == [[0, 1]]
    assert ScoreRaster.open(tmp_path / "m.tif").stride == 1


def test_what_is_no_score_raster_is_refused(tmp_path):
    with pytest.raises(SceneRefusedError, match="has 3 bands"):
        ScoreRaster.open(plain(tmp_path / "rgb.tif", np.zeros((3, 4, 4), np.uint8)))
    with pytest.raises(SceneRefusedError, match="complex64"):
        ScoreRaster.open(plain(tmp_path / "c.tif", np.zeros((1, 4, 4), np.complex64)))
    with pytest.raises(SceneRefusedError, match="no coordinate reference system"):
        ScoreRaster.open(plain(tmp_path / "nocrs.tif", np.zeros((1, 4, 4), np.uint8), crs=None))
    with pytest.raises(SceneRefusedError, match="values from 0 to 37"):
        read(plain(tmp_path / "gray.tif", np.array([[[0, 37]]], np.uint8)))
    with pytest.raises(SceneNotFoundError, match="does not exist"):
        ScoreRaster.open(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(SceneUnreadableError, match="GDAL"):
        ScoreRaster.open(tmp_path / "text.tif")


def test_a_truncated_raster_is_reported_while_reading(tmp_path):
    write(tmp_path / "s.tif", random_scores(1500, 1500))
    whole = (tmp_path / "s.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneUnreadableError, match="cannot be read at row"):
        read(tmp_path / "cut.tif")


def test_a_stride_that_is_no_number_is_refused(tmp_path):
    write(tmp_path / "s.tif", random_scores(5, 5), tags={STRIDE_TAG: "eight"})
    with pytest.raises(SceneRefusedError, match="'eight'"):
        _ = ScoreRaster.open(tmp_path / "s.tif").stride
