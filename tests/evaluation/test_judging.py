"""Scores and polygons against the truth, through files as a user has them."""

import json
import warnings

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from rasterio.features import rasterize
from scipy import ndimage
from sklearn import metrics as reference

from geosiam.errors import InputError, OptionError, SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.evaluation.agreement import _STRIP_CELLS
from geosiam.evaluation.api import Task, evaluate, named, read_manifest, save_report
from geosiam.evaluation.metrics import object_scores_raster
from geosiam.options import DetectOptions
from geosiam.scores.working_file import SCORE_NODATA

CRS_ = CRS.from_epsg(32633)
PIXEL = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
STRIDE = 8
RNG = np.random.default_rng(7)


def box(row, col, rows, cols):
    x, y = PIXEL @ (col, row)
    return shapely.box(x, y - rows * 0.5, x + cols * 0.5, y)


OBJECTS = [box(20, 16, 20, 24), box(77, 33, 9, 6), box(150, 120, 32, 40), box(100, 8, 10, 10)]


def write(path, array, *, transform=PIXEL, crs=CRS_, **more):
    profile = {"driver": "GTiff", "count": 1, "dtype": array.dtype, "height": array.shape[0], "width": array.shape[1]}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile, **more) as file:
        file.write(array, 1)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A score raster of a scene of 203 x 181 px with nodata and ties, its truth, and both as arrays."""
    folder = tmp_path_factory.mktemp("judged")
    rows, cols = 203, 181
    mask = rasterize(OBJECTS, out_shape=(rows, cols), transform=PIXEL).astype(bool)
    cells = (
        np.pad(mask, ((0, -rows % STRIDE), (0, -cols % STRIDE)))
        .reshape(-(-rows // 8), 8, -(-cols // 8), 8)
        .mean((1, 3))
    )
    stored = np.rint(254 * (0.6 * cells + 0.4 * RNG.random(cells.shape))).astype(np.uint8)
    stored[12:14] = SCORE_NODATA  # rows 96-111: the last object is not looked at
    path = folder / "scores.tif"
    write(path, stored, transform=PIXEL @ Affine.scale(STRIDE), nodata=SCORE_NODATA)
    with rasterio.open(path, "r+") as file:
        file.scales = (1 / 254,)
        file.update_tags(GEOSIAM_STRIDE="8", GEOSIAM_SCENE_PX=f"{rows} {cols}", GEOSIAM_THRESHOLD="0.6")
    truth = folder / "truth.gpkg"
    geopandas.GeoDataFrame(geometry=OBJECTS, crs=CRS_).to_file(truth)
    scores = np.where(stored == SCORE_NODATA, np.nan, stored / 254)
    return folder, str(path), str(truth), mask, np.kron(scores, np.ones((8, 8)))[:rows, :cols]


def one(*args, **options):
    (made,) = evaluate(Task(*args[1:], prediction=args[0]), options=DetectOptions(**options))
    return made.agreement.figures()


def test_figures_of_a_raster_are_those_of_scikit_learn_by_pixel(files):
    _, scores, truth, mask, pixels = files
    figures = one(scores, truth)
    known = ~np.isnan(pixels)
    y, s = mask[known], pixels[known]
    assert figures["pixels"] == known.sum()
    assert figures["threshold"] == 0.6
    assert figures["auroc"] == pytest.approx(reference.roc_auc_score(y, s))
    assert figures["average_precision"] == pytest.approx(reference.average_precision_score(y, s))
    assert figures["f1"] == pytest.approx(reference.f1_score(y, s >= 0.6))
    assert figures["iou"] == pytest.approx(reference.jaccard_score(y, s >= 0.6))
    assert (figures["objects_true"], figures["objects_unseen"]) == (3, 1)
    found, true = (ndimage.label(array, np.ones((3, 3)))[0] for array in (pixels >= 0.6, mask & known))
    objects = object_scores_raster(found, true)
    assert (figures["object_recall"], figures["object_precision"]) == (objects.recall, objects.precision)
    assert figures["objects_reported"] == objects.predicted
    higher = one(scores, truth, threshold=0.99)
    assert higher["objects_reported"] < figures["objects_reported"]


def test_the_truth_may_be_a_raster_of_another_grid_or_polygons_of_another_crs(files, tmp_path):
    folder, scores, truth, mask, _ = files
    expected = one(scores, truth)
    geographic = tmp_path / "truth.geojson"
    geopandas.read_file(truth).to_crs(4326).to_file(geographic)
    raster = write(tmp_path / "truth.tif", mask.astype(np.uint8) * 255)
    fine = write(
        tmp_path / "fine.tif",
        np.kron(mask, np.ones((2, 2), bool)).astype(np.int16),
        transform=PIXEL @ Affine.scale(0.5),
    )
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "truth.png")
    for path in (geographic, raster, fine, tmp_path / "truth.png"):
        figures = one(scores, str(path))
        assert figures["auroc"] == pytest.approx(expected["auroc"], abs=2e-3)
        assert figures["objects_true"] == 3
        assert figures["object_recall"] == expected["object_recall"]
    assert one(scores, raster) == pytest.approx(expected, nan_ok=True)
    assert folder


def test_where_the_truth_is_unknown_nothing_counts(files, tmp_path):
    _, scores, _, mask, pixels = files
    unknown = mask.astype(np.uint8)
    unknown[140:] = 99  # one object and much else
    figures = one(scores, write(tmp_path / "truth.tif", unknown, nodata=99))
    known = ~np.isnan(pixels)
    known[140:] = False
    assert figures["pixels"] == known.sum()
    assert figures["auroc"] == pytest.approx(reference.roc_auc_score(mask[known], pixels[known]))
    assert figures["objects_true"] == 2
    smaller = write(tmp_path / "smaller.tif", mask[:140].astype(np.uint8))
    assert one(scores, smaller)["pixels"] == known.sum()


def test_scenes_of_several_strips_are_the_same(tmp_path):
    rows = STRIDE * _STRIP_CELLS * 2 + 100
    tall = RNG.random((rows // 4, 20)).astype(np.float32)
    scores = write(tmp_path / "scores.tif", tall, transform=PIXEL @ Affine.scale(4), nodata=np.nan)
    with rasterio.open(scores, "r+") as file:
        file.update_tags(GEOSIAM_STRIDE="4", GEOSIAM_SCENE_PX=f"{rows} 80")
    objects = [box(int(row), 5, 90, 30) for row in range(10, rows - 120, 130)]
    geopandas.GeoDataFrame(geometry=objects, crs=CRS_).to_file(tmp_path / "truth.fgb")
    figures = one(scores, str(tmp_path / "truth.fgb"))
    mask = rasterize(objects, out_shape=(rows, 80), transform=PIXEL).astype(bool)
    upsampled = np.kron(tall, np.ones((4, 4), np.float32))
    assert figures["auroc"] == pytest.approx(reference.roc_auc_score(mask.ravel(), upsampled.ravel()), abs=1e-4)
    assert figures["objects_true"] == len(objects)
    assert figures["objects_unseen"] == 0


def test_polygons_are_judged_by_object_and_area(files, tmp_path):
    _, _, truth, mask, _ = files
    predicted = [box(20, 16, 20, 12), box(76, 33, 10, 6), box(180, 10, 5, 5)]
    path = tmp_path / "found.gpkg"
    geopandas.GeoDataFrame(geometry=predicted, crs=CRS_).to_crs(4326).to_file(path, layer="anomalies")
    raster = write(tmp_path / "truth.tif", mask.astype(np.uint8))
    common, found, true = 20 * 12 + 54, 20 * 12 + 60 + 25, sum(o.area * 4 for o in OBJECTS)
    for against in (truth, raster):
        figures = one(str(path), against)
        assert figures["iou"] == pytest.approx(common / (found + true - common), rel=1e-3)
        assert figures["f1"] == pytest.approx(2 * common / (found + true), rel=1e-3)
        assert (figures["object_recall"], figures["object_precision"]) == (0.5, pytest.approx(2 / 3))
        assert figures["object_recall_iou50"] == 0.25
        assert np.isnan([figures["auroc"], figures["calibration_error"], figures["pixels"]]).all()


def test_several_pairs_are_summed_and_reported(files, tmp_path):
    folder, scores, truth, mask, pixels = files
    nothing = tmp_path / "nothing.geojson"
    geopandas.GeoDataFrame({"a": []}, geometry=[], crs=4326).to_file(nothing)
    manifest = tmp_path / "pairs.csv"
    manifest.write_text(f"prediction,truth\n{scores},{truth}\n{scores},{nothing.name}\n", encoding="utf-8")
    told = []
    made = evaluate(read_manifest(manifest), on_progress=lambda *args: told.append(args))
    assert [(one.method, one.pair) for one in made] == [("prediction", "scores")] * 2 + [("prediction", "all")]
    assert [args[:2] for args in told] == [(0, 2), (1, 2)]
    known = ~np.isnan(pixels)
    y, s = np.tile(mask[known], 2), np.tile(pixels[known], 2)
    y[known.sum() :] = False
    all_ = made[-1].agreement.figures()
    assert all_["auroc"] == pytest.approx(reference.roc_auc_score(y, s))
    assert all_["f1"] == pytest.approx(reference.f1_score(y, s >= 0.6))
    written = save_report(tmp_path / "report", made)
    assert {path.name for path in written} == {"evaluation.md", "evaluation.json", "curves.png"}
    assert not list((tmp_path / "report").glob(".*"))
    assert json.loads(written[1].read_text())[0]["auroc"] == pytest.approx(all_["auroc"])
    assert named(made)[0][1] == "all"
    assert "| AUROC |" in written[0].read_text()
    assert folder


def test_models_and_baselines_judge_a_pair_of_scenes(tmp_path):
    before = RNG.integers(80, 170, (3, 96, 120)).astype(np.uint8)
    after = before.copy()
    after[:, 40:64, 40:72] = np.array([[[250]], [[30]], [[200]]], np.uint8)
    for name, image in (("before.tif", before), ("after.tif", after)):
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 96, "width": 120, "photometric": "rgb"}
        with rasterio.open(tmp_path / name, "w", crs=CRS_, transform=PIXEL, **profile) as file:
            file.write(image)
    geopandas.GeoDataFrame(geometry=[box(40, 40, 24, 32)], crs=CRS_).to_file(tmp_path / "truth.gpkg")
    scenes = [str(tmp_path / name) for name in ("truth.gpkg", "before.tif", "after.tif")]
    task = Task(scenes[0], before=scenes[1], after=scenes[2])
    model, cva = evaluate(task, models=["survey"], baselines=["cva"], out=tmp_path / "out")
    assert (model.method, cva.method) == ("survey", "cva")
    assert model.agreement.figures()["auroc"] > 0.95
    assert cva.agreement.figures()["auroc"] > 0.95
    assert cva.agreement.figures()["object_recall"] == 1
    assert np.isnan(cva.agreement.figures()["calibration_error"])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"after-survey.gpkg", "after-survey.tif"}
    assert [one.method for one in evaluate(task)] == ["survey"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("a,b\n1,2\n", SceneRefusedError, "has the columns a, b"),
        ("truth,prediction\n", SceneRefusedError, "lists no pair"),
        ("truth,prediction\nx.gpkg,\n", SceneRefusedError, "line 2"),
        ("truth,before,after\n,b.tif,a.tif\n", SceneRefusedError, "line 2"),
        ("", SceneRefusedError, "has the columns none"),
        (None, SceneNotFoundError, "does not exist"),
        (b"\xff\xfe\x00", SceneUnreadableError, "no readable text"),
    ],
)
def test_manifests_that_make_no_sense_are_refused(text, error, said, tmp_path):
    path = tmp_path / "pairs.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=said):
        read_manifest(path)


def test_truth_that_makes_no_sense_is_refused(files, tmp_path):
    _, scores, truth, mask, _ = files
    points = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=CRS_).to_file(points)
    homeless = tmp_path / "homeless.shp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        geopandas.GeoDataFrame(geometry=OBJECTS).to_file(homeless)
    (tmp_path / "broken.gpkg").write_text("no")
    (tmp_path / "broken.tif").write_text("no")
    table = tmp_path / "table.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(table) if _has_pyarrow() else table.write_text("no")
    Image.fromarray(mask[:20, :20].astype(np.uint8)).save(tmp_path / "size.png")
    bands = tmp_path / "bands.tif"
    with rasterio.open(
        bands, "w", driver="GTiff", count=5, dtype="uint8", height=20, width=20, crs=CRS_, transform=PIXEL
    ) as file:
        file.write(np.zeros((5, 20, 20), np.uint8))
    for path, said in (
        (points, "type Point"), (homeless, "no coordinate"), (tmp_path / "broken.gpkg", "no readable"),
        (tmp_path / "broken.tif", "GDAL"), (tmp_path / "gone.gpkg", "not exist"), (tmp_path / "gone.tif", "not exist"),
        (tmp_path / "size.png", "size"), (bands, "5 bands"), (table, "no readable"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            one(scores, str(path))
    with pytest.raises(InputError, match="no coordinate"):
        one(truth, str(tmp_path / "size.png"))
    with pytest.raises(OptionError, match="two scenes"):
        Task("truth.gpkg", before="a.tif")
    with pytest.raises(OptionError, match="is not known"):
        evaluate(Task(truth, before="a.tif", after="b.tif"), baselines=["magic"])


def _has_pyarrow():
    import importlib.util

    return importlib.util.find_spec("pyarrow") is not None
