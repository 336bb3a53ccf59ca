"""Sub-pixel misregistration of a pair, from patches of both scenes on one grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from skimage.registration import phase_cross_correlation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SUBPIXEL = 20  # steps a pixel is divided into
_AGREE_PX = 1.0  # how far a patch may be from the median and still count as agreeing
_FEWEST = 3
_MOST = 18  # patches, those with the most contrast
_SMALLEST_PX = 48
_LEAST_CONTRAST = 0.01
_WRAPS = 0.45  # of a patch's side, from which on a shift may really be one the other way round


@dataclass(frozen=True)
class Shift:
    """By how much the content of the after-scene lies too far down and to the right, in pixels of the before-scene.

    Parameters
    ----------
    rows, cols
        Downwards and rightwards.
    confidence
        Share of the patches that agree within a pixel, 0 to 1.
    patches
        Number of patches that had enough contrast to say something.
    """

    rows: float
    cols: float
    confidence: float
    patches: int

    @property
    def length(self) -> float:
        """Length of the shift in pixels."""
        return float(np.hypot(self.rows, self.cols))

    def __add__(self, rest: Shift) -> Shift:
        """Return the whole shift where this much of it was known, and ``rest`` found beside it."""
        return Shift(self.rows + rest.rows, self.cols + rest.cols, rest.confidence, rest.patches)

    def without(self, rows: float, cols: float) -> Shift:
        """Return what is left of the shift if so much of it is undone."""
        return replace(self, rows=self.rows - rows, cols=self.cols - cols)

    @property
    def trustworthy(self) -> bool:
        """Whether enough patches agree to correct the shift."""
        return self.patches >= _FEWEST and self.confidence >= 0.5  # noqa: PLR2004


def estimate_shift(pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Shift | None:
    """Estimate one shift for the scene from patches, robust against patches that changed.

    Phase correlation of each patch pair (Guizar-Sicairos, Thurman and Fienup, "Efficient subpixel image registration
    algorithms", 2008, as in scikit-image), then the mean of those patches that agree with the median.

    Parameters
    ----------
    pairs
        (before, after) patches, float32 (3, rows, cols) each, all pixels valid.

    Returns
    -------
    the shift, or None where no patch is large and varied enough
    """
    gray = [
        (before.mean(axis=0), after.mean(axis=0)) for before, after in pairs if min(before.shape[1:]) >= _SMALLEST_PX
    ]
    contrast = np.array([min(before.std(), after.std()) for before, after in gray])
    telling = [i for i in np.argsort(-contrast, kind="stable")[:_MOST] if contrast[i] >= _LEAST_CONTRAST]
    known = np.array([_patch_shift(*gray[i]) for i in telling])
    if not len(known):
        return None
    agree = np.abs(known - np.median(known, axis=0)).max(axis=1) <= _AGREE_PX
    if not agree.any():
        rows, cols = np.median(known, axis=0)
        return Shift(float(rows), float(cols), 0.0, len(known))
    rows, cols = known[agree].mean(axis=0)
    return Shift(float(rows), float(cols), float(agree.mean()), len(known))


def _patch_shift(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    first, second = before - before.mean(), after - after.mean()
    taper = _taper(*before.shape)  # without it the patch's own edges correlate best, at shift zero
    found, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        first * taper,
        second * taper,
        upsample_factor=_SUBPIXEL,
        normalization=None if min(before.shape) < 2 * _SMALLEST_PX else "phase",
    )
    return _unwrapped(first, second, -np.asarray(found, np.float64))


@lru_cache(maxsize=8)
def _taper(height: int, width: int) -> NDArray[np.float32]:
    return np.outer(*(np.hanning(side).astype(np.float32) for side in (height, width)))


def _unwrapped(
    before: NDArray[np.float32], after: NDArray[np.float32], shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a shift as it is, or as much more the other way round: correlation by Fourier transform is cyclic.

    A shift by more than half a patch comes out as one in the other direction. Which of them it is shows in the pixels
    that the patches then have in common.
    """
    sides = np.array(before.shape)
    other = shift - np.sign(shift) * sides
    far = (np.abs(shift) > _WRAPS * sides) & (np.abs(other) < (1 - _WRAPS) * sides)
    choices = [np.where([(far[0] and i), (far[1] and j)], other, shift) for i in (False, True) for j in (False, True)]
    return max(choices, key=lambda choice: _likeness(before, after, choice)) if far.any() else shift


def _likeness(before: NDArray[np.float32], after: NDArray[np.float32], shift: NDArray[np.float64]) -> float:
    """Return the correlation of the pixels that both patches show if the content moved by a shift."""
    (down, right), (rows, cols) = np.rint(shift).astype(int), before.shape
    first = before[max(0, -down) : rows - max(0, down), max(0, -right) : cols - max(0, right)]
    second = after[max(0, down) : rows + min(0, down), max(0, right) : cols + min(0, right)]
    if first.std() == 0 or second.std() == 0:
        return -1.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
