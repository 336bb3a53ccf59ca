"""The mean of several weights of one line: one network, as fast as any of them, and steadier than each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of weights, tensor by tensor; batch norm's statistics too, its counters are those of the first.

    Weights that went on learning from the same ones lie close enough together for that: on the way from one to the
    other the loss does not rise (Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models
    improves accuracy without increasing inference time", 2022). Of weights that began apart it is no network at all.

    Parameters
    ----------
    states
        State dictionaries of one network; at least one.
    """
    first = states[0]
    return {
        key: torch.stack([state[key].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in first.items()
    }
