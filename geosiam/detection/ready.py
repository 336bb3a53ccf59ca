"""Weights that are read and made ready once, for all pairs that a process scores with them."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from geosiam.detection.hardware import choose_device
from geosiam.detection.scoring import Scorer
from geosiam.network.weights import load_model

if TYPE_CHECKING:
    from geosiam.network.weights import Model

    Stamp: TypeAlias = "tuple[int, ...] | None"

_KEPT = 2  # models


def ready_to_score(name: str, *, device: str, precision: str, elsewhere: bool = False) -> tuple[Model, Scorer]:
    """Return weights and what scores with them.

    On this machine's processor both are kept and given again as long as the file is the same: small pairs would spend
    as long on them as on their pixels. Neither may be changed.

    Parameters
    ----------
    name
        As :func:`~geosiam.network.weights.load_model` takes it.
    device, precision, elsewhere
        As :meth:`~geosiam.detection.scoring.Scorer.of_model` takes them.

    Raises
    ------
    WeightsError, OptionError
        As these do.
    """
    if elsewhere or choose_device(device).type == "cuda":
        model = load_model(name)
        return model, Scorer.of_model(model, device=device, precision=precision, elsewhere=elsewhere)
    return _kept(name, _stamp(name), device, precision)


def _stamp(name: str) -> Stamp:
    """Return what changes with a file; None for bundled weights."""
    with contextlib.suppress(OSError):
        found = Path(name).stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


@lru_cache(maxsize=_KEPT)
def _kept(name: str, _stamp: Stamp, device: str, precision: str) -> tuple[Model, Scorer]:
    model = load_model(name)
    return model, Scorer.of_model(model, device=device, precision=precision)
