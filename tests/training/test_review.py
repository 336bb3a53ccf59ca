import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from geopandas import GeoDataFrame
from shapely import box
from shapely.affinity import affine_transform

from geosiam.errors import OptionError, TrainingDataError
from geosiam.polygons.writer import write_polygons
from geosiam.training.api import TrainingOptions, train
from geosiam.training.finetune import reviewed_pairs

TRANSFORM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
REJECTED, CONFIRMED, UNSURE = (60, 40, 80, 70), (200, 150, 230, 170), (20, 200, 40, 220)  # columns and rows, in pixels


@pytest.fixture
def scenes(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for name in ("before", "after"):
        paths.append(tmp_path / f"{name}.tif")
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 300, "width": 280, "photometric": "rgb"}
        with rasterio.open(paths[-1], "w", crs="EPSG:32633", transform=TRANSFORM, **profile) as file:
            file.write(rng.integers(0, 256, (3, 300, 280), dtype=np.uint8))
    return paths


@pytest.fixture
def polygons(tmp_path, scenes):
    path = tmp_path / "anomalies.gpkg"
    matrix = [TRANSFORM.a, TRANSFORM.b, TRANSFORM.d, TRANSFORM.e, TRANSFORM.c, TRANSFORM.f]
    outlines = [affine_transform(box(*corners), matrix) for corners in (REJECTED, CONFIRMED, UNSURE)]
    review = ["rejected", "confirmed", "unsure"]
    frame = GeoDataFrame({"id": [1, 2, 3], "review": review}, geometry=outlines, crs="EPSG:32633")
    names = {"before": {"name": str(scenes[0])}, "after": {"name": str(scenes[1])}}
    write_polygons(frame, path, provenance={"pair": names})
    return path


def test_rejected_ground_is_normal_confirmed_is_not_and_the_rest_is_undecided(polygons, scenes) -> None:
    pairs = reviewed_pairs(polygons).scenes
    assert len(pairs) == 2
    with rasterio.open(scenes[0]) as file:
        image = file.read()
    for pair, (left, top, right, bottom), value in zip(pairs, (REJECTED, CONFIRMED), (0, 255), strict=True):
        labels = pair[6].numpy()
        middle = labels.shape[0] // 2, labels.shape[1] // 2
        row, col = middle[0] - (bottom - top) // 2, middle[1] - (right - left) // 2
        inside = labels[row : row + bottom - top, col : col + right - left]
        assert (inside == value).all()
        assert (labels == value).sum() == inside.size
        assert set(np.unique(labels)) <= {value, 128}
        shown = pair[:3, row : row + bottom - top, col : col + right - left].numpy()
        assert np.array_equal(shown, image[:, top:bottom, left:right])


def test_only_judged_cells_count_and_weights_learn_from_them(polygons, tmp_path) -> None:
    options = TrainingOptions(
        out=tmp_path / "mine.safetensors", review=str(polygons), init="survey-fast", generated=0, epochs=1, steps=2
    )
    done = train(options)
    assert done.card.data == "verdicts in anomalies.gpkg"
    assert "--review anomalies.gpkg" in done.card.command
    assert done.card.network.window.stride == 8
    assert 0.1 <= done.card.temperature <= 10


def test_scenes_that_moved_are_named(polygons, scenes, tmp_path) -> None:
    moved = [scene.rename(tmp_path / f"moved-{scene.name}") for scene in scenes]
    with pytest.raises(TrainingDataError, match="set `scenes` to both"):
        reviewed_pairs(polygons)
    pairs = reviewed_pairs(polygons, [str(scene) for scene in moved])
    assert torch.equal(pairs.scenes[0], reviewed_pairs(polygons, tuple(map(str, moved))).scenes[0])


def test_files_without_verdicts_are_refused(tmp_path, scenes) -> None:
    path = tmp_path / "none.gpkg"
    frame = GeoDataFrame({"id": [1], "review": ["unsure"]}, geometry=[box(0, 0, 1, 1)], crs="EPSG:32633")
    write_polygons(frame, path)
    with pytest.raises(TrainingDataError, match="holds no verdicts"):
        reviewed_pairs(path)
    frame["review"] = "rejected"
    write_polygons(frame, path)
    with pytest.raises(TrainingDataError, match="does not name the scenes"):
        reviewed_pairs(path)
    with pytest.raises(TrainingDataError, match="does not exist"):
        reviewed_pairs(tmp_path / "nowhere.gpkg")
    with pytest.raises(TrainingDataError, match="no layer"):
        reviewed_pairs(scenes[0])
    with pytest.raises(OptionError, match="does not use `review`"):
        TrainingOptions(out=tmp_path / "w.safetensors", recipe="paper", review=str(path))


def test_fine_tuning_on_a_scene_takes_network_and_start_from_the_given_weights(scenes, tmp_path) -> None:
    options = TrainingOptions(
        out=tmp_path / "mine.safetensors", scenes=(str(scenes[0]),), init="survey", subcells=2, generated=1,
        epochs=1, steps=1,
    )  # fmt: skip
    card = train(options).card
    assert (card.network.window.stride, card.stride) == (4, 2)
    assert card.data == "before.tif, 1 synthetic pairs"
    assert "--scenes before.tif" in card.command
    assert "--init survey" in card.command
