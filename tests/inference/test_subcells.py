from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scoring import INTEGERS, ArrayPair, random_pair, streamed

from geosiam.inference import scorer as scorer_module
from geosiam.inference.scorer import Scorer, lazy_scores
from geosiam.network.architecture import NetworkConfig
from geosiam.network.cpu_layers import RowWinograd
from geosiam.network.siamese import SiameseNetwork
from geosiam.network.weights import Model, ModelCard, load_model


def make_model(stride: int, subcells: int, scales: tuple[int, ...] = (1,)) -> Model:
    torch.manual_seed(5)
    symmetric = len(scales) > 1
    config = NetworkConfig.of_stride(
        stride, width=8, features=16, hidden=8, subcells=subcells, scales=scales, symmetric=symmetric
    )
    network = SiameseNetwork(config)
    side = config.receptive_field.size + 16
    with torch.no_grad():
        network(torch.rand(8, 3, side, side), torch.rand(8, 3, side, side))  # moves the statistics of the batch norms
        for discriminator in network.discriminators[1:]:
            discriminator.layers[2].bias -= 1  # so that coarser scales have something to say
    return Model(network.eval(), ModelCard("tiny", "survey", "", config, "", 0, 0), "tiny")


MODELS = {key: make_model(*key) for key in ((4, 2), (8, 2), (8, 4), (4, 2, (1, 2)), (4, 1, (1, 2, 4)))}


def whole_scene(pair: ArrayPair, model: Model) -> np.ndarray:
    """Return the scores of one forward pass over the reflected scene, by the network as it was trained."""
    field = model.card.network.receptive_field
    margins = [(field.offset, field.overhang + -size % field.stride) for size in pair.valid.shape]
    padded = [np.pad(image, ((0, 0), *margins), mode="reflect") for image in (pair.before, pair.after)]
    with torch.inference_mode():
        logits = model.network(*(torch.from_numpy(image)[None] for image in padded))
    return torch.sigmoid(-logits)[0, 0].numpy()


@pytest.mark.parametrize("key", MODELS)
@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 150), width=st.integers(1, 150), seed=st.integers(0, 3))
def test_tiled_scores_of_subcells_equal_the_whole_scene(key: tuple, height: int, width: int, seed: int) -> None:
    pair, model = random_pair(height, width, seed), MODELS[key]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "BLOCK_PX", 64)
        patch.setattr(scorer_module, "FORWARD_PX", 24)
        scores = streamed(pair, Scorer.of_model(model, device="cpu", precision="fp32"))
    expected = whole_scene(pair, model)
    stride = model.card.network.receptive_field.stride
    assert scores.shape == expected.shape == (-(-height // stride), -(-width // stride))
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["survey", "survey-fast", "tarp"])
def test_what_ships_scores_in_blocks_as_its_network_scores_the_whole_scene(name: str) -> None:
    pair, model = random_pair(330, 250), load_model(name)
    scorer = Scorer.of_model(model, device="cpu", precision="fp32")
    assert any(isinstance(layer, RowWinograd) for layer in scorer.engine.network.encoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "BLOCK_PX", 192)
        scores = streamed(pair, scorer)
    np.testing.assert_allclose(scores, whole_scene(pair, model), atol=1e-5, rtol=0)


def test_scales_give_the_same_bits_for_any_number_of_threads_lazily_and_in_any_order_of_the_scenes() -> None:
    pair, model = random_pair(310, 270), MODELS[4, 2, (1, 2)]
    scorer = Scorer.of_model(model, device="cpu", precision="fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "BLOCK_PX", 100)  # no multiple of the coarsest stride
        patch.setattr(scorer_module, "FORWARD_PX", 50)
        first = streamed(pair, scorer, workers=1)
        np.testing.assert_array_equal(streamed(pair, scorer, workers=3), first)
        with ThreadPoolExecutor(2) as pool, dask.config.set(scheduler="threads", pool=pool):
            np.testing.assert_array_equal(lazy_scores(pair, scorer).compute(), first)
        swapped = streamed(ArrayPair(pair.after, pair.before, pair.valid), scorer)
    np.testing.assert_allclose(swapped, first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=INTEGERS)])
def test_scales_score_about_the_same_in_every_precision(precision: str) -> None:
    pair, model = random_pair(300, 280), MODELS[4, 2, (1, 2)]
    exact, rounded = (
        streamed(pair, Scorer.of_model(model, device="cpu", precision=name)) for name in ("fp32", precision)
    )
    assert np.abs(exact - rounded).max() < 0.1
