"""The user's own scenes, flown more than once, as pairs to learn from: what differs between the dates is mostly normal.

Nobody has said what really changed there, but little has. So all counts as unchanged but for what the weights to begin
with are surest of: that may be an anomaly, and does not count.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from geosiam.detection.scoring import Scorer, lazy_scores
from geosiam.errors import InputError
from geosiam.imagery.pair import open_pair
from geosiam.training.datasets import load_chips, middle, parted
from geosiam.training.sources import UNCHANGED, UNDECIDED, PairStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from geosiam.network.weights import Model
    from geosiam.training.sources import ChipSource

    Sources = tuple[ChipSource, ChipSource]

log = logging.getLogger(__name__)

SUREST = 0.05
"""Share of a pair that is left undecided at most: the cells that score highest, if they reach the threshold at all."""

_AROUND = np.ones((3, 3), bool)  # a cell beside an undecided one may hold the rest of the object


def own_scenes(paths: Sequence[str], model: Model) -> list[Sources]:
    """Return chips of scenes, those to learn from and the held-out ones: of two dates where two scenes overlap.

    Parameters
    ----------
    paths
        Scenes in order of their dates; each makes a pair with the next one, if that shows the same place.
    model
        What the learning begins with.

    Returns
    -------
    list
        A source for each pair, then one for each scene that is part of none.

    Raises
    ------
    TrainingDataError, SceneUnreadableError
        One of them is not there, or no scene.
    """
    pairs, alone = [], list(paths)
    for before, after in itertools.pairwise(paths):
        try:
            pairs.append(revisited(before, after, model))
        except InputError as error:  # what is no scene at all is refused below
            log.info("%s and %s make no pair: %s", before, after, error)
        else:
            alone = [path for path in alone if path not in (before, after)]
    for path in alone:
        log.warning("%s is learnt from alone; with another date of the same place it would teach more", path)
    return [*pairs, *(load_chips(path) for path in alone)]


def revisited(before: str, after: str, model: Model) -> tuple[PairStack, PairStack]:
    """Return two scenes of one place as a pair to learn from, and its last tenth, held out.

    Raises
    ------
    SceneRefusedError, SceneUnreadableError, SceneNotFoundError
        They do not make a pair.
    """
    scorer = Scorer.of_model(model)
    with open_pair(before, after) as pair:
        cells = middle(pair.overlap).coarsened(scorer.stride)
        block = pair.read(cells.scaled(scorer.stride))
        scores = lazy_scores(pair, scorer)[cells.slices].compute()
    left_out = undecided(scores, model.card.threshold)
    labels = np.where(np.kron(left_out, np.ones((scorer.stride,) * 2, bool)) | ~block.valid, UNDECIDED, UNCHANGED)
    dates = [(image * 255).round().astype(np.uint8) for image in (block.before, block.after)]
    learnt, held_out = parted(torch.from_numpy(np.concatenate([*dates, labels[None].astype(np.uint8)])))
    return PairStack([learnt]), PairStack([held_out])


def undecided(scores: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the cells whose scores are the highest of all, at most :data:`SUREST` of them, and those beside them.

    Parameters
    ----------
    scores
        float32 (rows, cols), NaN where there is none.
    threshold
        What scores less is no anomaly in any case.
    """
    known = scores[~np.isnan(scores)]
    limit = float(np.quantile(known, 1 - SUREST)) if known.size else 1.0
    surest: NDArray[np.bool_] = binary_dilation(scores > max(limit, threshold), _AROUND)
    return surest
