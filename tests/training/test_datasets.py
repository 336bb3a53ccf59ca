import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image

from geosiam.errors import TrainingDataError
from geosiam.training import datasets
from geosiam.training.datasets import load_chips, read_scene, synthetic_pairs
from geosiam.training.sources import ChipStack, SceneStack

RNG = np.random.default_rng(0)


def pixels(n: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def binary_batch(images: np.ndarray) -> bytes:
    labels = RNG.integers(0, 10, (len(images), 1), dtype=np.uint8)
    return np.concatenate([labels, images.reshape(len(images), -1)], axis=1).tobytes()


def python_batch(images: np.ndarray) -> bytes:
    """Return a pickle as Python 2 wrote the official one: its strings are bytes without an encoding."""
    raw = images.tobytes()
    key = b"data"
    return b"\x80\x02}q\x01(U" + bytes([len(key)]) + key + b"T" + struct.pack("<i", len(raw)) + raw + b"u."


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def chips_of(source: object) -> np.ndarray:
    assert isinstance(source, ChipStack)
    return source.chips.numpy()


def test_official_python_archive_is_read_without_unpickling(tmp_path: Path) -> None:
    train, test = pixels(5), pixels(2)
    path = tar_of(
        tmp_path / "cifar-10-python.tar.gz",
        {
            "cifar-10-batches-py/data_batch_1": python_batch(train),
            "cifar-10-batches-py/batches.meta": b"anything",
            "cifar-10-batches-py/test_batch": python_batch(test),
        },
    )
    learn, held_out = load_chips(path)
    np.testing.assert_array_equal(chips_of(learn), train)
    np.testing.assert_array_equal(chips_of(held_out), test)


def test_the_handmade_pickle_is_one() -> None:
    train = pixels(3)
    loaded = pickle.loads(python_batch(train), encoding="bytes")
    assert loaded[b"data"] == train.tobytes()


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "boom",))

    train = pixels(12)
    content = pickle.dumps({"data": train.tobytes(), "bomb": Bomb()}, protocol=2)
    learn, _ = load_chips(tar_of(tmp_path / "evil.tar.gz", {"data_batch_1": content, "test_batch": content}))
    np.testing.assert_array_equal(chips_of(learn), train)
    assert not (tmp_path / "boom").exists()


def test_official_binary_archive_and_extracted_folder(tmp_path: Path) -> None:
    train, test = pixels(4), pixels(3)
    files = {
        "cifar-10-batches-bin/data_batch_1.bin": binary_batch(train[:3]),
        "cifar-10-batches-bin/data_batch_2.bin": binary_batch(train[3:]),
        "cifar-10-batches-bin/test_batch.bin": binary_batch(test),
    }
    learn, held_out = load_chips(tar_of(tmp_path / "b.tar.gz", files))
    np.testing.assert_array_equal(chips_of(learn), train)
    np.testing.assert_array_equal(chips_of(held_out), test)
    folder = tmp_path / "extracted"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    learn, _ = load_chips(folder)
    np.testing.assert_array_equal(chips_of(learn), train)


def test_archive_and_folder_of_pictures_keep_the_test_part_apart(tmp_path: Path) -> None:
    train, test = pixels(4), pixels(2)
    files = {f"c/train/cat/{i}.png": png(image) for i, image in enumerate(train)}
    files |= {f"c/test/cat/{i}.png": png(image) for i, image in enumerate(test)}
    learn, held_out = load_chips(tar_of(tmp_path / "c.tar.xz", files, "w:xz"))
    np.testing.assert_array_equal(chips_of(learn), train)
    np.testing.assert_array_equal(chips_of(held_out), test)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    learn, held_out = load_chips(tmp_path / "c")
    assert len(learn) == 4
    assert len(held_out) == 2


def test_without_a_test_part_every_tenth_picture_is_held_out(tmp_path: Path) -> None:
    for i, image in enumerate(pixels(20)):
        (tmp_path / f"{i:02}.png").write_bytes(png(image))
    learn, held_out = load_chips(tmp_path)
    assert (len(learn), len(held_out)) == (18, 2)


