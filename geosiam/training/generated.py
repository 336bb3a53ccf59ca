"""Generated surveys as a source of pairs: two dates under other suns, with known changes, as many as one likes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from geosiam.synthesis.survey import make_survey, varied_config
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, PairStack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.synthesis.survey import SurveyPair

GENERATED = 160
"""Surveys that take part in a training."""

SOME = 60
"""Surveys that teach recipe target what else may change."""

FEW = 24
"""Surveys that keep a fine-tuning from forgetting what it knew."""

_SIDE = 512
_OBJECTS = 24
_VISIBLE = 10  # mean absolute difference in grey levels under which a change cannot be seen
_WEATHERING = 1.0  # from flights of one week to flights years apart
_HELD_OUT = 8  # one scene in so many, at least one, is kept for validation
_SEEDS = 1_000_000  # room for the scenes of one training seed, and far from the seeds that people choose for a demo


def generated_pairs(count: int, seed: int) -> tuple[PairStack, PairStack]:
    """Return ``count`` generated pairs to learn from, and some more that are held out."""
    first = (seed + 1) * _SEEDS
    seeds = range(first, first + count + max(1, count // _HELD_OUT))
    pairs = [_pair(number) for number in seeds]
    return PairStack(pairs[:count]), PairStack(pairs[count:])


def _pair(seed: int) -> Tensor:
    """Return one pair as :class:`PairStack` wants it; the misregistration is left to the recipe."""
    config = varied_config(seed, _SIDE, _SIDE, objects=_OBJECTS, most_weathering=_WEATHERING)
    pair = make_survey(replace(config, shift_px=(0.0, 0.0)))
    return torch.from_numpy(np.concatenate([pair.before, pair.after, _cover(pair)[None]]))


def _cover(pair: SurveyPair) -> NDArray[np.uint8]:
    """Label what visibly changed; the outline and what cannot be seen are undecided."""
    difference = np.abs(pair.before.astype(np.int16) - pair.after).mean(axis=0)
    sure = binary_erosion(pair.truth_mask) & (difference > _VISIBLE)
    near = binary_dilation(pair.truth_mask)
    return np.where(sure, CHANGED, np.where(near, UNDECIDED, UNCHANGED)).astype(np.uint8)
