import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scoring import random_pair, streamed

from geosiam.detection import scoring
from geosiam.detection.scoring import Scorer
from geosiam.network.siamese import NetworkConfig, SiameseNetwork
from geosiam.network.weights import Model, ModelCard


def make_model(stride: int, subcells: int) -> Model:
    torch.manual_seed(5)
    config = NetworkConfig.of_stride(stride, width=8, features=16, hidden=8, subcells=subcells)
    network = SiameseNetwork(config)
    with torch.no_grad():
        network(torch.rand(8, 3, 48, 48), torch.rand(8, 3, 48, 48))  # moves the statistics of the batch norms
    return Model(network.eval(), ModelCard("tiny", "survey", "", config, "", 0, 0), "tiny")


MODELS = {key: make_model(*key) for key in ((4, 2), (8, 2), (8, 4))}


@pytest.mark.parametrize("key", MODELS)
@settings(deadline=None, max_examples=15)
@given(height=st.integers(1, 150), width=st.integers(1, 150), seed=st.integers(0, 3))
def test_tiled_scores_of_subcells_equal_the_whole_scene(key: tuple, height: int, width: int, seed: int) -> None:
    pair, model = random_pair(height, width, seed), MODELS[key]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK_PX", 64)
        patch.setattr(scoring, "FORWARD_PX", 24)
        scores = streamed(pair, Scorer.of_model(model, device="cpu", precision="fp32"))
    field = model.card.network.receptive_field
    margins = [(field.offset, field.overhang + -size % field.stride) for size in (height, width)]
    padded = [np.pad(image, ((0, 0), *margins), mode="reflect") for image in (pair.before, pair.after)]
    with torch.inference_mode():
        logits = model.network(*(torch.from_numpy(image)[None] for image in padded))
    expected = torch.sigmoid(-logits)[0, 0].numpy()
    assert scores.shape == expected.shape == (-(-height // field.stride), -(-width // field.stride))
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