def test_pictures_of_different_sizes_are_scenes(tmp_path: Path) -> None:
    for i, side in enumerate((40, 60, 50)):
        (tmp_path / f"{i}.png").write_bytes(png(RNG.integers(0, 256, (3, side, side), dtype=np.uint8)))
    learn, _ = load_chips(tmp_path)
    assert isinstance(learn, SceneStack)


def geotiff(path: Path, image: np.ndarray) -> Path:
    profile = {"driver": "GTiff", "count": len(image), "dtype": image.dtype, "crs": "EPSG:32633"}
    transform = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
    with rasterio.open(path, "w", height=image.shape[1], width=image.shape[2], transform=transform, **profile) as file:
        file.write(image)
    return path


def test_the_users_own_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = RNG.integers(0, 256, (3, 100, 80), dtype=np.uint8)
    path = geotiff(tmp_path / "scene.tif", image)
    assert torch.equal(read_scene(path), torch.from_numpy(image))
    for named in (path, tmp_path):
        learn, held_out = load_chips(named)
        assert isinstance(learn, SceneStack)
        assert isinstance(held_out, SceneStack)
        assert learn.scenes[0].shape == (3, 90, 80)
        assert held_out.scenes[0].shape == (3, 10, 80)
    monkeypatch.setattr(datasets, "_MAX_PIXELS", 2000)
    middle = read_scene(path)
    assert middle.shape == (3, 50, 40)
    assert torch.equal(middle, torch.from_numpy(image[:, 25:75, 20:60]))


def test_unusable_data_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="does not exist"):
        load_chips(tmp_path / "absent")
    text = tmp_path / "text.tar"
    text.write_text("no archive")
    with pytest.raises(TrainingDataError, match="not a readable tar archive"):
        load_chips(text)
    with pytest.raises(TrainingDataError, match="holds no images"):
        load_chips(tar_of(tmp_path / "empty.tar.gz", {"readme.txt": b"nothing"}))
    with pytest.raises(TrainingDataError, match="not a readable image"):
        load_chips(tar_of(tmp_path / "bad.tar.gz", {"a.png": b"no picture"}))
    with pytest.raises(TrainingDataError, match="is not a CIFAR-10 batch"):
        load_chips(tar_of(tmp_path / "short.tar.gz", {"data_batch_1.bin": b"1234"}))


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(datasets.pooch, "retrieve", refuse)
    with pytest.raises(TrainingDataError, match="set `data` to a copy"):
        load_chips(None)


@pytest.mark.data
def test_cifar_as_pictures(data_dir: Path) -> None:
    learn, held_out = load_chips(data_dir / "cifar10-jpeg.tar.xz")
    assert chips_of(learn).shape == (50_000, 3, 32, 32)
    assert chips_of(held_out).shape == (10_000, 3, 32, 32)


def test_synthetic_pairs_label_what_changed() -> None:
    pairs, held_out = synthetic_pairs(2, seed=0)
    assert (len(pairs), len(held_out)) == (2, 1)
    scene = pairs.scenes[0]
    assert scene.shape == (7, 512, 512)
    changed, quiet = scene[6] == 255, scene[6] == 0
    difference = (scene[:3].int() - scene[3:6].int()).abs().float().mean(dim=0)
    assert 0.001 < changed.float().mean() < 0.2
    assert difference[changed].mean() > 2 * difference[quiet].mean()
    assert not torch.equal(pairs.scenes[0][:3], held_out.scenes[0][:3])


def test_synthetic_pairs_lean_only_if_asked() -> None:
    upright, _ = synthetic_pairs(1, seed=0)
    asked, _ = synthetic_pairs(1, seed=0, max_off_nadir=0.0)
    leaning, _ = synthetic_pairs(1, seed=0, max_off_nadir=15.0)
    assert torch.equal(upright.scenes[0], asked.scenes[0])
    assert not torch.equal(upright.scenes[0][:6], leaning.scenes[0][:6])
