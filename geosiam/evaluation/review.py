"""What an analyst's verdicts say: how precise the polygons are, and which threshold would have been better.

The column ``review`` of the polygons holds them. Only polygons that were reviewed count, so the sample should not be
the best ones alone; what was never reported nobody reviews, so nothing is known of recall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import beta

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.evaluation.counts import ratio
from geosiam.polygons.reviews import read_reviews
from geosiam.polygons.schema import REVIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SCORE = "score_max"
_CONFIDENCE = 0.95
_FEWEST = 10


@dataclass(frozen=True)
class ReviewSummary:
    """What the verdicts on a file of polygons, or several, say.

    Parameters
    ----------
    polygons, confirmed, rejected, unsure, unreviewed
        Number of polygons, and of each verdict.
    precision
        Share of the confirmed among the confirmed and rejected; NaN without either.
    precision_low, precision_high
        Its 95 % interval (Clopper and Pearson, 1934), as if the reviewed had been drawn at random.
    target
        The precision that was asked for.
    threshold
        Suggested ``--threshold``: the lowest from which on the reviewed polygons reach the target; None where no
        threshold does, or there are too few verdicts to tell.
    precision_then, kept
        Precision of the reviewed polygons from there on, and the share of the confirmed ones that remain.
    note
        Why there is no suggestion, or what it rests on.
    """

    polygons: int
    confirmed: int
    rejected: int
    unsure: int
    unreviewed: int
    precision: float
    precision_low: float
    precision_high: float
    target: float
    threshold: float | None
    precision_then: float
    kept: float
    note: str


def summarize_review(paths: Sequence[str], target: float = 0.9) -> ReviewSummary:
    """Turn verdicts into precision and a suggested threshold.

    A polygon survives a higher threshold as long as its highest score, ``score_max``, reaches it; that it would also
    shrink, or fall into several, is left aside.

    Parameters
    ----------
    paths
        Files of polygons that ``geosiam detect`` wrote and an analyst filled in.
    target
        Precision to reach.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        A file is missing, or no vector file.
    OptionError
        The target is no share.
    SceneRefusedError
        It has no column ``review`` or ``score_max``, or a verdict that nobody knows.
    """
    if not 0 < target <= 1:
        raise OptionError(f"target precision {target:g}", "is no share", "give a number above 0, up to 1")
    tables = [_verdicts(path) for path in paths]
    verdict = np.concatenate([table[0] for table in tables])
    score = np.concatenate([table[1] for table in tables])
    counted = verdict != 0
    confirmed, rejected = int((verdict == 1).sum()), int((verdict == -1).sum())
    low, high = _interval(confirmed, rejected)
    threshold, then, kept, note = _suggestion(score[counted], verdict[counted] == 1, target)
    return ReviewSummary(
        polygons=sum(table[2] for table in tables),
        confirmed=confirmed,
        rejected=rejected,
        unsure=sum(table[3] for table in tables),
        unreviewed=sum(table[2] - table[3] for table in tables) - confirmed - rejected,
        precision=ratio(confirmed, confirmed + rejected),
        precision_low=low,
        precision_high=high,
        target=target,
        threshold=threshold,
        precision_then=then,
        kept=kept,
        note=note,
    )


def _verdicts(path: str) -> tuple[NDArray[np.int8], NDArray[np.float64], int, int]:
    """Return 1 confirmed, -1 rejected, 0 neither; the score; and how many polygons there are, and unsure ones."""
    table = read_reviews(path, [_SCORE])
    words = table["review"]
    unknown = sorted(set(words.dropna()) - set(REVIEWS))
    if unknown:
        fact = f"holds the verdict {unknown[0]!r}" + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        raise SceneRefusedError(path, f"{fact} in the column review", "use confirmed, rejected or unsure")
    verdict = np.array([(word == "confirmed") - (word == "rejected") for word in words], np.int8)
    return verdict, table[_SCORE].to_numpy(np.float64), len(table), int((words == "unsure").sum())


def _interval(confirmed: int, rejected: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share."""
    count, tail = confirmed + rejected, (1 - _CONFIDENCE) / 2
    if not count:
        return float("nan"), float("nan")
    low = beta.ppf(tail, confirmed, rejected + 1) if confirmed else 0.0
    high = beta.isf(tail, confirmed + 1, rejected) if rejected else 1.0
    return float(low), float(high)


def _suggestion(
    score: NDArray[np.float64], right: NDArray[np.bool_], target: float
) -> tuple[float | None, float, float, str]:
    """Return threshold, precision and share of confirmed polygons from there on, and a remark."""
    nothing = float("nan")
    if len(score) < _FEWEST:
        return None, nothing, nothing, f"{len(score)} verdicts are too few for a threshold; review {_FEWEST} or more"
    values = np.unique(score)
    kept = np.array([right[score >= value].sum() for value in values])
    precision = kept / np.array([(score >= value).sum() for value in values])
    good = np.flatnonzero(precision >= target)
    if not len(good):
        best = int(precision.argmax())
        note = (
            f"no threshold reaches {target:g}; the best precision is {precision[best]:.2f} from {values[best]:.3g} on"
        )
        return None, nothing, nothing, note
    first = int(good[0])
    note = f"rests on {int((score >= values[first]).sum())} reviewed polygons with a score_max from there on"
    # Half-way to the next polygon that is left out, so that it can be written with few digits.
    threshold = float(values[first] + values[first - 1]) / 2 if first else float(values[0])
    return threshold, float(precision[first]), ratio(int(kept[first]), int(right.sum())), note
