import numpy as np
import pytest
import torch

from geosiam.evaluation.autoencoder import reconstruction_error, train_autoencoder


def smooth_scene(seed: int, rows: int = 100, cols: int = 130) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols] / 40
    waves = [100 + 60 * np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0, 3, (3, 3))]
    return np.stack(waves).clip(0, 255).astype(np.uint8)


def test_what_the_template_does_not_show_is_reproduced_badly() -> None:
    scene = smooth_scene(0)
    model = train_autoencoder([scene], steps=100)
    marked = scene.copy()
    marked[:, 40:52, 60:72] = np.array((0, 0, 255), np.uint8)[:, None, None]
    error = reconstruction_error(model, marked)
    assert error.shape == scene.shape[1:]
    assert error.dtype == np.float32
    inside = (slice(42, 50), slice(62, 70))
    assert error[inside].mean() > 1.5 * reconstruction_error(model, scene)[inside].mean()
    assert error[inside].mean() > 1.5 * np.median(error)
    barely = reconstruction_error(train_autoencoder([scene], steps=2), scene)
    assert np.median(reconstruction_error(model, scene)) < 0.8 * np.median(barely)


def test_the_same_seed_gives_the_same_autoencoder() -> None:
    scene = smooth_scene(1)
    errors = [reconstruction_error(train_autoencoder([scene], steps=3, seed=seed), scene) for seed in (5, 5, 6)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-6)
    assert np.abs(errors[0] - errors[2]).max() > 1e-4


def test_training_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    train_autoencoder([smooth_scene(2)], steps=1, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
