"""The main job on generated pairs, against the truth and against independent readers."""

import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray
from rasterio.enums import MaskFlags
from rasterio.warp import Resampling, calculate_default_transform, reproject

import geosiam
from geosiam.errors import InputError, OptionError, OutputError, SceneNotFoundError, SceneRefusedError
from geosiam.evaluation.metrics import object_scores
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair import ScenePair
from geosiam.imagery.prepare import open_pair
from geosiam.inspection import inspect_pair
from geosiam.network import DEFAULT_MODEL
from geosiam.network.weights import load_model
from geosiam.options import DetectOptions, PolygonOptions
from geosiam.pipeline import detect, vectorize_to_file
from geosiam.scores.working_file import decode
from geosiam.scoring import score, score_to_file
from geosiam.synthesis.pairs import SyntheticConfig, SyntheticPaths, write_pair_tiles

STRIDE = load_model().card.stride
CONFIG = SyntheticConfig(height=531, width=618, seed=3, objects=12)  # no multiples of the stride


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    return write_pair_tiles(CONFIG, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def found(scenes: SyntheticPaths) -> Path:
    folder = scenes.before.parent / "found"
    folder.mkdir()
    detect(scenes.before, scenes.after, folder / "a.gpkg")
    return folder


def test_polygons_lie_on_what_changed(scenes: SyntheticPaths, found: Path) -> None:
    polygons = geopandas.read_file(found / "a.gpkg", layer="anomalies")
    truth = geopandas.read_file(scenes.truth)
    assert polygons.crs == truth.crs
    objects = object_scores(polygons, truth)
    assert objects.recall >= 0.75
    assert objects.precision >= 0.75


def test_scores_as_they_are_tell_the_strongest_apart(scenes: SyntheticPaths, found: Path, tmp_path: Path) -> None:
    made = detect(scenes.before, scenes.after, tmp_path / "a.gpkg", options=DetectOptions(score_type="float32"))
    with rasterio.open(made.scores_path) as raster:
        assert (raster.dtypes, raster.scales) == (("float32",), (1.0,))
        assert np.isnan(raster.nodata)
        assert raster.overviews(1) or raster.width <= 512
        exact = raster.read(1)
    with rasterio.open(found / "a.tif") as raster:
        stored = raster.read(1)
    known = stored != 255
    np.testing.assert_array_equal(np.isnan(exact), ~known)
    np.testing.assert_array_equal(stored[known], np.rint(exact[known] * 254))
    highest = exact[stored == 254]
    assert len(np.unique(highest)) > 50  # of bf16, which rounds log-odds to 8 bits
    fine = geopandas.read_file(made.polygons_path, layer="anomalies")
    coarse = geopandas.read_file(found / "a.gpkg", layer="anomalies")
    assert len(fine) == len(coarse)
    assert fine.union_all().symmetric_difference(coarse.union_all()).area < 0.02 * coarse.union_all().area
    assert fine.score_max.nunique() > coarse.score_max.nunique()
    again = vectorize_to_file(made.scores_path, tmp_path / "again.gpkg")
    assert again.count == made.count
    with pytest.raises(OptionError, match="use uint8 or float32"):
        DetectOptions(score_type="uint16")


def test_polygons_end_where_the_scene_ends(scenes: SyntheticPaths, found: Path) -> None:
    everywhere = vectorize_to_file(found / "a.tif", found / "all.gpkg", options=PolygonOptions(threshold=0.004))
    with rasterio.open(scenes.before) as before:
        bounds = before.bounds
    for path in (found / "a.gpkg", everywhere.polygons_path):
        polygons = geopandas.read_file(path, layer="anomalies")
        left, bottom, right, top = polygons.total_bounds
        assert left >= bounds.left - 1e-6
        assert right <= bounds.right + 1e-6
        assert bottom >= bounds.bottom - 1e-6
        assert top <= bounds.top + 1e-6
        assert polygons.is_valid.all()
        np.testing.assert_allclose(polygons.area_m2, polygons.area, rtol=1e-6)
    assert (right, bottom) == pytest.approx((bounds.right, bounds.bottom))


def test_score_raster_is_a_cog_aligned_to_the_before_scene(scenes: SyntheticPaths, found: Path) -> None:
    with rasterio.open(scenes.before) as before, rasterio.open(found / "a.tif") as scores:
        assert scores.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert scores.crs == before.crs
        assert (scores.height, scores.width) == (-(-531 // STRIDE), -(-618 // STRIDE))
        assert scores.transform == before.transform @ before.transform.scale(STRIDE)
        assert (scores.dtypes, scores.nodata, scores.scales) == (("uint8",), 255, (1 / 254,))
        assert MaskFlags.nodata in scores.mask_flag_enums[0]
        provenance = json.loads(scores.tags()["GEOSIAM_PROVENANCE"])
    assert provenance["model"]["name"] == DEFAULT_MODEL
    assert provenance["computed"]["device"] in {"cpu", "cuda"}
    assert provenance["computed"]["precision"] in {"fp32", "bf16", "int8"}
    assert provenance["unreadable"] == []
    assert provenance["pair"]["before"]["name"] == str(scenes.before)


def test_lazy_scores_are_what_the_raster_holds(scenes: SyntheticPaths, found: Path) -> None:
    lazy = score(scenes.before, scenes.after)
    assert isinstance(lazy, xarray.DataArray)
    assert lazy.dtype == np.float32
    assert hasattr(lazy.data, "dask")
    with rasterio.open(found / "a.tif") as raster:
        stored = decode(raster.read(1))
        assert lazy.rio.transform().almost_equals(raster.transform)
        assert lazy.rio.crs == raster.crs
        x, y = raster.xy(5, 7)
    np.testing.assert_allclose(lazy.to_numpy(), stored, atol=0.5 / 254 + 1e-6)
    assert (float(lazy.x[7]), float(lazy.y[5])) == pytest.approx((x, y))
    np.testing.assert_array_equal(lazy.sel(x=x, y=y, method="nearest").compute(), lazy[5, 7].compute())


def test_one_and_two_threads_give_the_same_files(scenes: SyntheticPaths, found: Path, tmp_path: Path) -> None:
    detect(scenes.before, scenes.after, tmp_path / "one.gpkg", options=DetectOptions(workers=1))
    with rasterio.open(tmp_path / "one.tif") as one, rasterio.open(found / "a.tif") as two:
        np.testing.assert_array_equal(one.read(), two.read())
    first, second = (geopandas.read_file(path, layer="anomalies") for path in (tmp_path / "one.gpkg", found / "a.gpkg"))
    assert first.drop(columns="created").equals(second.drop(columns="created"))


def test_vectorising_again_gives_the_same_polygons(found: Path, tmp_path: Path) -> None:
    again = vectorize_to_file(found / "a.tif", tmp_path / "again.gpkg")
    first, second = (geopandas.read_file(p, layer="anomalies") for p in (found / "a.gpkg", again.polygons_path))
    evidence = ["shift_fraction", "shadow_fraction", "hint"]  # these take the scenes
    assert second[evidence].isna().all(axis=None)
    seen = [*evidence, "shift_px"]
    assert first.drop(columns=seen).equals(second.drop(columns=seen))
    assert again.threshold == geosiam.load_model().card.threshold
    fewer = vectorize_to_file(
        found / "a.tif", tmp_path / "fewer.geojson", options=PolygonOptions(threshold=0.9, min_area="200px")
    )
    assert 0 < fewer.count < again.count


def test_each_polygon_has_the_shift_that_is_left_in_its_place(
    scenes: SyntheticPaths, found: Path, tmp_path: Path
) -> None:
    polygons = geopandas.read_file(found / "a.gpkg", layer="anomalies")
    with open_pair(scenes.before, scenes.after) as pair:
        field, of_pair = pair.displacement, pair.report.shift_px
        assert field is not None
        expected = []  # the median of all nodes in and around each polygon
        for left, bottom, right, top in polygons.bounds.to_numpy():
            cols, rows = ~pair.grid.transform @ (np.array([left, right]), np.array([top, bottom]))
            nodes = [
                slice(max(int(start // field.spacing) - 1 - first, 0), int(stop // field.spacing) + 2 - first)
                for (start, stop), first in zip((rows, cols), field.first, strict=True)
            ]
            remaining = field.remaining[tuple(nodes)]
            expected.append(np.nanmedian(remaining) if np.isfinite(remaining).any() else np.nan)
    known = np.isfinite(expected)
    assert known.sum() > 5
    assert polygons.shift_px[known].notna().all()
    assert np.abs(polygons.shift_px[known] - np.array(expected)[known]).median() < 0.1
    assert polygons.shift_px.nunique() > 1

    cut = vectorize_to_file(found / "a.tif", tmp_path / "again.gpkg")  # from the scores alone
    assert (geopandas.read_file(cut.polygons_path, layer="anomalies").shift_px == of_pair).all()
    plain = DetectOptions(register="none")
    there = detect(scenes.before, scenes.after, tmp_path / "plain.gpkg", options=plain)
    with open_pair(scenes.before, scenes.after, options=plain) as pair:
        of_pair = pair.report.shift_px
    assert (geopandas.read_file(there.polygons_path, layer="anomalies").shift_px == of_pair).all()


def test_a_raster_that_records_no_threshold_needs_one(found: Path, tmp_path: Path) -> None:
    with rasterio.open(found / "a.tif") as source:
        profile, values = source.profile, source.read()
    plain = tmp_path / "plain.tif"
    with rasterio.open(plain, "w", **{**profile, "driver": "GTiff"}) as target:
        target.write(values)
        target.scales = (1 / 254,)
    with pytest.raises(OptionError, match=r"set one, such as `threshold=0\.5`"):
        vectorize_to_file(plain, tmp_path / "x.gpkg")
    assert vectorize_to_file(plain, tmp_path / "x.gpkg", options=PolygonOptions(threshold=0.5)).count > 0


def test_another_crs_and_resolution_still_find_the_changes(scenes: SyntheticPaths, tmp_path: Path) -> None:
    warped = tmp_path / "after.tif"
    with rasterio.open(scenes.after) as source:
        transform, width, height = calculate_default_transform(
            source.crs, "EPSG:4326", source.width, source.height, *source.bounds
        )
        profile = source.profile | {"crs": "EPSG:4326", "transform": transform, "width": width, "height": height}
        with rasterio.open(warped, "w", **(profile | {"nodata": 0})) as target:
            for band in (1, 2, 3):
                reproject(rasterio.band(source, band), rasterio.band(target, band), resampling=Resampling.bilinear)
    detect(scenes.before, warped, tmp_path / "w.gpkg")
    objects = object_scores(
        geopandas.read_file(tmp_path / "w.gpkg", layer="anomalies"), geopandas.read_file(scenes.truth)
    )
    assert objects.recall >= 0.65
    assert objects.precision >= 0.6


def test_arrays_and_open_datasets_are_scenes_too(scenes: SyntheticPaths) -> None:
    expected = score(scenes.before, scenes.after).to_numpy()
    with rasterio.open(scenes.before) as before:
        np.testing.assert_array_equal(score(before, scenes.after).to_numpy(), expected)
    array = rioxarray.open_rasterio(scenes.after)
    assert isinstance(array, xarray.DataArray)
    np.testing.assert_array_equal(score(scenes.before, array).to_numpy(), expected)
    array.close()


def test_a_scene_against_itself_has_no_anomalies(scenes: SyntheticPaths, tmp_path: Path) -> None:
    assert detect(scenes.before, scenes.before, tmp_path / "none.gpkg").count == 0
    assert len(geopandas.read_file(tmp_path / "none.gpkg", layer="anomalies")) == 0


def test_the_order_of_the_scenes_may_matter_but_both_see_the_changes(scenes: SyntheticPaths) -> None:
    unmoved = DetectOptions(register=False)  # on one grid each cell has its like
    forth = score(scenes.before, scenes.after, options=unmoved).to_numpy()
    back = score(scenes.after, scenes.before, options=unmoved).to_numpy()
    assert np.corrcoef(forth.ravel(), back.ravel())[0, 1] > 0.8


def test_refusals_leave_earlier_outputs_alone(scenes: SyntheticPaths, tmp_path: Path) -> None:
    output = tmp_path / "kept.gpkg"
    output.write_text("earlier polygons")
    output.with_suffix(".tif").write_text("earlier scores")
    far = tmp_path / "far.tif"
    with rasterio.open(scenes.after) as source:
        profile = source.profile | {"transform": source.transform @ source.transform.translation(50_000, 0)}
        with rasterio.open(far, "w", **profile) as target:
            target.write(source.read())
    with pytest.raises(SceneNotFoundError):
        detect(scenes.before, tmp_path / "absent.tif", output)
    with pytest.raises(SceneRefusedError, match="does not overlap"):
        detect(scenes.before, far, output)
    with pytest.raises(InputError, match="use one of"):
        detect(scenes.before, scenes.after, tmp_path / "kept.doc")
    with pytest.raises(OutputError, match="folder does not exist"):
        detect(scenes.before, scenes.after, tmp_path / "absent" / "x.gpkg")
    with pytest.raises(OptionError):
        DetectOptions(threshold=0.0)
    assert output.read_text() == "earlier polygons"
    assert output.with_suffix(".tif").read_text() == "earlier scores"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.tif", "kept.gpkg", "kept.tif"]


def test_no_input_is_ever_overwritten(scenes: SyntheticPaths, tmp_path: Path) -> None:
    after = tmp_path / "after.tif"
    shutil.copy(scenes.after, after)
    content = after.read_bytes()
    with pytest.raises(OutputError, match="is an input too"):
        detect(scenes.before, after, tmp_path / "after.gpkg")  # its scores would be after.tif
    with pytest.raises(OutputError, match="is an input too"):
        score_to_file(str(scenes.before), str(after), after)
    assert after.read_bytes() == content


def test_an_inspection_says_what_would_be_done(scenes: SyntheticPaths) -> None:
    report = inspect_pair(scenes.before, scenes.after, options=DetectOptions(register=False)).to_dict()
    json.dumps(report, allow_nan=False)
    assert report["score_grid"] == {"rows": -(-531 // STRIDE), "cols": -(-618 // STRIDE)}
    assert report["alignment"] == "the grids are the same"
    assert report["estimated_seconds"] >= 0
    assert 300 < report["estimated_memory_mb"] < 3000
    assert list(report["warnings"]) == []
    assert report["shift_px"] == pytest.approx(np.hypot(*CONFIG.shift_px), abs=0.3)


def test_registration_corrects_the_shift(scenes: SyntheticPaths) -> None:
    with open_pair(scenes.before, scenes.after, options=PairOptions(register=True)) as pair:
        report = pair.report
        assert any(report.moved_px)
        assert report.shift_px is not None
        assert report.shift_px < 0.3
        assert report.shift is not None
        assert (report.shift["cols"], report.shift["rows"]) == pytest.approx(CONFIG.shift_px, abs=0.3)
        pair.read(Window(0, 64, 0, 64))


def test_public_names_are_there_and_unknown_ones_are_not() -> None:
    for name in geosiam.__all__:
        assert getattr(geosiam, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        geosiam.nonsense  # noqa: B018


@pytest.mark.data
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("naip/m_4709963_se_14_1_20090818.tif", "naip/m_4709963_se_14_1_20170827.tif"),
        ("landsat/1985.tif", "landsat/2015.tif"),
        ("joplin/pre/tile_337-9136.tif", "joplin/post/tile_31500-5137.tif"),
        ("planet_float32/A/t1_nov_1_1.tif", "planet_float32/B/t2_nov_1_1.tif"),
    ],
)
def test_real_pairs(data_dir: Path, tmp_path: Path, before: str, after: str) -> None:
    first, second = data_dir / "scenes" / before, data_dir / "scenes" / after
    done = detect(first, second, tmp_path / "x.gpkg")
    with rasterio.open(first) as scene, rasterio.open(done.scores_path) as scores:
        expected = scene.transform @ scene.transform.scale(STRIDE)
        corners = np.array([[0, 0], [scores.width, 0], [0, scores.height]], float)
        for corner in corners:
            there, here = np.array(scores.transform @ tuple(corner)), np.array(expected @ tuple(corner))
            assert np.abs((there - here) / scene.res).max() < 1e-6
        assert scores.crs == scene.crs
        assert scores.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    polygons = geopandas.read_file(done.polygons_path, layer="anomalies")
    assert len(polygons) == done.count > 0
    assert polygons.is_valid.all()
    with open_pair(first, second) as pair:
        grid, valid = pair.grid, pair.read(Window(0, *pair.grid.shape[:1], 0, pair.grid.width)).valid
    rows, cols = rasterio.transform.rowcol(
        grid.transform, *polygons.representative_point().get_coordinates().T.to_numpy()
    )
    assert valid[np.clip(rows, 0, grid.height - 1), np.clip(cols, 0, grid.width - 1)].mean() > 0.95


def test_pixels_are_decoded_for_the_scores_alone(
    scenes: SyntheticPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence for polygons is noted on the way."""

    def again(*_: object) -> None:
        pytest.fail("a block was read a second time")

    monkeypatch.setattr(ScenePair, "read", again)
    found = detect(scenes.before, scenes.after, tmp_path / "a.gpkg")
    assert found.count
    assert geopandas.read_file(found.polygons_path, layer="anomalies").shadow_fraction.notna().all()


def test_options_may_hold_numbers_of_numpy():
    options = DetectOptions(
        bands=np.array([1, 2, 3]), workers=np.int64(2), connectivity=np.int64(4), threshold=np.float32(0.5)
    )
    assert options == DetectOptions(bands=(1, 2, 3), workers=2, connectivity=4, threshold=0.5)
    assert json.loads(json.dumps(options.to_dict()))["bands"] == [1, 2, 3]
    assert type(PolygonOptions(connectivity=np.int64(4)).connectivity) is int


def test_polygons_and_scores_cannot_be_one_file(scenes, tmp_path):
    output = tmp_path / "a.gpkg"
    with pytest.raises(OutputError, match="cannot hold both the polygons and the scores"):
        detect(scenes.before, scenes.after, output, scores=tmp_path / "." / "a.gpkg")
    assert not list(tmp_path.iterdir())


def test_a_lazy_score_that_fails_closes_its_scorer(scenes, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr("geosiam.inference.scorer.Scorer.close", lambda _scorer: closed.append(True))
    with pytest.raises(SceneNotFoundError):
        score(scenes.before, tmp_path / "absent.tif")
    assert len(closed) == 1
    with score(scenes.before, scenes.after):
        assert len(closed) == 1
    assert len(closed) == 2
