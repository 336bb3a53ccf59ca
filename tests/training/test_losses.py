import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator
from torch.nn.functional import binary_cross_entropy

from geosiam.network.architecture import Convolution, NetworkConfig
from geosiam.network.siamese import SiameseNetwork, euclidean_distance
from geosiam.training.recipes import Batch, Contrastive, CrossEntropy

NETWORK = SiameseNetwork(NetworkConfig((Convolution(4, 2, 4), Convolution(3, 1, 3)), channels=1, batch_norm=False))


def labelled(similar: list[float], weight: list[float] | None = None) -> Batch:
    image = torch.zeros(len(similar), 1, 8, 8)
    labels = torch.tensor(similar).view(-1, 1, 1, 1)
    weights = torch.ones_like(labels) if weight is None else torch.tensor(weight).view(-1, 1, 1, 1)
    return Batch(image, image, labels, weights)


def test_cells_without_weight_do_not_count() -> None:
    logits = torch.tensor([0.0, 100.0]).view(-1, 1, 1, 1)
    assert CrossEntropy().loss(logits, labelled([0.0, 0.0], [1.0, 0.0])).item() == pytest.approx(math.log(2))
    assert Contrastive(1.0).loss(logits * 0, labelled([1.0, 0.0], [1.0, 0.0])).item() == pytest.approx(0.25)


def test_cross_entropy_is_small_where_the_network_is_right_as_equation_5_should_read() -> None:
    logits = torch.tensor([3.0, -2.0, 0.5]).view(-1, 1, 1, 1)
    batch = labelled([1.0, 0.0, 1.0])
    expected = binary_cross_entropy(torch.sigmoid(logits), batch.similar)
    assert CrossEntropy().loss(logits, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert CrossEntropy().loss(-logits, batch) > CrossEntropy().loss(logits, batch)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from([0.0, 1.0])), min_size=1, max_size=8), st.floats(0.1, 4.0)
)  # fmt: skip
def test_the_contrastive_loss_is_equation_2(pairs: list[tuple[float, float]], margin: float) -> None:
    distance, similar = (np.array(values) for values in zip(*pairs, strict=True))
    expected = np.mean(similar * distance**2 + (1 - similar) * np.maximum(0, margin - distance) ** 2)
    logits = margin / 2 - torch.tensor(distance, dtype=torch.float64).view(-1, 1, 1, 1)
    loss = Contrastive(margin).loss(logits, labelled(similar.tolist()))
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("similar", [0.0, 1.0])
def test_the_gradient_is_finite_where_both_features_agree(similar: float) -> None:
    image = torch.rand((1, 1, 8, 8), generator=Generator().manual_seed(0))
    objective = Contrastive()
    loss = objective.loss(objective.logits(NETWORK, image, image.clone()), labelled([similar]))
    NETWORK.zero_grad()
    loss.backward()
    gradients = [p.grad for p in NETWORK.encoder.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)
    assert any(gradient is not None for gradient in gradients)
    # What the bare root of the paper's listing gives instead:
    feature = torch.zeros(3, requires_grad=True)
    ((feature - torch.zeros(3)).square().sum()).sqrt().backward()
    assert torch.isnan(feature.grad).all()


def test_the_distance_is_the_euclidean_norm() -> None:
    generator = Generator().manual_seed(1)
    a, b = (torch.randn((2, 5, 3, 4), generator=generator) for _ in range(2))
    torch.testing.assert_close(euclidean_distance(a, b), torch.linalg.vector_norm(a - b, dim=1, keepdim=True))


def test_pairs_closer_than_half_the_margin_are_judged_similar() -> None:
    generator = Generator().manual_seed(2)
    a, b = (torch.rand((6, 1, 8, 8), generator=generator) for _ in range(2))
    distance = euclidean_distance(NETWORK.encode(a), NETWORK.encode(b))
    margin = 2 * distance.median().item()
    logits = Contrastive(margin).logits(NETWORK, a, b)
    assert torch.equal(logits > 0, distance < margin / 2)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_a_margin_is_a_distance(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        Contrastive(margin)
