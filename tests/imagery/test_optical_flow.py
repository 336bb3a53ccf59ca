"""Local matches and the stiff field through them, on ground whose displacement is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bent_scenes import Bend, texture
from geosiam.imagery.optical_flow import FINEST_PX, NODE_PX, Masked, Matches, match, smooth_field

SIDE = 640
BENDS = [
    Bend(amplitude=0.0),
    Bend((7.3, -4.6), amplitude=0.0),
    Bend((-41.0, 23.5), amplitude=0.0),
    Bend((0.0, 0.0), amplitude=6.0, wavelength=600.0),
    Bend((12.4, 5.0), amplitude=9.0, wavelength=800.0),
    Bend((0.0, 3.0), amplitude=3.0, wavelength=300.0),
]


def masked(image: np.ndarray, valid: np.ndarray | None = None) -> Masked:
    """Return a scene in [0, 255] at the resolution that is matched."""
    valid = np.ones(image.shape, bool) if valid is None else valid

    def averaged(array: np.ndarray) -> np.ndarray:
        height, width = (side // FINEST_PX for side in array.shape)
        return array.reshape(height, FINEST_PX, width, FINEST_PX).mean(axis=(1, 3))

    share = averaged(valid.astype(float))
    values = averaged(np.where(valid, image / 255, 0)) / np.maximum(share, 0.25)
    inside = share > 0.49
    return Masked((values * inside).astype(np.float32), inside.astype(np.float32))


def fields(before: Masked, after: Masked, sigma: float = 1.0) -> tuple[Matches, np.ndarray]:
    matches = match(before, after)
    prior = np.median(matches.displacement[:, matches.reliable], axis=1) if matches.reliable.any() else np.zeros(2)
    prior = np.zeros_like(matches.displacement) + prior.astype(np.float32)[:, None, None]
    return matches, smooth_field(matches, sigma, prior)[0]


def errors(field: np.ndarray, bend: Bend, margin: int = 2) -> np.ndarray:
    """Return the distances in pixels from the true displacement, but for nodes whose counterpart may lie outside."""
    reach = margin + int(np.hypot(*bend.shift)) // NODE_PX
    distances = np.hypot(*(field - bend.at_nodes(field.shape[1:])))
    return distances[reach:-reach, reach:-reach]


@pytest.mark.parametrize("bend", BENDS, ids=str)
def test_shifts_and_bends_are_recovered(bend: Bend) -> None:
    ground = texture(SIDE, SIDE)
    noise = np.random.default_rng(3).normal(0, 3, ground.shape)
    second = bend.applied(ground) * 0.8 + 30 + noise  # under another exposure
    matches, field = fields(masked(ground), masked(second))
    found = errors(field, bend)
    assert np.median(found) < 0.3
    assert np.percentile(found, 95) < 0.8
    assert matches.reliable[4:-4, 4:-4].mean() > 0.9


def test_tiles_are_not_matched_a_period_off() -> None:
    bend, ground = Bend((0.0, 0.0), amplitude=8.0, wavelength=500.0), texture(SIDE, SIDE)
    rows, cols = np.indices(ground.shape)
    uneven = gaussian_filter(np.random.default_rng(1).normal(size=ground.shape), 6)
    strength = 30 * (1 + 0.25 * uneven / uneven.std())
    tiles = 120 + strength * np.sin(2 * np.pi / 12 * rows) * np.sin(2 * np.pi / 15 * cols)
    ground[:, SIDE // 3 :] = tiles[:, SIDE // 3 :]
    noise = np.random.default_rng(3).normal(0, 2, ground.shape)
    _, field = fields(masked(ground), masked(bend.applied(ground) + noise))
    found = errors(field, bend)
    assert np.median(found) < 0.1
    assert np.percentile(found, 95) < 0.8


def test_other_content_does_not_bend_the_field_around_it() -> None:
    bend, ground = Bend((5.0, -2.0), amplitude=4.0), texture(SIDE, SIDE)
    second = bend.applied(ground)
    second[200:330, 260:400] = texture(SIDE, SIDE, seed=8)[200:330, 260:400]
    _, field = fields(masked(ground), masked(second), sigma=2.0)
    found = errors(field, bend)
    assert np.median(found) < 0.3
    assert np.percentile(found, 95) < 0.8


@pytest.mark.parametrize(("side", "step"), [(20, 6), (20, 20), (45, 6)])
def test_what_moved_does_not_bend_the_field(side: int, step: int) -> None:
    bend, ground = Bend((0.0, 0.0), amplitude=4.0), texture(SIDE, SIDE)
    before, after = ground.copy(), bend.applied(ground)
    _, expected = fields(masked(before), masked(after), sigma=2.0)
    thing = texture(side, side, seed=5) + 40
    down, right = np.rint(bend.displacement(np.float64(300), np.float64(280))).astype(int)
    down += step
    before[300 : 300 + side, 280 : 280 + side] = thing
    after[300 + down : 300 + down + side, 280 + right : 280 + right + side] = thing
    _, field = fields(masked(before), masked(after), sigma=2.0)
    changed = np.hypot(*(field - expected))
    assert changed.max() < 0.25 * step
    assert np.percentile(changed, 95) < 0.1
    assert np.percentile(errors(field, bend), 95) < 0.8


def test_flat_ground_has_no_estimate_and_keeps_the_field_of_its_surroundings() -> None:
    bend = Bend((6.0, 3.0), amplitude=2.0, wavelength=800.0)
    ground = texture(SIDE, SIDE)
    ground[224:416, 224:416] = 120
    second = bend.applied(ground)
    rng = np.random.default_rng(1)
    matches, field = fields(*(masked(image + rng.normal(0, 0.3, image.shape)) for image in (ground, second)), sigma=2.0)
    inner = slice(19, 21), slice(19, 21)  # far from the textured ground, whatever the window
    assert not matches.reliable[inner].any()
    assert matches.valid.all()
    found = np.hypot(*(field - bend.at_nodes(field.shape[1:])))
    assert np.percentile(found[3:-3, 3:-3], 95) < 0.8


def test_nothing_is_told_of_flat_images() -> None:
    flat = masked(np.full((256, 256), 100.0))
    matches, field = fields(flat, flat)
    assert not matches.reliable.any()
    assert not field.any()


def test_ground_without_data_does_not_bend_the_field() -> None:
    """Under the mask lies something very bright that stands still while the ground moves."""
    bend, ground = Bend((8.0, -5.0), amplitude=3.0), texture(SIDE, SIDE)
    second = bend.applied(ground)
    rows, cols = np.indices(ground.shape)
    valid = (rows - 320) ** 2 + (cols - 300) ** 2 > 90**2
    valid &= cols - rows < 400
    ground, second = (np.where(valid, image, 100_000) for image in (ground, second))
    matches, field = fields(masked(ground, valid), masked(second, valid))
    assert not matches.valid[20, 18]
    assert not matches.reliable[~matches.valid].any()
    distances = np.hypot(*(field - bend.at_nodes(field.shape[1:])))[2:-2, 2:-2]
    assert np.percentile(distances[matches.reliable[2:-2, 2:-2]], 95) < 0.8


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_tell_of_one_direction_only(axis: int) -> None:
    """Across them the displacement is known; along them there is hardly any information."""
    line = texture(1, SIDE)[0]
    stripes = np.broadcast_to(line if axis else line[:, None], (SIDE, SIDE))
    moved = np.roll(stripes, (4, 4), axis=(0, 1))
    matches, _ = fields(masked(stripes), masked(moved))
    inner = np.s_[:, 4:-4, 4:-4]
    down_down, down_right, right_right = matches.information[inner]
    along, across = (down_down, right_right) if axis else (right_right, down_down)
    assert (across > 1e3 * along).all()
    assert (np.abs(down_right) < 0.05 * across).all()
    assert np.abs(matches.displacement[inner][axis] - 4).max() < 0.3


def test_stripes_take_from_their_neighbors_what_they_do_not_know() -> None:
    bend = Bend((3.0, 5.0), amplitude=0.0)
    ground = texture(SIDE, SIDE)
    ground[240:400, 240:400] = texture(1, SIDE)[0, 240:400]  # columns
    _, field = fields(masked(ground), masked(bend.applied(ground)), sigma=4.0)
    assert np.percentile(np.hypot(*(field - bend.at_nodes(field.shape[1:])))[3:-3, 3:-3], 95) < 0.8


def test_the_field_through_exact_matches_is_exact() -> None:
    """A constant is kept at any stiffness, with any information."""
    rng = np.random.default_rng(0)
    shape = (20, 30)
    root = rng.normal(size=(2, 2, *shape))
    information = np.stack([(root[i] * root[j]).sum(axis=0) for i, j in ((0, 0), (0, 1), (1, 1))]).astype(np.float32)
    constant = np.broadcast_to(np.array([3.0, -2.0], np.float32)[:, None, None], (2, *shape))
    matches = Matches(
        constant, 1e3 * information, np.ones(shape, bool), np.ones(shape, bool), np.ones(shape, np.float32)
    )
    for sigma in (0.7, 2.0, 4.0):
        field, weight = smooth_field(matches, sigma, np.zeros_like(constant))
        assert np.abs(field - constant).max() < 0.02
        assert weight.min() > 0.99


def test_contradictions_lose_their_weight() -> None:
    shape = (24, 24)
    displacement = np.zeros((2, *shape), np.float32)
    displacement[:, 10:12, 10:12] = 8
    ones = np.ones(shape, np.float32)
    matches = Matches(displacement, np.stack([ones, 0 * ones, ones]) * 100, ones > 0, ones > 0, ones)
    field, weight = smooth_field(matches, 2.0, np.zeros_like(displacement))
    assert weight[10:12, 10:12].max() < 0.01
    assert np.abs(field).max() < 0.1
    assert np.median(weight) > 0.9


def test_coarser_nodes_hold_the_weighted_mean() -> None:
    rng = np.random.default_rng(2)
    shape = (8, 12)
    displacement = rng.normal(size=(2, *shape)).astype(np.float32)
    weight = rng.uniform(1, 5, shape).astype(np.float32)
    reliable = rng.random(shape) < 0.6
    information = np.stack([weight, 0 * weight, weight])
    coarse = Matches(displacement, information, reliable, reliable, weight).coarsened(4)
    for i, j in np.ndindex(2, 3):
        part = np.s_[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        chosen = reliable[part]
        expected = [np.average(image[part][chosen], weights=weight[part][chosen]) for image in displacement]
        assert coarse.displacement[:, i, j] == pytest.approx(expected, abs=1e-4)
        assert coarse.information[[0, 2], i, j] == pytest.approx([weight[part][chosen].mean()] * 2, rel=1e-4)
    assert coarse.reliable.all()
