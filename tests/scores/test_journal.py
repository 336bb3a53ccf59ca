"""The journal of a run."""

import json
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.env import get_gdal_config

from geosiam.errors import OutputError
from geosiam.imagery.grid import Grid, Lattice
from geosiam.scores import writer as writer_module
from geosiam.scores.raster import ScoreRaster
from geosiam.scores.working_file import SCORE_NODATA, Journal, WorkingRaster
from geosiam.scores.writer import ScoreRasterWriter

GRID = Grid(CRS.from_epsg(32633), Affine(4, 0, 500_000, 0, -4, 5_800_000), 70, 50)
LATTICE = Lattice(50, 70, 16, 16)
SCORES = np.random.default_rng(0).random((50, 70)).astype(np.float32)


@given(st.lists(st.booleans(), min_size=1), st.dictionaries(st.text(), st.text()))
def test_what_is_saved_is_what_is_loaded(done, identity):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j.json")
        Journal(path, identity, np.array(done)).save()
        back = Journal.load(path)
        assert list(Path(folder).iterdir()) == [path]
    assert back.identity == identity
    assert back.finished.tolist() == done


def test_what_differs_is_named(tmp_path):
    journal = Journal(tmp_path / "j", {"model": "1", "scene": "2"}, np.zeros(1, bool))
    assert journal.differing({"model": "1", "scene": "2"}) == []
    assert journal.differing({"model": "7", "scene": "2", "more": "3"}) == ["model", "more"]


DAMAGED = [
    {"blocks": 10**30}, {"blocks": 10**12}, {"blocks": -3}, {"blocks": "4"}, {"done": "/wA="},
    {"identity": {"model": 1}}, {"identity": ["ab"]},
]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"geosiam_journal": 99}', '{"geosiam_journal": 1, "blocks": 4}', "[" * 9999,
        *(json.dumps({"geosiam_journal": 1, "identity": {}, "blocks": 4, "done": "8A=="} | part) for part in DAMAGED),
    ],
)  # fmt: skip
def test_what_is_no_journal_is_told_apart_from_none(tmp_path, text):
    assert Journal.load(tmp_path / "j") is None
    (tmp_path / "j").write_text(text)
    with pytest.raises(ValueError, match="not a journal"):
        Journal.load(tmp_path / "j")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(50, 70), (1, 1), (513, 3), (1025, 600)])
def test_the_working_raster_is_a_geotiff_at_any_moment(tmp_path, dtype, shape):
    import rasterio

    grid = Grid(GRID.crs, GRID.transform, shape[1], shape[0])
    lattice = Lattice(*shape, 100, 100)
    scores = np.random.default_rng(0).random(shape).astype(np.float32)
    raster = WorkingRaster.create(tmp_path / "w.tif", grid, dtype)
    size = raster.path.stat().st_size
    expected = np.full(shape, SCORE_NODATA if dtype == "uint8" else np.nan, dtype)
    for block in reversed(list(lattice)):
        raster.write(block.cells, scores[block.cells.slices])
        stored = scores[block.cells.slices]
        expected[block.cells.slices] = np.rint(stored * 254) if dtype == "uint8" else stored
        with rasterio.open(raster.path) as dataset:
            np.testing.assert_array_equal(dataset.read(1), expected)
    raster.close()
    assert raster.path.stat().st_size == size
    WorkingRaster(raster.path, grid, dtype).close()
    with raster.path.open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(OSError, match="not complete"):
        WorkingRaster(raster.path, grid, dtype)


def write_some(folder, blocks, *, fail=True, **options):
    with ScoreRasterWriter(folder / "s.tif", GRID, tags={}, lattice=LATTICE, **options) as writer:
        before = writer.finished
        for block in LATTICE:
            if block.index in blocks:
                writer.write(block, SCORES[block.cells.slices])
        if fail:
            raise KeyboardInterrupt
    return before


def test_blocks_are_remembered_in_any_order_until_all_are_there(tmp_path):
    for blocks in ([7, 3], [19, 0], []):
        with pytest.raises(KeyboardInterrupt):
            write_some(tmp_path, blocks)
    before = write_some(tmp_path, set(range(20)) - {7, 3, 19, 0}, fail=False)
    assert np.flatnonzero(before).tolist() == [0, 3, 7, 19]
    one = (tmp_path / "s.tif").read_bytes()
    (tmp_path / "s.tif").unlink()
    write_some(tmp_path, set(range(20)), fail=False)
    assert (tmp_path / "s.tif").read_bytes() == one


