"""The network's input: looked up or computed, the same as one pixel after the other."""

import numpy as np
import pytest
import torch

from geosiam.imagery.normalization import PixelTransform, RadiometricNormalization, Stretch
from geosiam.imagery.pair import StoredBlock
from geosiam.inference.torch_engine import InputTransform
from geosiam.network.siamese import normalized

BYTES = Stretch((0.0,) * 3, (255.0,) * 3)
LINEAR = RadiometricNormalization("linear", ((0.0, 1.0),) * 3, ((0.1, 0.9), (-0.2, 1.1), (0.0, 1.0)))


def stored(dtype: str, seed: int = 0) -> StoredBlock:
    rng = np.random.default_rng(seed)
    images = (rng.random((2, 3, 60, 70)) * 200 - (50 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)
    scaling = Stretch((0.0, 10.0, 0.0), (150.0, 150.0, 180.0))
    transfers = PixelTransform(scaling), PixelTransform(scaling, LINEAR)
    return StoredBlock(images[0], images[1], rng.random((60, 70)) > 0.2, transfers)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_the_input_is_the_comparable_block_normalized_and_rounded(dtype, precision):
    block = stored(dtype)
    rows, cols = slice(3, 43), slice(5, 69)
    found = InputTransform(precision)(block, rows, cols)
    floats = block.comparable()
    expected = normalized(torch.from_numpy(np.stack([floats.before, floats.after])[..., rows, cols])).to(precision)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_integers_take_the_comparable_block_as_bytes(dtype):
    block = stored(dtype)
    rows, cols = slice(3, 43), slice(5, 69)
    found = InputTransform(torch.int8)(block, rows, cols)
    floats = block.comparable()
    expected = np.stack([floats.before, floats.after])[..., rows, cols] * np.float32(255)
    expected = np.where(block.valid[rows, cols], np.rint(expected), 128)  # invalid: 0.5, which lies between two bytes
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_bytes_that_nothing_is_done_to_are_taken_as_they_are():
    block = stored("uint8")
    kept = block.before.copy(), block.after.copy()
    same = StoredBlock(block.before, block.after, block.valid, (PixelTransform(BYTES), PixelTransform(BYTES, LINEAR)))
    found = InputTransform(torch.int8)(same, slice(0, 60), slice(0, 70)).numpy()
    np.testing.assert_array_equal(found[0][:, block.valid], block.before[:, block.valid])
    np.testing.assert_array_equal((block.before, block.after), kept)


def test_memory_used_again_holds_nothing_of_before():
    intake, first, second = InputTransform(torch.float32), stored("uint8", 1), stored("uint8", 2)
    whole = slice(0, 60), slice(0, 70)
    alone = InputTransform(torch.float32)(second, *whole).clone()
    intake(first, *whole)
    intake(first, slice(0, 40), slice(0, 40))
    assert torch.equal(intake(second, *whole), alone)
