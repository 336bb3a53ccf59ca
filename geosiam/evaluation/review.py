"""Estimate precision, and a better threshold, from an analyst's verdicts in the column ``review`` of polygons.

Only reviewed polygons count, so they should be a random sample and not just the best ones. Recall cannot be estimated,
since nobody reviews what was never reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import beta

from geosiam.errors import OptionError, SceneRefusedError
from geosiam.evaluation.counts import ratio
from geosiam.polygons.results import read_reviews
from geosiam.polygons.schema import REVIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

_SCORE = "score_max"
_CONFIDENCE = 0.95
_MIN_VERDICTS = 10  # fewer do not give a threshold


@dataclass(frozen=True)
class ReviewSummary:
    """Precision and a suggested threshold from the verdicts on one or more files of polygons.

    Parameters
    ----------
    polygons, confirmed, rejected, unsure, unreviewed
        Number of all polygons, and of polygons with each verdict.
    precision
        Fraction of confirmed polygons among the confirmed and rejected ones; NaN without either.
    precision_low, precision_high
        Its 95 % confidence interval (Clopper and Pearson, 1934), if the reviewed polygons are a random sample.
    target
        Precision that the threshold must reach.
    threshold
        The lowest threshold at which the reviewed polygons reach the target; None if no threshold does, or if there are
        too few verdicts.
    precision_then, kept
        Precision of the reviewed polygons at this threshold, and the fraction of the confirmed ones that remain.
    note
        Why there is no suggestion, or how many polygons it is based on.
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
    """Estimate the precision and suggest a threshold from verdicts.

    A polygon is assumed to remain as long as its highest score, ``score_max``, reaches the threshold. That it would
    also shrink or split is ignored.

    Parameters
    ----------
    paths
        Files of polygons that ``geosiam detect`` wrote and an analyst reviewed.
    target
        Precision that the threshold must reach.

    Raises
    ------
    SceneNotFoundError, SceneUnreadableError
        A file does not exist or is not a vector file.
    OptionError
        The target is not in (0, 1].
    SceneRefusedError
        A file has no column ``review`` or ``score_max``, or an unknown verdict.
    """
    if not 0 < target <= 1:
        raise OptionError(f"`target={target:g}`", "is not a precision", "give a number above 0, up to 1")
    tables = [_read_verdicts(path) for path in paths]
    verdict = np.concatenate([table["review"].to_numpy(object) for table in tables])
    score = np.concatenate([table[_SCORE].to_numpy(np.float64) for table in tables])
    confirmed, rejected, unsure = (int((verdict == word).sum()) for word in REVIEWS)
    is_confirmed = verdict == "confirmed"
    is_decided = is_confirmed | (verdict == "rejected")
    low, high = _interval(confirmed, rejected)
    threshold, precision_then, kept, note = _suggestion(score[is_decided], is_confirmed[is_decided], target)
    return ReviewSummary(
        polygons=len(verdict),
        confirmed=confirmed,
        rejected=rejected,
        unsure=unsure,
        unreviewed=len(verdict) - confirmed - rejected - unsure,
        precision=ratio(confirmed, confirmed + rejected),
        precision_low=low,
        precision_high=high,
        target=target,
        threshold=threshold,
        precision_then=precision_then,
        kept=kept,
        note=note,
    )


def _read_verdicts(path: str) -> pd.DataFrame:
    """Return the columns ``score_max`` and ``review``, whose values are one of :data:`REVIEWS` or None."""
    table = read_reviews(path, [_SCORE])
    unknown = sorted(set(table["review"].dropna()) - set(REVIEWS))
    if unknown:
        fact = f"holds the verdict {unknown[0]!r}" + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        raise SceneRefusedError(path, f"{fact} in the column review", "use confirmed, rejected or unsure")
    return table


def _interval(confirmed: int, rejected: int) -> tuple[float, float]:
    """Return the exact 95 % confidence interval of the fraction of confirmed polygons."""
    count, tail = confirmed + rejected, (1 - _CONFIDENCE) / 2
    if not count:
        return float("nan"), float("nan")
    low = beta.ppf(tail, confirmed, rejected + 1) if confirmed else 0.0
    high = beta.isf(tail, confirmed + 1, rejected) if rejected else 1.0
    return float(low), float(high)


def _suggestion(
    score: NDArray[np.float64], is_confirmed: NDArray[np.bool_], target: float
) -> tuple[float | None, float, float, str]:
    """Return a threshold, the precision and the fraction of confirmed polygons at it, and a note."""
    undefined = float("nan")
    if len(score) < _MIN_VERDICTS:
        note = f"{len(score)} verdicts are too few for a threshold; review {_MIN_VERDICTS} or more"
        return None, undefined, undefined, note
    values = np.unique(score)
    confirmed = np.array([is_confirmed[score >= value].sum() for value in values])
    remaining = np.array([(score >= value).sum() for value in values])
    precision = confirmed / remaining
    reaches_target = np.flatnonzero(precision >= target)
    if not len(reaches_target):
        best = int(precision.argmax())
        note = f"no threshold reaches {target:g}; the best precision is {precision[best]:.2f} at {values[best]:.3g}"
        return None, undefined, undefined, note
    first = int(reaches_target[0])
    # Halfway to the next polygon below, so that the threshold can be written with few digits.
    threshold = float(values[first] + values[first - 1]) / 2 if first else float(values[0])
    note = f"based on {int(remaining[first])} reviewed polygons whose score_max reaches it"
    return threshold, float(precision[first]), ratio(int(confirmed[first]), int(is_confirmed.sum())), note
