import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Generator

from geosiam.network.architecture import Convolution, NetworkConfig
from geosiam.network.siamese import SiameseNetwork
from geosiam.paper.fig2 import Clustering, _compare, cluster_sizes
from geosiam.paper.fig3 import roc
from geosiam.paper.fig4 import converged_at
from geosiam.paper.fig5 import chip_scores, mosaic_pair
from geosiam.paper.resolution import DenseRectangles, chip_network
from geosiam.paper.results import interval, median_worst, spread
from geosiam.paper.workbench import log_odds, mosaic, score
from geosiam.training.recipes import Schedule
from geosiam.training.sources import ChipStack

CHIPS = ChipStack(torch.randint(0, 200, (120, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(0)))


def clustering(**figures: float) -> Clustering:
    values = dict.fromkeys(Clustering.__dataclass_fields__, 0.5)
    return Clustering(**(values | figures))


def test_the_size_of_a_cluster_is_its_root_mean_square_radius() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 3, (5000, 3))
    labels = np.arange(5000) % 2
    points[labels == 1] += 100
    assert cluster_sizes(points, labels) == pytest.approx(3 * 3**0.5, rel=0.05)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30))
def test_the_roc_agrees_with_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    logits = np.array([value for value, _ in rows], float) + np.linspace(0, 0.1, len(rows))  # no ties
    same = np.array([flag for _, flag in rows])
    if same.all() or not same.any():
        return
    false, true = roc(logits, same)
    expected_false, expected_true, _ = roc_curve(same, logits, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false[1:])
    np.testing.assert_allclose(true, expected_true[1:])
    area = np.trapezoid(np.append(0, true), np.append(0, false))
    assert area == pytest.approx(roc_auc_score(same, logits))


@pytest.mark.parametrize(
    ("accuracy", "epoch"),
    [([0.9, 0.996, 0.997], 2), ([0.996, 0.9, 0.999], 3), ([0.999, 0.9], None), ([0.996], 1), ([], None)],
)
def test_convergence_is_after_the_last_epoch_below_the_level(accuracy: list[float], epoch: int | None) -> None:
    assert converged_at(accuracy) == epoch


def test_a_mosaic_scored_in_one_pass_is_its_chips_scored_alone() -> None:
    torch.manual_seed(0)
    network = SiameseNetwork(NetworkConfig.of_stride(8, width=4, features=8)).eval()
    before, after, truth = mosaic_pair(CHIPS, seed=3)
    assert before.shape == (3, 320, 320)
    assert truth.sum() == 50
    found = chip_scores(score(network, before, after))
    with torch.inference_mode():
        for row, col in [(0, 0), (9, 9), (4, 7)]:
            part = (slice(None), slice(32 * row, 32 * row + 32), slice(32 * col, 32 * col + 32))
            alone = torch.sigmoid(-network(before[part][None], after[part][None])).item()
            assert found[row, col] == pytest.approx(alone, abs=1e-5)
    odds = log_odds(network, before, after)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), score(network, before, after), atol=1e-5)


def test_a_mosaic_shows_anomalies_where_its_truth_says() -> None:
    _, after, truth = mosaic_pair(CHIPS, seed=4)
    blue = (after[2] == 1) & (after[:2] == 0).all(dim=0)
    seen = blue.reshape(10, 32, 10, 32).any(dim=3).any(dim=1).numpy()
    np.testing.assert_array_equal(seen, truth)


def test_mosaics_need_as_many_chips_as_they_have_places() -> None:
    chips = torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    assert mosaic(chips, 2)[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    with pytest.raises(ValueError, match="4 chips"):
        mosaic(chips[:3], 2)


@pytest.mark.parametrize("chip", [16, 32, 64])
def test_resolution_networks_see_exactly_a_chip(chip: int) -> None:
    field = chip_network(chip).receptive_field
    assert (field.size, field.stride) == (chip, 8)


def test_dense_rectangles_are_labeled_cell_by_cell() -> None:
    recipe = DenseRectangles(schedule=Schedule(epochs=1, steps=1, batch_size=32))
    batch = recipe.batch(CHIPS, Generator().manual_seed(0))
    assert batch.similar.shape == (32, 1, 5, 5)
    blue = [((image[:, 2] == 1) & (image[:, :2] == 0).all(dim=1)).float() for image in (batch.before, batch.after)]
    # The cells' own pixels are the middle 40 of 64 px, 8 x 8 each.
    share = [mask[:, 12:52, 12:52].reshape(32, 5, 8, 5, 8).mean(dim=(2, 4)) for mask in blue]
    clear = (((share[0] == 0) | (share[0] == 1)) & ((share[1] == 0) | (share[1] == 1))).unsqueeze(1)
    same = (share[0] == share[1]).float().unsqueeze(1)
    assert clear.float().mean() > 0.3
    assert torch.equal(batch.similar[clear], same[clear])
    assert (batch.weight[clear] == 1).all()


def test_a_claim_is_decided_by_confidence_not_by_the_mean() -> None:
    clear = {"b": [clustering(silhouette=0.8 + s / 100, davies_bouldin=0.3) for s in range(5)],
             "c": [clustering(silhouette=0.5, davies_bouldin=0.4 + s / 100) for s in range(5)]}  # fmt: skip
    assert _compare(clear, "b is better", "b", "c", ("silhouette", "davies_bouldin")).verdict == "holds"
    assert _compare(clear, "c is better", "c", "b", ("silhouette", "davies_bouldin")).verdict == "does not hold"
    assert _compare(clear, "mixed", "b", "c", ("silhouette", "accuracy")).verdict == "holds in part"
    noisy = {"b": [clustering(silhouette=s / 10) for s in (1, 9, 5, 2, 8)],
             "c": [clustering(silhouette=s / 10) for s in (8, 2, 4, 9, 1)]}  # fmt: skip
    assert _compare(noisy, "who knows", "b", "c", ("silhouette",)).verdict == "undecided"


def test_spreads_are_those_of_scipy() -> None:
    values = [0.91, 0.93, 0.92, 0.95]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)
    assert interval([1.0]) == float("inf")
    assert spread(values) == "0.927 ± 0.017"
    assert spread(values, 1, percent=True) == "92.8 ± 1.7 %"
    assert spread([0.5]) == "0.500 ± 0.000"
    assert median_worst(values) == "0.925 (0.910)"


def test_a_single_convolution_serves_as_a_network_too() -> None:
    network = SiameseNetwork(NetworkConfig((Convolution(4, 4, 3),), channels=1)).eval()
    image = torch.rand(1, 12, 16)
    assert score(network, image, image).shape == (3, 4)
