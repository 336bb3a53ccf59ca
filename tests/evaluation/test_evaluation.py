"""Scores and polygons against ground truth, through files as a user has them."""

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

from geosiam.errors import InputError, OptionError, SceneNotFoundError, SceneRefusedError
from geosiam.evaluation.agreement import _STRIP_CELLS
from geosiam.evaluation.api import Task, evaluate, read_manifest, save_report, totals_first
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
    folder = tmp_path_factory.mktemp("evaluated")
    rows, cols = 203, 181
    mask = rasterize(OBJECTS, out_shape=(rows, cols), transform=PIXEL).astype(bool)
    cells = (
        np.pad(mask, ((0, -rows % STRIDE), (0, -cols % STRIDE)))
        .reshape(-(-rows // 8), 8, -(-cols // 8), 8)
        .mean((1, 3))
    )
    stored = np.rint(254 * (0.6 * cells + 0.4 * RNG.random(cells.shape))).astype(np.uint8)
    stored[12:14] = SCORE_NODATA  # rows 96-111: the last object is not scored
    path = folder / "scores.tif"
    write(path, stored, transform=PIXEL @ Affine.scale(STRIDE), nodata=SCORE_NODATA)
    with rasterio.open(path, "r+") as file:
        file.scales = (1 / 254,)
        file.update_tags(GEOSIAM_STRIDE="8", GEOSIAM_SCENE_PX=f"{rows} {cols}", GEOSIAM_THRESHOLD="0.6")
    truth = folder / "truth.gpkg"
    geopandas.GeoDataFrame(geometry=OBJECTS, crs=CRS_).to_file(truth)
    scores = np.where(stored == SCORE_NODATA, np.nan, stored / 254)
    return folder, str(path), str(truth), mask, np.kron(scores, np.ones((8, 8)))[:rows, :cols]


def metrics_of(prediction, truth, **options):
    (evaluation,) = evaluate(Task(truth, prediction=prediction), options=DetectOptions(**options))
    return evaluation.agreement.metrics()


def overlapping_share(labels, others):
    """Return the fraction of labels that share a pixel with others."""
    return len(set(labels[others > 0].tolist()) - {0}) / labels.max()


def test_metrics_of_a_raster_are_those_of_scikit_learn_by_pixel(files):
    _, scores, truth, mask, pixels = files
    metrics = metrics_of(scores, truth)
    known = ~np.isnan(pixels)
    y, s = mask[known], pixels[known]
    assert metrics["pixels"] == known.sum()
    assert metrics["threshold"] == 0.6
    assert metrics["auroc"] == pytest.approx(reference.roc_auc_score(y, s))
    assert metrics["average_precision"] == pytest.approx(reference.average_precision_score(y, s))
    assert metrics["f1"] == pytest.approx(reference.f1_score(y, s >= 0.6))
    assert metrics["iou"] == pytest.approx(reference.jaccard_score(y, s >= 0.6))
    assert (metrics["objects_true"], metrics["objects_unseen"]) == (3, 1)
    predicted, true = (ndimage.label(array, np.ones((3, 3)))[0] for array in (pixels >= 0.6, mask & known))
    assert metrics["object_recall"] == overlapping_share(true, predicted)
    assert metrics["object_precision"] == overlapping_share(predicted, true)
    assert metrics["objects_reported"] == predicted.max()
    higher = metrics_of(scores, truth, threshold=0.99)
    assert higher["objects_reported"] < metrics["objects_reported"]


def test_the_truth_may_be_a_raster_of_another_grid_or_polygons_of_another_crs(files, tmp_path):
    folder, scores, truth, mask, _ = files
    expected = metrics_of(scores, truth)
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
        metrics = metrics_of(scores, str(path))
        assert metrics["auroc"] == pytest.approx(expected["auroc"], abs=2e-3)
        assert metrics["objects_true"] == 3
        assert metrics["object_recall"] == expected["object_recall"]
    assert metrics_of(scores, raster) == pytest.approx(expected, nan_ok=True)
    assert folder


def test_where_the_truth_is_unknown_nothing_counts(files, tmp_path):
    _, scores, _, mask, pixels = files
    unknown = mask.astype(np.uint8)
    unknown[140:] = 99  # one object and much else
    metrics = metrics_of(scores, write(tmp_path / "truth.tif", unknown, nodata=99))
    known = ~np.isnan(pixels)
    known[140:] = False
    assert metrics["pixels"] == known.sum()
    assert metrics["auroc"] == pytest.approx(reference.roc_auc_score(mask[known], pixels[known]))
    assert metrics["objects_true"] == 2
    smaller = write(tmp_path / "smaller.tif", mask[:140].astype(np.uint8))
    assert metrics_of(scores, smaller)["pixels"] == known.sum()


def test_scenes_of_several_strips_are_the_same(tmp_path):
    rows = STRIDE * _STRIP_CELLS * 2 + 100
    tall = RNG.random((rows // 4, 20)).astype(np.float32)
    scores = write(tmp_path / "scores.tif", tall, transform=PIXEL @ Affine.scale(4), nodata=np.nan)
    with rasterio.open(scores, "r+") as file:
        file.update_tags(GEOSIAM_STRIDE="4", GEOSIAM_SCENE_PX=f"{rows} 80")
    objects = [box(int(row), 5, 90, 30) for row in range(10, rows - 120, 130)]
    geopandas.GeoDataFrame(geometry=objects, crs=CRS_).to_file(tmp_path / "truth.fgb")
    metrics = metrics_of(scores, str(tmp_path / "truth.fgb"))
    mask = rasterize(objects, out_shape=(rows, 80), transform=PIXEL).astype(bool)
    upsampled = np.kron(tall, np.ones((4, 4), np.float32))
    assert metrics["auroc"] == pytest.approx(reference.roc_auc_score(mask.ravel(), upsampled.ravel()), abs=1e-4)
    assert metrics["objects_true"] == len(objects)
    assert metrics["objects_unseen"] == 0


def test_polygons_are_compared_by_object_and_area(files, tmp_path):
    _, _, truth, mask, _ = files
    predicted = [box(20, 16, 20, 12), box(76, 33, 10, 6), box(180, 10, 5, 5)]
    path = tmp_path / "found.gpkg"
    geopandas.GeoDataFrame(geometry=predicted, crs=CRS_).to_crs(4326).to_file(path, layer="anomalies")
    raster = write(tmp_path / "truth.tif", mask.astype(np.uint8))
    common, found, true = 20 * 12 + 54, 20 * 12 + 60 + 25, sum(o.area * 4 for o in OBJECTS)
    for against in (truth, raster):
        metrics = metrics_of(str(path), against)
        assert metrics["iou"] == pytest.approx(common / (found + true - common), rel=1e-3)
        assert metrics["f1"] == pytest.approx(2 * common / (found + true), rel=1e-3)
        assert (metrics["object_recall"], metrics["object_precision"]) == (0.5, pytest.approx(2 / 3))
        assert metrics["object_recall_iou50"] == 0.25
        assert np.isnan([metrics["auroc"], metrics["calibration_error"], metrics["pixels"]]).all()


def test_several_pairs_are_summed_and_reported(files, tmp_path):
    folder, scores, truth, mask, pixels = files
    nothing = tmp_path / "nothing.geojson"
    geopandas.GeoDataFrame({"a": []}, geometry=[], crs=4326).to_file(nothing)
    manifest = tmp_path / "pairs.csv"
    manifest.write_text(f"prediction,truth\n{scores},{truth}\n{scores},{nothing.name}\n", encoding="utf-8")
    progress = []
    evaluations = evaluate(read_manifest(manifest), on_progress=lambda *args: progress.append(args))
    assert [(e.method, e.pair) for e in evaluations] == [("prediction", "scores")] * 2 + [("prediction", "all")]
    assert [args[:2] for args in progress] == [(0, 2), (1, 2)]
    known = ~np.isnan(pixels)
    y, s = np.tile(mask[known], 2), np.tile(pixels[known], 2)
    y[known.sum() :] = False
    total = evaluations[-1].agreement.metrics()
    assert total["auroc"] == pytest.approx(reference.roc_auc_score(y, s))
    assert total["f1"] == pytest.approx(reference.f1_score(y, s >= 0.6))
    written = save_report(tmp_path / "report", evaluations)
    assert {path.name for path in written} == {"evaluation.md", "evaluation.json", "curves.png"}
    assert not list((tmp_path / "report").glob(".*"))
    records = json.loads(written[1].read_text())
    assert records == [evaluation.to_dict() for evaluation in totals_first(evaluations)]
    assert (records[0]["method"], records[0]["pair"]) == ("prediction", "all")
    assert records[0]["auroc"] == pytest.approx(total["auroc"])
    assert records[1]["calibration"][-1].keys() == {"score", "changed", "pixels"}
    assert records[2]["auroc"] is None, "undefined without a changed pixel"
    assert "| AUROC |" in written[0].read_text()
    assert folder


def test_models_and_baselines_run_on_a_pair_of_scenes(tmp_path):
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
    assert model.agreement.metrics()["auroc"] > 0.95
    assert cva.agreement.metrics()["auroc"] > 0.95
    assert cva.agreement.metrics()["object_recall"] == 1
    assert np.isnan(cva.agreement.metrics()["calibration_error"])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"after-survey.gpkg", "after-survey.tif"}
    assert [evaluation.method for evaluation in evaluate(task)] == ["survey"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a,b\n1,2\n", SceneRefusedError, "has the columns a, b"),
        ("truth,prediction\n", OptionError, "has no rows"),
        ("truth,prediction\nx.gpkg,\n", SceneRefusedError, "row 1"),
        ("truth,before,after\na,c,d\n,b.tif,a.tif\n", SceneRefusedError, "row 2"),
        ("", OptionError, "has no rows"),
        (None, SceneNotFoundError, "does not exist"),
        (b"\xff\xfe\x00", OptionError, "cannot be read"),
    ],
)
def test_invalid_manifests_are_refused(text, error, message, tmp_path):
    path = tmp_path / "pairs.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=message):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "\ufeffTruth;prediction\nt.gpkg;a.tif\nhttps://x/t.gpkg;b.tif\n"),
        ("pairs.tsv", "truth\tprediction\nt.gpkg\ta.tif\nhttps://x/t.gpkg\tb.tif\n"),
        ("pairs.json", json.dumps([
            {"truth": "t.gpkg", "prediction": "a.tif"},
            {"truth": "https://x/t.gpkg", "prediction": "b.tif", "before": None},
        ])),
    ],
)  # fmt: skip
def test_manifests_have_the_formats_of_a_batch(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    first = Task(str(tmp_path / "t.gpkg"), prediction=str(tmp_path / "a.tif"))
    second = Task("https://x/t.gpkg", prediction=str(tmp_path / "b.tif"))
    assert read_manifest(tmp_path / name) == [first, second]


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
    for path, message in (
        (points, "type Point"), (homeless, "no coordinate"), (tmp_path / "broken.gpkg", "not a readable"),
        (tmp_path / "broken.tif", "GDAL"), (tmp_path / "gone.gpkg", "not exist"), (tmp_path / "gone.tif", "not exist"),
        (tmp_path / "size.png", "size"), (bands, "5 bands"), (table, "not a readable"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            metrics_of(scores, str(path))
    with pytest.raises(InputError, match="no coordinate"):
        metrics_of(truth, str(tmp_path / "size.png"))
    with pytest.raises(OptionError, match="two scenes"):
        Task("truth.gpkg", before="a.tif")
    with pytest.raises(OptionError, match="is not known"):
        evaluate(Task(truth, before="a.tif", after="b.tif"), baselines=["magic"])


def _has_pyarrow():
    import importlib.util

    return importlib.util.find_spec("pyarrow") is not None
