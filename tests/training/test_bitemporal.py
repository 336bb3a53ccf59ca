import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from geosiam.errors import OptionError, OutputError, SceneRefusedError, TrainingDataError, WeightsError
from geosiam.network.weights import Model, load_model
from geosiam.training.api import TrainingOptions, train
from geosiam.training.finetune import MOST_CONFIDENT, bitemporal, most_confident, own_scenes
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, PairStack, SceneStack

RNG = np.random.default_rng(3)
OBJECT = slice(60, 84), slice(40, 64)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("survey-fast")


def geotiff(path: Path, image: NDArray[np.uint8], *, east: float = 0.0) -> str:
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "photometric": "rgb"}
    transform = Affine(0.5, 0, 400_000 + east, 0, -0.5, 5_000_000)
    with rasterio.open(path, "w", height=image.shape[1], width=image.shape[2], transform=transform, **profile) as file:
        file.write(image)
    return str(path)


def ground(rows: int = 400, cols: int = 320) -> NDArray[np.uint8]:
    """Return something with structure at several scales, and little contrast."""
    coarse = RNG.normal(110, 12, (3, rows // 16, cols // 16)).repeat(16, axis=1).repeat(16, axis=2)
    image: NDArray[np.uint8] = (coarse + RNG.normal(0, 2, coarse.shape)).clip(0, 255).astype(np.uint8)
    return image


def test_two_dates_are_one_pair_whose_most_confident_change_does_not_count(tmp_path: Path, model: Model) -> None:
    before = ground()
    after = before.copy()
    after[(slice(None), *OBJECT)] = np.array([220, 40, 40])[:, None, None]
    learnt, held_out = bitemporal(geotiff(tmp_path / "1.tif", before), geotiff(tmp_path / "2.tif", after), model)
    assert (learnt.scenes[0].shape, held_out.scenes[0].shape) == ((7, 360, 320), (7, 40, 320))
    both = torch.cat([learnt.scenes[0], held_out.scenes[0]], dim=1).numpy()
    assert np.array_equal(both[:3], before)
    assert np.array_equal(both[3:6], after)
    labels = both[6]
    assert set(np.unique(labels)) == {UNCHANGED, UNDECIDED}
    assert (labels[OBJECT] == UNDECIDED).mean() > 0.9
    labels[45:100, 25:80] = UNCHANGED  # the network sees so far
    assert (labels == UNCHANGED).all()


def test_ground_of_one_date_alone_does_not_count(tmp_path: Path, model: Model) -> None:
    image = ground()
    first, second = geotiff(tmp_path / "1.tif", image), geotiff(tmp_path / "2.tif", image[:, :, 160:], east=80.0)
    (learnt, _held_out) = bitemporal(first, second, model)
    both, beyond = learnt.scenes[0].numpy(), learnt.scenes[0].shape[2] - 160
    assert 0 <= beyond <= model.card.stride  # whole cells
    assert (both[6, :, :beyond] == UNDECIDED).all()
    assert (both[6, :, beyond:] == UNCHANGED).all()
    assert np.array_equal(both[:3, :, beyond:], image[:, :360, 160:])
    assert np.array_equal(both[3:6, :, beyond:], image[:, :360, 160:])


def test_no_more_than_the_most_confident_cells_are_left_out_however_much_differs() -> None:
    scores = RNG.uniform(0.6, 1.0, (200, 200)).astype(np.float32)
    alone = scores > np.quantile(scores, 1 - MOST_CONFIDENT)
    found = most_confident(scores, 0.4)
    assert found[alone].all()
    assert found.mean() <= 9 * MOST_CONFIDENT  # each may have eight neighbors
    above = scores > 0.999  # fewer than the most confident
    assert 0 < above.mean() < MOST_CONFIDENT
    assert np.array_equal(most_confident(scores, 0.999), ndimage.binary_dilation(above, np.ones((3, 3))))
    assert not most_confident(np.full((5, 5), 0.3, np.float32), 0.4).any()
    assert not most_confident(np.full((5, 5), np.nan, np.float32), 0.4).any()


def test_scenes_that_show_other_places_are_used_one_by_one(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    image = ground(208, 208)
    here = [geotiff(tmp_path / f"{number}.tif", image) for number in range(3)]
    elsewhere = geotiff(tmp_path / "elsewhere.tif", image, east=50_000)
    with caplog.at_level(logging.INFO, logger="geosiam"):
        sources = own_scenes([*here, elsewhere], model)
    assert [type(learnt) for learnt, _ in sources] == [PairStack, PairStack, SceneStack]
    assert "are not a pair" in caplog.text
    assert caplog.text.count("is used alone") == 1
    assert [type(learnt) for learnt, _ in own_scenes(here[:1], model)] == [SceneStack]
    with pytest.raises(TrainingDataError, match="does not exist"):
        own_scenes([here[0], str(tmp_path / "nowhere.tif")], model)


def dataset(folder: Path) -> tuple[Path, NDArray[np.uint8], NDArray[np.uint8]]:
    """Write a dataset of two pairs, of which the first has a mask; return its folder and both dates of the first."""
    for part in ("A", "B", "label"):
        (folder / part).mkdir(parents=True)
    before = ground()
    after = before.copy()
    after[(slice(None), *OBJECT)] = np.array([220, 40, 40])[:, None, None]
    for name in ("yard", "shore"):
        Image.fromarray(before.transpose(1, 2, 0)).save(folder / "A" / f"{name}.png")
        Image.fromarray(after.transpose(1, 2, 0)).save(folder / "B" / f"{name}.png")
    mask = np.zeros(before.shape[1:], np.uint8)
    mask[OBJECT] = 255
    mask[:8] = 100
    Image.fromarray(mask).save(folder / "label" / "yard.png")
    return folder, before, after


def test_a_dataset_of_change_detection_is_read_as_it_is_laid_out(tmp_path: Path, model: Model) -> None:
    folder, before, after = dataset(tmp_path / "pairs")
    (folder / "A" / "yard.png.aux.xml").write_text("<PAMDataset/>")
    ((learnt, held_out),) = own_scenes([str(folder)], model)
    assert isinstance(learnt, PairStack)
    assert isinstance(held_out, PairStack)
    shore, yard = (torch.cat(pair, dim=1).numpy() for pair in zip(learnt.scenes, held_out.scenes, strict=True))
    for pair in (shore, yard):
        assert np.array_equal(pair[:3], before)
        assert np.array_equal(pair[3:6], after)
    assert (yard[6][OBJECT] == CHANGED).all()
    assert (yard[6][:8] == UNDECIDED).all()
    assert (yard[6][8:60] == UNCHANGED).all()
    assert (yard[6] == CHANGED).sum() == 24 * 24
    assert (shore[6][OBJECT] == UNDECIDED).mean() > 0.9  # has no mask: what the weights are confident about
    assert set(np.unique(shore[6])) == {UNCHANGED, UNDECIDED}


def test_a_mask_lies_on_the_ground_that_both_dates_share(tmp_path: Path, model: Model) -> None:
    for part in ("A", "B", "label"):
        (tmp_path / part).mkdir()
    image = ground(400, 336)[:, :, :321]  # the last cell is partly beyond the scene
    geotiff(tmp_path / "A" / "yard.tif", image)
    geotiff(tmp_path / "B" / "yard.tif", image[:, :, 160:], east=80.0)
    mask = np.zeros(image.shape[1:], np.uint8)
    mask[100:140, 200:260] = 255
    Image.fromarray(mask).save(tmp_path / "label" / "yard.png")
    ((learnt, held_out),) = own_scenes([str(tmp_path)], model)
    assert isinstance(learnt, PairStack)
    assert isinstance(held_out, PairStack)
    labels = torch.cat([learnt.scenes[0], held_out.scenes[0]], dim=1)[6].numpy()
    start = next(col for col in range(labels.shape[1]) if (labels[:, col] != UNDECIDED).any())
    np.testing.assert_array_equal(labels[:, start : start + 161], mask[:, 160:])
    assert (np.delete(labels, slice(start, start + 161), axis=1) == UNDECIDED).all()


def test_a_dataset_and_scenes_may_be_named_together(tmp_path: Path, model: Model) -> None:
    folder, *_ = dataset(tmp_path / "pairs")
    scenes = [geotiff(tmp_path / f"{number}.tif", ground(208, 208)) for number in (1, 2)]
    sources = own_scenes([scenes[0], str(folder), scenes[1]], model)
    assert [len(learnt) for learnt, _ in sources] == [2, 1]


@pytest.mark.parametrize("option", ["scenes", "data", "anomaly"])
def test_an_image_in_a_folder_is_not_overwritten_by_weights(tmp_path: Path, option: str) -> None:
    folder, *_ = dataset(tmp_path / "pairs")
    image = folder / "B" / "yard.png"
    content = image.read_bytes()
    recipe = "target" if option == "anomaly" else "survey"
    with pytest.raises(OutputError, match="is an input too and would be overwritten"):
        train(TrainingOptions(out=image, recipe=recipe, epochs=1, steps=1, generated=0, **{option: (str(folder),)}))
    assert image.read_bytes() == content


def test_a_dataset_that_does_not_fit_is_refused(tmp_path: Path, model: Model) -> None:
    folder, before, _ = dataset(tmp_path / "pairs")
    Image.fromarray(before[0, :50]).save(folder / "label" / "yard.png")
    with pytest.raises(
        TrainingDataError, match=r"label/yard\.png: is 320 x 50 px, its pair 320 x 400 px; give both dates"
    ):
        own_scenes([str(folder)], model)
    (folder / "label" / "yard.png").unlink()
    Image.fromarray(before[:, :50].transpose(1, 2, 0)).save(folder / "B" / "yard.png")
    own_scenes([str(folder)], model)  # common ground, as of two scenes
    (folder / "B" / "yard.png").unlink()
    with pytest.raises(TrainingDataError, match="pairs: holds yard at one date only; give both dates"):
        own_scenes([str(folder)], model)
    (folder / "A" / "yard.png").unlink()
    (folder / "A" / "shore.png").write_text("no image")
    with pytest.raises(TrainingDataError, match=r"shore\.png: is not a readable image"):
        own_scenes([str(folder)], model)
    for file in folder.glob("[AB]/*"):
        file.unlink()
    with pytest.raises(TrainingDataError, match="holds no images"):
        own_scenes([str(folder)], model)


def test_a_frozen_encoder_stays_as_it_is(tmp_path: Path) -> None:
    folder, *_ = dataset(tmp_path / "pairs")
    options = TrainingOptions(
        out=tmp_path / "mine.safetensors",
        scenes=(str(folder),),
        init="survey-fast",
        freeze_encoder=True,
        generated=1,
        epochs=1,
        steps=2,
    )
    result = train(options)
    initial, trained = (load_model(name).network.state_dict() for name in ("survey-fast", result.weights))
    changed = {name for name, value in initial.items() if not torch.equal(value, trained[name])}
    assert changed == {name for name in initial if name.startswith("discriminator")}
    assert "--freeze-encoder" in result.card.command
    with pytest.raises(WeightsError, match="training with other options"):
        train(replace(options, freeze_encoder=False, epochs=2))


def test_a_random_encoder_is_not_frozen(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`freeze_encoder`: would keep random weights; set `init`"):
        TrainingOptions(out=tmp_path / "mine.safetensors", freeze_encoder=True)


def test_reading_a_pair_leaves_the_process_as_it_was(tmp_path: Path, model: Model, process_state) -> None:
    paths = [geotiff(tmp_path / f"{number}.tif", ground(208, 208)) for number in (1, 2)]
    far = geotiff(tmp_path / "far.tif", ground(208, 208), east=50_000)
    before = process_state()
    bitemporal(*paths, model)
    with pytest.raises(SceneRefusedError):
        bitemporal(paths[0], far, model)
    assert process_state() == before


def test_fine_tuning_on_two_dates_leaves_the_process_as_it_was(tmp_path: Path, process_state) -> None:
    scenes = tuple(geotiff(tmp_path / f"{number}.tif", ground(208, 208)) for number in (1, 2))
    before = process_state()
    out = tmp_path / "mine.safetensors"
    done = train(TrainingOptions(out=out, scenes=scenes, init="survey-fast", generated=0, epochs=1, steps=2))
    assert process_state() == before
    assert done.card.data == "1.tif, 2.tif"
    assert load_model(str(out)).card.recipe == "survey"
