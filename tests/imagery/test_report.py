"""The report of a pair, and its warnings."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from scipy.ndimage import gaussian_filter, shift

from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair_report import warnings_on_shift
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.registration import Shift

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)


def warnings_of(*scenes, **options) -> str:
    with open_pair(*scenes, options=PairOptions(**options)) as pair:
        return "; ".join(pair.report.warnings)


def test_an_ordinary_pair_needs_no_words(write, texture) -> None:
    assert (
        warnings_of(write("a.tif", texture(height=300, width=300)), write("b.tif", texture(height=300, width=300)))
        == ""
    )


@pytest.mark.parametrize(("scale", "words"), [(0.5, "2x finer"), (3, "3x coarser"), (1.2, "")])
def test_other_pixel_sizes(scale: float, words: str, write, texture) -> None:
    other = write("b.tif", texture(height=400, width=400), transform=UTM @ Affine.scale(scale))
    found = warnings_of(write("a.tif", texture()), other, radiometry="none")
    assert words in found
    assert ("x finer" in found or "x coarser" in found) == bool(words)


def test_other_numbers_of_bands(write, texture) -> None:
    found = warnings_of(write("a.tif", texture(bands=1)), write("b.tif", texture()))
    assert "1 band(s) of the before scene are compared with 3 of the after scene" in found


def test_colors_in_another_order_in_one_scene_only(write, texture) -> None:
    bgr = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    plain = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined]
    options = {"photometric": "minisblack"}
    first, second = (
        write("a.tif", texture(), colors=bgr, **options),
        write("b.tif", texture(), colors=plain, **options),
    )
    assert "bands 1 to 3 of the before scene are blue, green, red" in warnings_of(first, second)
    assert "`bands`" not in warnings_of(first, first)
    assert "`bands`" not in warnings_of(first, second, bands=(3, 2, 1))


def test_values_of_different_types(write, texture) -> None:
    other = write("b.tif", texture().astype(np.uint16) * 100)
    assert "different data types (uint8, uint16)" in warnings_of(write("a.tif", texture()), other)


def test_scenes_that_look_very_different(write, texture) -> None:
    image = texture(height=300, width=300)
    found = warnings_of(write("a.tif", image), write("b.tif", (image * 0.3).astype(np.uint8)))
    assert "differ strongly in brightness or contrast" in found


def test_the_overlap_holds_where_a_correction_moves_the_scene(write) -> None:
    ground = gaussian_filter(np.random.default_rng(3).normal(size=(900, 900)), 1.5)
    ground = (127 + 400 * ground).clip(1, 255)
    image = np.repeat(ground[None], 3, axis=0).astype(np.uint8)
    moved = np.repeat(shift(ground, (8, 5), mode="nearest")[None], 3, axis=0).astype(np.uint8)
    second = write("b.tif", moved[:, 300:, 300:], transform=UTM @ Affine.translation(300, 300))
    with open_pair(write("a.tif", image), second, options=PairOptions(register=True)) as pair:
        assert any(pair.report.moved_px)
        rows, cols = np.nonzero(pair.read(pair.overlap.grown(50)).valid)
        assert rows.min() + pair.overlap.row_start - 50 == 292
        assert cols.min() + pair.overlap.col_start - 50 == 295


def test_radiometry_that_was_asked_for_and_is_not_applied(write, texture) -> None:
    few, other = write("a.tif", texture(height=12, width=15)), write("b.tif", texture(height=12, width=15, seed=4))
    assert "`radiometry=linear` is not applied: 180 valid pixels are too few" in warnings_of(
        few, other, radiometry="linear"
    )
    assert "radiometry" not in warnings_of(few, other)
    first, second = write("a.tif", texture(seed=1)), write("b.tif", texture(seed=2))
    assert "`radiometry=linear` is not applied: the scenes are not correlated" in warnings_of(
        first, second, radiometry="linear"
    )
    mixed = write("b.tif", np.concatenate([texture(seed=1)[:2] // 2, texture(seed=2)[2:]]))
    assert "`radiometry=linear` is applied in part: the scenes are not correlated in channel 3" in warnings_of(
        first, mixed, radiometry="linear"
    )


def test_a_moved_scene_is_told_in_signed_pixels() -> None:
    (warning,) = warnings_on_shift(None, (3.0, 0.0), None, register="auto")
    assert (
        warning == "the after scene is shifted; it was moved by -3 rows and +0 columns (`register=none` disables this)"
    )
    assert warnings_on_shift(None, (3.0, 0.0), None, register="shift") == []


def test_what_remains_of_a_shift_is_told_with_a_remedy_if_there_is_one() -> None:
    remaining = Shift(3.0, 0.0, 1.0, 9)
    fact = "the scenes are misregistered by about 3.0 px"
    remedies = {"auto": "; consider `register=field`", "none": "; consider `register=auto`", "shift": "", "field": ""}
    for register, remedy in remedies.items():
        assert warnings_on_shift(remaining, (0.0, 0.0), None, register=register) == [fact + remedy]


def test_a_bend_that_is_left_is_told_where_it_is_known() -> None:
    local = {"applied": False, "median_px": 2.0, "p95_px": 3.1, "largest_px": 5.0, "agreement": 0.9}
    local = {**local, "unknown_fraction": 0.2}
    (warning,) = warnings_on_shift(None, (0.0, 0.0), local, register="auto")
    fact = "the scenes bend apart by 3.1 px (95th percentile), which is not corrected"
    assert warning == f"{fact}; consider `register=field`"
    for change in ({"p95_px": 1.9}, {"unknown_fraction": 0.8}, {"agreement": 0.7}):
        assert warnings_on_shift(None, (0.0, 0.0), {**local, **change}, register="auto") == []


def test_values_of_another_unit_are_not_said_to_be_stretched_separately(write, texture) -> None:
    reflectance = texture().astype(np.float32) / 255
    stored = write("b.tif", (reflectance * 10_000).astype(np.uint16))
    with rasterio.open(stored, "r+") as file:
        file.scales = (1e-4,) * 3
    found = warnings_of(write("a.tif", reflectance), stored)
    assert "store values in different units; their scale and offset are applied" in found
    assert "stretched separately" not in found
