import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy import ndimage

from geosiam.errors import OptionError
from geosiam.synthesis.insertion import insert_anomalies, nuisance

GRAY = np.random.default_rng(0).integers(60, 190, (3, 320, 400)).astype(np.uint8)


def test_the_papers_protocol():
    scene = insert_anomalies(np.tile(GRAY, (1, 3, 3)), seed=1)
    assert len(scene.truth) == 100
    assert (scene.image[:, scene.mask > 0] == np.array([[0], [0], [255]])).all()
    np.testing.assert_array_equal(scene.image[:, scene.mask == 0], np.tile(GRAY, (1, 3, 3))[:, scene.mask == 0])
    for found in ndimage.find_objects(scene.mask):
        assert all(5 <= s.stop - s.start <= 15 for s in found)


@given(
    st.sampled_from(["rectangle", "ellipse", "polygon", "mixed"]),
    st.sampled_from(["blue", "flat", "texture", "self-texture"]),
    st.integers(0, 99),
    st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_truth_and_mask_agree_and_objects_keep_their_gap(shape, fill, seed, gap):
    scene = insert_anomalies(GRAY, count=25, size_px=(5, 22), shape=shape, fill=fill, seed=seed, min_gap_px=gap)
    assert [t.id for t in scene.truth] == list(range(1, len(scene.truth) + 1))
    boxes = ndimage.find_objects(scene.mask)
    for truth, box in zip(scene.truth, boxes, strict=True):
        area = (scene.mask == truth.id).sum()
        assert area == pytest.approx(truth.geometry.area, rel=0.35, abs=4)
        assert truth.geometry.buffer(1).contains(
            shapely.box(box[1].start + 0.5, box[0].start + 0.5, box[1].stop - 0.5, box[0].stop - 0.5).centroid
        )
    if gap:
        _, count = ndimage.label(scene.mask > 0, np.ones((3, 3)))
        assert count == len(scene.truth)
    near = ndimage.grey_dilation(scene.mask, (2 * gap + 1, 2 * gap + 1))
    assert (near[scene.mask > 0] >= scene.mask[scene.mask > 0]).all()


def test_rectangles_are_burnt_exactly():
    scene = insert_anomalies(GRAY, count=20, seed=3)
    burnt = rasterize([(t.geometry, t.id) for t in scene.truth], out_shape=scene.mask.shape)
    np.testing.assert_array_equal(burnt, scene.mask)


def test_objects_keep_the_gap_exactly():
    scene = insert_anomalies(GRAY, count=200, size_px=(5, 15), min_gap_px=8, seed=5)
    boxes = shapely.STRtree([t.geometry for t in scene.truth])
    for truth in scene.truth:
        grown = shapely.box(*np.add(truth.geometry.bounds, (-7.9, -7.9, 7.9, 7.9)))
        assert len(boxes.query(grown, predicate="intersects")) == 1


def test_textures_come_from_where_they_should():
    donor = np.full_like(GRAY, 7)
    scene = insert_anomalies(GRAY, count=5, fill="texture", donor=donor, seed=0)
    assert (scene.image[:, scene.mask > 0] == 7).all()
    own = insert_anomalies(GRAY, count=5, fill="self-texture", seed=0)
    assert set(np.unique(own.image)) <= set(np.unique(GRAY))


def test_a_full_or_tiny_scene_gets_what_fits():
    assert 0 < len(insert_anomalies(GRAY[:, :40, :40], count=100).truth) < 10
    assert insert_anomalies(GRAY[:, :4, :4], count=3).truth == []
    assert insert_anomalies(GRAY[:, :16, :16], count=1, fill="flat", size_px=(16, 16)).mask.all()


def test_what_nobody_could_see_is_no_anomaly():
    assert insert_anomalies(GRAY[:, :16, :16], count=1, fill="self-texture", size_px=(16, 16)).truth == []
    ground = GRAY.copy()
    ground[:, :, 40:] = np.array((2, 0, 253), np.uint8)[:, None, None]
    inserted = insert_anomalies(ground, count=30, size_px=(5, 8), fill="blue")
    assert 0 < len(inserted.truth) < 30
    assert not inserted.mask[:, 48:].any()
    assert [item.id for item in inserted.truth] == sorted(set(inserted.mask.ravel()) - {0})


@pytest.mark.parametrize(
    ("image", "options", "subject"),
    [
        (GRAY[0], {}, "`image`"),
        (GRAY.astype(float), {}, "`image`"),
        (GRAY, {"size_px": (9, 5)}, "`size_px="),
        (GRAY, {"shape": "star"}, "`shape=star`"),
        (GRAY, {"fill": "gold"}, "`fill=gold`"),
    ],
)
def test_nonsense_is_refused(image, options, subject):
    with pytest.raises(OptionError, match=f"^{subject}"):
        insert_anomalies(image, **options)


def test_nuisance_does_what_it_says():
    flat = np.full((3, 50, 60), 100, np.uint8)
    assert (nuisance(flat, noise_sigma=0) == 123).all()
    assert (nuisance(flat, gain=1, offset=0, gamma=2, noise_sigma=0) == round(255 * (100 / 255) ** 2)).all()
    noisy = nuisance(flat, gain=1, offset=0, noise_sigma=4, seed=1).astype(float)
    assert noisy.std() == pytest.approx(4, abs=0.2)
    moved = nuisance(GRAY, gain=1, offset=0, noise_sigma=0, shift_px=(2, 1))
    np.testing.assert_array_equal(moved[:, 1:, 2:], GRAY[:, :-1, :-2])
    blurred = nuisance(GRAY, gain=1, offset=0, noise_sigma=0, shift_px=(0, 0), blur_px=1)
    assert blurred.std() < 0.5 * GRAY.std()
    np.testing.assert_array_equal(nuisance(GRAY, seed=3), nuisance(GRAY, seed=3))
