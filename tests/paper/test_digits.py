import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Generator

from geosiam.errors import TrainingDataError
from geosiam.paper.chips import SIDE, DigitRecipe, DigitStack, digit_network, read_idx
from geosiam.training.recipes import Schedule


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(count: int = 60) -> DigitStack:
    """Every digit is a flat image of its own brightness, so that pixels tell the label."""
    labels = torch.arange(count, dtype=torch.uint8) % 10
    return DigitStack((labels * 20).view(-1, 1, 1).expand(-1, SIDE, SIDE).contiguous(), labels)


@given(arrays(np.uint8, array_shapes(max_dims=3, max_side=5)), st.booleans())
def test_idx_files_are_read_back(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool) -> None:  # noqa: FBT001
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\1\0\0\0\1....", "not an idx file"),  # floats
        (idx(np.zeros((4, 5), np.uint8))[:-1], "holds 19 values"),
        (idx(np.zeros((4, 5), np.uint8)) + b"x", "holds 21 values"),
        (b"\0\0\x08\3\0\0", "within its header"),
    ],
)
def test_a_broken_idx_file_is_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(TrainingDataError, match=fact):
        read_idx(path)
    packed = tmp_path / "train-images.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(TrainingDataError, match=fact):
        read_idx(packed)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(idx(np.zeros(9, np.uint8)), mtime=0)[:-9], None])
def test_a_broken_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "labels.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingDataError, match="cannot be read"):
        read_idx(path)


def test_mnist_is_four_files_that_fit_together(tmp_path: Path) -> None:
    stack = digits()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(stack.images.numpy()))
    with pytest.raises(TrainingDataError, match="train-labels"):
        DigitStack.load(tmp_path, "train")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(stack.labels.numpy())))
    loaded = DigitStack.load(tmp_path, "train")
    assert torch.equal(loaded.images, stack.images)
    assert torch.equal(loaded.labels, stack.labels)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(stack.labels.numpy()[1:])))
    with pytest.raises(TrainingDataError, match="differ"):
        DigitStack.load(tmp_path, "train")


def test_half_of_the_pairs_show_one_digit_and_all_pairs_occur() -> None:
    stack = digits()
    a, b = stack.draw(20_000, Generator().manual_seed(0))
    same = stack.labels[a] == stack.labels[b]
    assert same.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.bincount(a, minlength=60).min() > 0
    assert torch.bincount(b, minlength=60).min() > 0
    kinds = torch.bincount(stack.labels[a].long() * 10 + stack.labels[b].long(), minlength=100).view(10, 10)
    others = kinds[~torch.eye(10, dtype=torch.bool)]
    assert others.min() > 0.5 * others.float().mean()


def test_a_batch_is_labelled_by_what_it_shows() -> None:
    recipe = DigitRecipe(schedule=Schedule(epochs=1, steps=1, batch_size=64))
    batch = recipe.batch(digits(), Generator().manual_seed(1))
    assert batch.before.shape == (64, 1, SIDE, SIDE)
    shown = (batch.before[:, 0, 0, 0] == batch.after[:, 0, 0, 0]).float()
    assert torch.equal(batch.similar.flatten(), shown)
    assert 0 < shown.sum() < 64
    assert (batch.weight == 1).all()


def test_a_digit_gives_exactly_one_cell() -> None:
    field = digit_network().receptive_field
    assert (field.size, field.cells(SIDE)) == (SIDE, 1)
