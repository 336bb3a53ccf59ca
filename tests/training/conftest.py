import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from geosiam.training import loop


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate on one batch: what the figures are is no concern of the tests that train."""
    monkeypatch.setattr(loop, "VALIDATION_BATCHES", 1)


@pytest.fixture
def process_state() -> Iterator[Callable[[], tuple]]:
    """Yield a function that returns everything of this process that a training must leave as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # scoring sets one

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

    yield state
    torch.set_num_threads(threads)