def test_nothing_is_kept_of_a_run_without_a_finished_block(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_some(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_scores_are_on_the_disk_before_the_journal_says_so(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(writer_module, "FLUSH_SECONDS", 0)
    monkeypatch.setattr(WorkingRaster, "sync", lambda _self: calls.append("sync"))
    monkeypatch.setattr(Journal, "save", lambda self: calls.append(int(self.finished.sum())))
    write_some(tmp_path, [0, 1], fail=False)
    assert calls == ["sync", 0, "sync", 1, "sync", 2, "sync", 2]


def test_flushing_is_rare(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Journal, "save", lambda self: saved.append(int(self.finished.sum())))
    write_some(tmp_path, set(range(20)), fail=False)
    assert saved == [0, 20]


def test_what_cannot_be_continued_is_refused_in_one_line(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_some(tmp_path, [1], identity={"model": "a"})
    with pytest.raises(OutputError, match="started with another model; start from scratch with `restart=True`"):
        write_some(tmp_path, [1], identity={"model": "b"})
    with pytest.raises(OutputError, match="started by another version of geosiam; start from scratch"):
        write_some(tmp_path, [1], identity={"weights": "a"})  # as that version called the model
    with pytest.raises(OutputError, match="started with another grid or type of the scores"):
        write_some(tmp_path, [1], identity={"model": "a"}, dtype="float32")
    journal = tmp_path / ".s.tif.partial.json"
    (tmp_path / ".s.tif.partial.tif").unlink()
    with pytest.raises(OutputError, match="cannot be resumed"):
        write_some(tmp_path, [1], identity={"model": "a"})
    journal.write_text(json.dumps({"geosiam_journal": 0}))
    with pytest.raises(OutputError, match="started by another version"):
        write_some(tmp_path, [1], identity={"model": "a"})
    Journal(journal, {"model": "a"}, np.zeros(3, bool)).save()
    with pytest.raises(OutputError, match="has a damaged journal; start from scratch"):
        write_some(tmp_path, [1], identity={"model": "a"})
    assert [path.name for path in tmp_path.iterdir()] == [journal.name]
    write_some(tmp_path, set(range(20)), identity={"model": "b"}, restart=True, fail=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.qml", "s.tif"]


def test_scores_can_be_read_while_the_raster_is_completed(tmp_path, monkeypatch):
    """The thread waits until the scores have been read; gdal's settings are the caller's again in the end."""
    was_read, to_cog = threading.Event(), ScoreRasterWriter._to_cog
    monkeypatch.setattr(ScoreRasterWriter, "_to_cog", lambda *args: was_read.wait(20) and to_cog(*args))
    cache = get_gdal_config("GDAL_CACHEMAX")
    with ScoreRasterWriter(tmp_path / "s.tif", GRID, tags={}) as writer:
        writer.write(Lattice(50, 70, 50, 70)[0], SCORES)
        pending = writer.finish({"GEOSIAM_MODEL": "m"})
        raster = ScoreRaster.open(pending.path)
        (_, before), *_ = raster.strips()
        assert raster.tags["GEOSIAM_MODEL"] == "m"
        assert not (tmp_path / "s.tif").exists()
        was_read.set()
        pending.wait()
        (_, after), *_ = ScoreRaster.open(tmp_path / "s.tif").strips()
        np.testing.assert_array_equal(before, after)
    assert get_gdal_config("GDAL_CACHEMAX") == cache
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.qml", "s.tif"]


def test_what_gdal_cannot_copy_is_one_line_for_who_waits_and_for_who_leaves(tmp_path, monkeypatch):
    def remove_first(writer, described, target, to_cog=ScoreRasterWriter._to_cog):
        described.unlink()
        to_cog(writer, described, target)

    monkeypatch.setattr(ScoreRasterWriter, "_to_cog", remove_first)
    with (
        pytest.raises(OutputError, match=r"s\.tif: cannot be written \(.*No such file"),
        ScoreRasterWriter(tmp_path / "s.tif", GRID, tags={}) as writer,
    ):
        assert isinstance(writer.finish().completed.exception(20), OutputError)
    assert not list(tmp_path.iterdir())
