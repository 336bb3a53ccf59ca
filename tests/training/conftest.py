import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from geosiam.training import loop


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate on one batch: what the figures are is no concern of the tests that train."""
    monkeypatch.setattr(loop, "VALIDATION_BATCHES", 1)


@pytest.fixture
def process_state() -> Callable[[], tuple]:
    """Return a function that gives everything of this process that a training must leave as it was."""

    def state() -> tuple:
        name, keys, *position = np.random.get_state()  # noqa: NPY002 - the caller may use it
        return (
            torch.get_rng_state().numpy().tobytes(),
            random.getstate(),
            (name, keys.tobytes(), *position),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        )

    return state
