"""From own values to [0, 1]."""

import numpy as np
import pytest
import rasterio

from geosiam.imagery.grid import Window
from geosiam.imagery.normalization import FULL_BYTE, Stretch, Unit, choose_stretches
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair

RNG = np.random.default_rng(2)


def pixels(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return before.reshape(3, -1), after.reshape(3, -1)


def shared(image: np.ndarray) -> Stretch:
    low, high = np.percentile(image.reshape(3, -1), (0.5, 99.5), axis=1)
    return Stretch(tuple(low), tuple(high))


def own(image: np.ndarray) -> Stretch:
    values, (low, high) = image.reshape(3, -1), np.percentile(image.reshape(3, -1), (0.5, 99.5), axis=1)
    ends = np.maximum(low - (high - low) / 4, values.min(1)), np.minimum(high + (high - low) / 4, values.max(1))
    return Stretch(*map(tuple, ends))


def same(stretch: Stretch, expected: Stretch) -> None:
    assert stretch.low == pytest.approx(expected.low)
    assert stretch.high == pytest.approx(expected.high)


def test_bytes_keep_their_full_range() -> None:
    image = RNG.integers(100, 110, (3, 60, 60), dtype=np.uint8)
    assert choose_stretches(("uint8", "uint8"), pixels(image, image)) == (FULL_BYTE, FULL_BYTE)
    np.testing.assert_allclose(FULL_BYTE.apply(image), image / 255, rtol=1e-6)


def test_similar_scenes_share_one_stretch() -> None:
    before, after = RNG.normal(500, 100, (3, 60, 60)), RNG.normal(550, 90, (3, 60, 60))
    first, second = choose_stretches(("int16", "int16"), pixels(before, after))
    assert first == second
    same(first, shared(np.concatenate([before, after], axis=1)))


@pytest.mark.parametrize("gain", [0.25, 4.0])
def test_a_much_darker_scene_is_not_squeezed(gain: float) -> None:
    before, after = RNG.normal(0.5, 0.1, (3, 60, 60)), gain * RNG.normal(0.5, 0.1, (3, 60, 60))
    first, second = choose_stretches(("float32", "float32"), pixels(before, after))
    same(first, own(before))
    same(second, own(after))


@pytest.mark.parametrize(("ground", "thing"), [(10_000, 5_000), (0, 3), (500, 60_000)])
@pytest.mark.parametrize("side", [4, 30])  # less than a percent of the ground, and a quarter of it
def test_a_uniform_scene_shares_the_range_of_what_stands_on_it(ground: int, thing: int, side: int) -> None:
    before = np.full((3, 60, 60), ground, np.uint16)
    after = before.copy()
    after[:, 10 : 10 + side, 20 : 20 + side] = thing
    for one, other in ((before, after), (after, before)):
        stretch, second = choose_stretches(("uint16", "uint16"), pixels(one, other))
        assert stretch == second
        differs = stretch.apply(one) != stretch.apply(other)
        assert np.array_equal(differs, one != other)
        assert np.ptp([stretch.apply(one), stretch.apply(other)]) == 1


def test_other_types_have_their_own_stretch() -> None:
    before, after = RNG.integers(0, 200, (3, 60, 60), dtype=np.uint8), RNG.normal(1e4, 500, (3, 60, 60))
    first, second = choose_stretches(("uint8", "uint16"), pixels(before, after))
    assert first == FULL_BYTE
    same(second, own(after))


def test_a_constant_scene_beside_one_of_another_type_has_a_range() -> None:
    before, after = np.full((3, 60, 60), 200.0), RNG.integers(0, 60_000, (3, 60, 60), dtype=np.uint16)
    for types, images in ((("float32", "uint16"), (before, after)), (("uint16", "float32"), (after, before))):
        for stretch, image in zip(choose_stretches(types, pixels(*images)), images, strict=True):
            assert np.isfinite(stretch.apply(image)).all()


def test_scenes_of_two_types_clip_the_same_ground() -> None:
    before = RNG.integers(40, 200, (3, 60, 60), dtype=np.uint8)
    before[:, :2] = 250  # 3 % of the ground
    before[:, 2] = 20
    after = before * np.float32(1 / 300)
    stretches = choose_stretches(("uint8", "float32"), pixels(before, after))
    first, second = (stretch.apply(image) for stretch, image in zip(stretches, (before, after), strict=True))
    for channel in range(3):
        assert len(np.unique(second[channel])) == len(np.unique(first[channel]))


SIZES = {
    "float32": (0.0, 7.0, 6e4, 1.27e30, -1.27e30, 3e38),
    "float64": (0.0, 7.0, 1.27e30, -1.27e30, 1.7e308, -1.7e308),
    "int32": (0, 7, 2_000_000_000, -2_000_000_000),
    "uint16": (0, 60_000),
}


@pytest.mark.parametrize(("dtype", "value"), [(dtype, value) for dtype, values in SIZES.items() for value in values])
def test_a_single_value_of_any_size_becomes_a_finite_one(dtype: str, value: float) -> None:
    image = np.full((3, 20, 20), value, dtype)
    first, second = choose_stretches((dtype, dtype), pixels(image, image))
    for stretch in (first, second):
        scaled = stretch.apply(image)
        assert np.isfinite(scaled).all()
        assert np.ptp(scaled) == 0


MIDDLES, WIDTHS = (0.0, 1e8, -1.3e15, 1.27e30, 1e299), (1e-290, 1e-30, 1.0, 1e12, 3e38, 1e299)


@pytest.mark.parametrize(("middle", "width"), [(m, w) for m in MIDDLES for w in WIDTHS if w > 1e6 * np.spacing(abs(m))])
def test_values_of_any_size_become_shares_of_their_range(middle: float, width: float) -> None:
    image = middle + width * RNG.uniform(-0.5, 0.5, (3, 40, 40))
    stretch, _ = choose_stretches(("float64", "float64"), pixels(image, image))
    low, high = np.percentile(image.reshape(3, -1) / 2, (0.5, 99.5), axis=1)
    expected = ((image / 2 - low[:, None, None]) / (high - low)[:, None, None]).clip(0, 1)
    np.testing.assert_allclose(stretch.apply(image), expected, atol=1e-4)


def test_large_numbers_of_few_steps_are_told_apart() -> None:
    image = np.float32(1e8) + 8 * RNG.integers(0, 5, (3, 40, 40)).astype(np.float32)
    stretch, _ = choose_stretches(("float32", "float32"), pixels(image, image))
    np.testing.assert_allclose(stretch.apply(image), (image - np.float32(1e8)) / 32, atol=1e-5)


@pytest.mark.data
def test_a_real_scene_of_huge_values(data_dir) -> None:
    path = data_dir / "odd" / "riotiler_fixtures__cog_fullearth.tif"
    with open_pair(path, path) as pair:
        block = pair.read(Window(0, 216, 0, 432))
    assert np.isfinite(block.before).all()
    assert block.before[:, block.valid].std() > 0.1


def test_scenes_in_different_units_share_the_stretch_of_what_they_measure() -> None:
    measured = RNG.uniform(0.1, 0.5, (3, 60, 60))
    before, after = np.rint(measured * 10_000), np.rint(measured * 10_000) + 1000  # as Sentinel-2 changed in 2022
    units = Unit.of([1e-4] * 3, [0] * 3), Unit.of([1e-4] * 3, [-0.1] * 3)
    first, second = choose_stretches(("uint16", "uint16"), pixels(before, after), units)
    np.testing.assert_allclose(first.apply(before), second.apply(after), atol=1e-6)
    turned = Unit.of([-1e-4] * 3, [0.6] * 3)
    first, second = choose_stretches(("uint8", "uint16"), pixels(before, 6000 - before), (units[0], turned))
    np.testing.assert_allclose(first.apply(before), second.apply(6000 - before), atol=1e-6)
    assert Unit.of([0, np.nan, 2], [3, 4, np.inf]) == Unit()


def test_units_are_read_from_the_files(write, texture) -> None:
    image = texture(height=200, width=200).astype(np.int16)
    before, after = write("a.tif", image), write("b.tif", 2 * image + 100)
    with rasterio.open(after, "r+") as file:
        file.scales, file.offsets = (0.5, 0.5, 0.5), (-50, -50, -50)
    with open_pair(before, after, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(Window(0, 200, 0, 200))
        assert any("different units" in warning for warning in pair.report.warnings)
    np.testing.assert_allclose(block.before, block.after, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("levels", [2, 10])
def test_masks_and_class_maps_use_the_whole_range(levels: int, dtype: str, write) -> None:
    classes = np.indices((60, 60)).sum(axis=0)[None] % levels
    paths = [write(f"{name}.tif", image.astype(dtype)) for name, image in (("a", classes), ("b", levels - 1 - classes))]
    with open_pair(*paths, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(Window(0, 60, 0, 60))
        warned = any("no value above" in line for line in pair.report.warnings)
    np.testing.assert_allclose(block.before[0], classes[0] / (levels - 1), atol=1e-6)
    np.testing.assert_allclose(block.after[0], 1 - classes[0] / (levels - 1), atol=1e-6)
    assert warned == (dtype == "uint8")


def test_classes_that_one_date_lacks_keep_their_place(write) -> None:
    classes = np.indices((60, 60)).sum(axis=0)[None].astype(np.uint8) % 2
    more = classes.copy()
    more[:, 30:50, 30:50] = 8
    with open_pair(write("a.tif", classes), write("b.tif", more), options=PairOptions(radiometry="none")) as pair:
        block = pair.read(Window(0, 60, 0, 60))
    np.testing.assert_array_equal(block.before[:, :20], block.after[:, :20])
    np.testing.assert_array_equal(block.after[0], np.float32(more[0]) / 8)


def test_masks_of_different_codes_are_mentioned(write) -> None:
    mask = np.indices((60, 60)).sum(axis=0)[None].astype(np.uint8) % 2
    with open_pair(write("a.tif", mask * 255), write("b.tif", mask)) as pair:
        assert any("b.tif holds no value above 1" in line for line in pair.report.warnings)
        assert pair.stretches == (FULL_BYTE, FULL_BYTE)
