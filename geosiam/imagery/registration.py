"""Sub-pixel misregistration of a pair: estimated from patches of both scenes, and whether to correct it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft
from skimage.registration import phase_cross_correlation

from geosiam.imagery.grid import common_parts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeGuard

    from numpy.typing import NDArray

NO_SHIFT = (0.0, 0.0)
"""(rows, cols) by which an after scene that stays in place is moved."""

_UPSAMPLING = 20  # steps per pixel in which a shift is estimated
_AGREEMENT_PX = 1.0  # a patch within this distance of the median shift agrees with it
_MIN_AGREEMENT = 0.5  # share of the patches that have to agree
_MIN_PATCHES = 3
_MAX_PATCHES = 18  # those with the most contrast
_MIN_PATCH_PX = 48  # side
_MIN_CONTRAST = 0.01  # standard deviation of the values, which lie in [0, 1]
_WRAP_FRACTION = 0.45  # of a patch's side; a longer shift may really be one in the other direction


@dataclass(frozen=True)
class Shift:
    """Shift of the after scene's content, down and to the right, relative to the before scene's.

    Parameters
    ----------
    rows, cols
        Components downward and rightward, in pixels of the before scene.
    confidence
        Share of the patches that agree within a pixel, 0 to 1.
    patches
        Number of patches that had enough contrast.
    """

    rows: float
    cols: float
    confidence: float
    patches: int

    @property
    def length(self) -> float:
        """Length of the shift in pixels."""
        return float(np.hypot(self.rows, self.cols))

    def __add__(self, remaining: Shift) -> Shift:
        """Return the total shift, where ``remaining`` was estimated after this shift had been corrected."""
        rows, cols = self.rows + remaining.rows, self.cols + remaining.cols
        return Shift(rows, cols, remaining.confidence, remaining.patches)

    def without(self, rows: float, cols: float) -> Shift:
        """Return the shift that remains after a correction by ``rows`` and ``cols``."""
        return replace(self, rows=self.rows - rows, cols=self.cols - cols)

    def rounded(self) -> Shift:
        """Return the shift in whole pixels."""
        return replace(self, rows=float(round(self.rows)), cols=float(round(self.cols)))

    @property
    def trustworthy(self) -> bool:
        """Whether enough patches agree to correct the shift."""
        return self.patches >= _MIN_PATCHES and self.confidence >= _MIN_AGREEMENT


@dataclass(frozen=True)
class RegistrationPolicy:
    """Limits that decide which estimated shifts are corrected; all lengths are in pixels of the before scene.

    Parameters
    ----------
    max_shift_px
        Longest plausible shift; a longer one is never corrected.
    far_px
        Longest shift that can be judged from patches at the same place of both scenes. A longer one is estimated
        again from patches that show the same ground.
    min_resampled_px
        Shortest shift that is corrected by default where the after scene is resampled anyway; below it, the error of
        the estimate dominates.
    min_requested_px
        Shortest shift that is corrected on request; below it, resampling costs more than it gains.
    min_bend_px
        Smallest bend that a field is applied for by default: the 95th percentile of its distance from one shift.
    max_error_ratio
        Matches have to lie nearer to a field that was drawn without them than to one shift, by this factor.
    min_agreement
        Least share of the matches that have to agree with a field that was drawn without them. Between flights of a
        few weeks it is above 0.9, between years less than 0.8.
    min_nodes
        Least number of nodes with a match; they overlap, so that few of them are hardly more than one patch.
    max_field_px
        Pixels of the largest overlap in which a field is looked for by default; reading it takes minutes.
    """

    max_shift_px: float = 100.0
    far_px: float = 8.0
    min_resampled_px: float = 0.5
    min_requested_px: float = 0.1
    min_bend_px: float = 1.0
    max_error_ratio: float = 0.5
    min_agreement: float = 0.75
    min_nodes: int = 200
    max_field_px: float = 4e9

    def is_far(self, shift: Shift | None) -> TypeGuard[Shift]:
        """Return whether a plausible shift has to be estimated again."""
        return shift is not None and shift.trustworthy and self.far_px < shift.length <= self.max_shift_px

    def correction(self, shift: Shift | None, *, requested: bool, resampled: bool) -> tuple[float, float]:
        """Return the (rows, cols) to move the after scene by.

        Parameters
        ----------
        shift
            Estimated shift; None if there is no estimate.
        requested
            Correct the whole shift, even if the after scene has to be resampled for it.
        resampled
            The after scene is resampled anyway, so a fraction of a pixel costs nothing. Otherwise it is moved by
            whole pixels, which changes no value.
        """
        if shift is None or self.objection(shift) is not None:
            return NO_SHIFT
        if requested:
            return (shift.rows, shift.cols) if shift.length > self.min_requested_px else NO_SHIFT
        if not resampled:
            whole = shift.rounded()
            return whole.rows, whole.cols
        return (shift.rows, shift.cols) if shift.length >= self.min_resampled_px else NO_SHIFT

    def objection(self, shift: Shift | None) -> str | None:
        """Return the reason not to correct a shift, as a warning; None if there is none."""
        if shift is None or not shift.trustworthy:
            return "the misregistration cannot be estimated reliably and is not corrected"
        if shift.length > self.max_shift_px:
            return f"a misregistration of {shift.length:.0f} px is not plausible and is not corrected"
        return None

    def fits_patches(self, correction: tuple[float, float]) -> bool:
        """Return whether a correction is so short that the same patches show most of the same ground after it."""
        return all(offset.is_integer() for offset in correction) and max(map(abs, correction)) <= self.far_px


DEFAULT_POLICY = RegistrationPolicy()


def improves(remaining: Shift | None, shift: Shift | None) -> bool:
    """Return whether the shift that remains after a correction is reliably shorter than the original one."""
    return remaining is not None and shift is not None and remaining.trustworthy and remaining.length < shift.length


def estimate_shift(pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Shift | None:
    """Estimate one shift for the scene from patches, robust against patches that changed.

    Phase correlation of each pair of patches (Guizar-Sicairos, Thurman and Fienup, "Efficient subpixel image
    registration algorithms", 2008, as in scikit-image), then the mean of those patches that agree with the median.

    Parameters
    ----------
    pairs
        (before, after) patches, float32 (3, rows, cols) each, all pixels valid.

    Returns
    -------
    the shift, or None if no patch is large enough and has enough contrast
    """
    gray = [
        (before.mean(axis=0), after.mean(axis=0)) for before, after in pairs if min(before.shape[1:]) >= _MIN_PATCH_PX
    ]
    contrast = np.array([min(before.std(), after.std()) for before, after in gray])
    textured = [i for i in np.argsort(-contrast, kind="stable")[:_MAX_PATCHES] if contrast[i] >= _MIN_CONTRAST]
    shifts = np.array([_patch_shift(*gray[i]) for i in textured])
    if not len(shifts):
        return None
    agree = np.abs(shifts - np.median(shifts, axis=0)).max(axis=1) <= _AGREEMENT_PX
    if not agree.any():
        rows, cols = np.median(shifts, axis=0)
        return Shift(float(rows), float(cols), 0.0, len(shifts))
    rows, cols = shifts[agree].mean(axis=0)
    return Shift(float(rows), float(cols), float(agree.mean()), len(shifts))


def _patch_shift(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    first, second = before - before.mean(), after - after.mean()
    taper = _taper(*before.shape)  # without it the patch's own edges correlate best, at shift zero
    shift, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        first * taper,
        second * taper,
        upsample_factor=_UPSAMPLING,
        normalization=None if min(before.shape) < 2 * _MIN_PATCH_PX else "phase",
    )
    return _unwrap(first, second, -np.asarray(shift, np.float64))


@lru_cache(maxsize=8)
def _taper(height: int, width: int) -> NDArray[np.float32]:
    return np.outer(*(np.hanning(side).astype(np.float32) for side in (height, width)))


def _unwrap(before: NDArray[np.float32], after: NDArray[np.float32], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a shift or its complement in the other direction, because Fourier correlation is cyclic.

    A shift by more than half a patch comes out as one in the other direction. The right one is that at which the
    pixels that the patches have in common correlate best.
    """
    sides = np.array(before.shape)
    complement = shift - np.sign(shift) * sides
    ambiguous = (np.abs(shift) > _WRAP_FRACTION * sides) & (np.abs(complement) < (1 - _WRAP_FRACTION) * sides)
    if not ambiguous.any():
        return shift
    candidates = [
        np.where([(ambiguous[0] and i), (ambiguous[1] and j)], complement, shift)
        for i in (False, True)
        for j in (False, True)
    ]
    return max(candidates, key=lambda candidate: _correlation(before, after, candidate))


def _correlation(before: NDArray[np.float32], after: NDArray[np.float32], shift: NDArray[np.float64]) -> float:
    """Return the correlation of the pixels that both patches show if the content moved by a shift."""
    down, right = np.rint(shift).astype(int)
    parts = common_parts(before.shape, down, right)
    first, second = before[parts[0]], after[parts[1]]
    if first.std() == 0 or second.std() == 0:
        return -1.0
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def whole_shift(
    images: Sequence[NDArray[np.float32]], valid: Sequence[NDArray[np.float32]], longest: int
) -> tuple[int, int]:
    """Estimate the shift (down, right) between two whole images by phase correlation, in pixels.

    Parameters
    ----------
    images
        Two images float32 (rows, cols) with mean 0 everywhere; 0 where not valid.
    valid
        Two masks float32 of that shape, above 0 where valid.
    longest
        Longest shift along each axis that is looked for.
    """
    height, width = images[0].shape
    spectra = [fft.rfft2(image * _taper(height, width)) for image in images]
    cross = np.conj(spectra[0]) * spectra[1]
    down, right = fft.fftfreq(height)[:, None], fft.rfftfreq(width)
    smooth = np.exp(-2 * (np.pi * 0.8) ** 2 * (down**2 + right**2))  # the highest frequencies are noise
    surface = fft.irfft2(
        cross / np.maximum(np.abs(cross), 1e-6 * np.abs(cross).max() + 1e-12) * smooth, (height, width)
    )
    rows, cols = (np.r_[-min(longest, side // 3) : min(longest, side // 3) + 1] for side in (height, width))
    near = surface[np.ix_(rows, cols)]
    row, col = np.unravel_index(np.argmax(near), near.shape)
    shift = int(rows[row]), int(cols[col])
    stay, moved = (_agreement(images, valid, offset) for offset in ((0, 0), shift))
    return shift if moved > stay else (0, 0)


def _agreement(
    images: Sequence[NDArray[np.float32]], valid: Sequence[NDArray[np.float32]], shift: tuple[int, int]
) -> float:
    """Return the correlation of the pixels that both images show if the second one's content is shifted."""
    first, second = common_parts(images[0].shape, *shift)
    common = (valid[0][first] * valid[1][second]) > 0
    if not common.any():
        return -1.0
    a, b = images[0][first][common], images[1][second][common]
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-9))
