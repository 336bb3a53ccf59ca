"""The classical methods a user could run instead, behind one interface.

Each takes two images that already lie on one grid and gives a score for every pixel, larger where more changed. The
scores are ranks, not probabilities; what a method would report is cut at Otsu's threshold, as is usual with all of
them, except for PCA-k-means, which is a classification by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import ndimage
from scipy.linalg import LinAlgError, eigh
from scipy.special import chdtrc
from skimage.exposure import match_histograms
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from geosiam.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from geosiam.evaluation.autoencoder import Autoencoder

    Image: TypeAlias = NDArray[np.float32]
    Mask: TypeAlias = NDArray[np.bool_]
    from numpy.typing import NDArray

_SSIM_WINDOW = 11  # Gaussian weights of sigma 1.5, as Wang et al. have it
_CELIK_BLOCK, _CELIK_COMPONENTS = 4, 3
_CELIK_SAMPLE = 100_000


@dataclass(frozen=True)
class Baseline:
    """One classical method.

    Parameters
    ----------
    name
        As the command line knows it.
    summary, source
        What it does, and where it was published.
    function
        Makes scores, float (rows, cols) in [0, 1], of (before, after, valid): float32 (3, rows, cols) in [0, 1]
        twice, and bool (rows, cols). One score means the same in every pair.
    threshold
        Scores from here on are changes; None: Otsu's threshold.
    """

    name: str
    summary: str
    source: str
    function: Callable[[Image, Image, Mask], NDArray[np.floating[Any]]]
    threshold: float | None = None

    def scores(self, before: Image, after: Image, valid: Mask) -> NDArray[np.float32]:
        """Return the scores of a pair, float32 (rows, cols) in [0, 1], NaN where not valid."""
        scores = self.function(before, after, valid).astype(np.float32)
        scores[~valid] = np.nan
        return scores

    def cut(self, scores: NDArray[np.float32]) -> float:
        """Return the threshold from which on the method calls a pixel of these scores changed."""
        if self.threshold is not None:
            return self.threshold
        known = scores[~np.isnan(scores)]
        if not known.size or known.min() == known.max():
            return 1.0
        # Otsu's threshold is the last value of the lower class.
        return float(np.nextafter(np.float32(threshold_otsu(known)), np.float32(1)))  # type: ignore[no-untyped-call]


def difference(before: Image, after: Image, _valid: Mask) -> NDArray[np.floating[Any]]:
    """Return the mean absolute difference of the bands."""
    return np.asarray(np.abs(after - before).mean(axis=0))


def change_vector(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return the root mean square difference of the bands, with the second image's histograms matched to the first."""
    matched = matched_to(before, after, valid)
    return np.asarray(np.sqrt(((matched - before) ** 2).mean(axis=0)))


def alteration(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return d / (d + expected d) of the root d of IR-MAD's chi-square statistic, a rank that never saturates."""
    scores = np.zeros(valid.shape, np.float64)
    if valid.any():
        distance = np.sqrt(irmad(before[:, valid], after[:, valid]).statistic)
        scores[valid] = distance / (distance + np.sqrt(len(before)))
    return scores


def dissimilarity(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return (1 - SSIM) / 2, after matching histograms."""
    if min(valid.shape) < _SSIM_WINDOW:
        remedy = "compare a larger piece, or leave ssim out"
        raise OptionError("ssim", f"needs {_SSIM_WINDOW} x {_SSIM_WINDOW} px, the scene has {valid.shape}", remedy)
    _, similarity = structural_similarity(
        before, matched_to(before, after, valid), channel_axis=0, data_range=1.0, full=True, gaussian_weights=True,
        use_sample_covariance=False,
    )  # type: ignore[no-untyped-call]  # fmt: skip
    return np.asarray((1 - similarity.mean(axis=0)) / 2)


def pca_kmeans(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return how near a pixel's neighborhood lies to the cluster of changes: above one half it belongs to it."""
    try:
        from sklearn.cluster import KMeans  # noqa: PLC0415 - an extra
        from sklearn.decomposition import PCA  # noqa: PLC0415
    except ImportError as error:
        raise OptionError("pca-kmeans", "needs scikit-learn", "pip install 'geosiam[evaluation]'") from error
    gap = np.where(valid, np.abs(matched_to(before, after, valid) - before).mean(axis=0), 0)
    rows, cols = (size // _CELIK_BLOCK * _CELIK_BLOCK for size in gap.shape)
    tiles = gap[:rows, :cols].reshape(rows // _CELIK_BLOCK, _CELIK_BLOCK, -1, _CELIK_BLOCK).swapaxes(1, 2)
    blocks = tiles.reshape(-1, _CELIK_BLOCK**2)
    if len(blocks) <= _CELIK_COMPONENTS or np.ptp(blocks) == 0:
        return np.zeros(gap.shape)
    axes = PCA(_CELIK_COMPONENTS, random_state=0).fit(blocks).components_.reshape(-1, _CELIK_BLOCK, _CELIK_BLOCK)
    features = np.stack([ndimage.correlate(gap, axis, mode="nearest") for axis in axes], axis=-1)
    known = features[valid]
    drawn = np.random.default_rng(0).choice(len(known), min(len(known), _CELIK_SAMPLE), replace=False)
    clusters = KMeans(2, n_init=4, random_state=0).fit(known[drawn])
    far = clusters.transform(features.reshape(-1, _CELIK_COMPONENTS)).reshape(*gap.shape, 2)
    member = clusters.predict(known)
    changed = int(gap[valid][member == 1].mean() > gap[valid][member == 0].mean()) if len(set(member)) > 1 else 1
    return np.asarray(far[..., 1 - changed] / far.sum(axis=-1).clip(1e-12))


def autoencoder_difference(before: Image, after: Image, _valid: Mask) -> NDArray[np.floating[Any]]:
    """Return how much worse an autoencoder, trained on the first image alone, reproduces the second one."""
    from geosiam.evaluation.autoencoder import reconstruction_error  # noqa: PLC0415 - torch is slow to import

    first, second = (np.rint(image.clip(0, 1) * 255).astype(np.uint8) for image in (before, after))
    model = _trained(first.tobytes(), first.shape)
    return np.asarray(np.clip(reconstruction_error(model, second) - reconstruction_error(model, first), 0, 1))


@lru_cache(maxsize=1)
def _trained(pixels: bytes, shape: tuple[int, ...]) -> Autoencoder:
    """Train on one image; the same one often comes several times in a row."""
    from geosiam.evaluation.autoencoder import train_autoencoder  # noqa: PLC0415 - torch is slow to import

    return train_autoencoder([np.frombuffer(pixels, np.uint8).reshape(shape).copy()])


def matched_to(before: Image, after: Image, valid: Mask) -> Image:
    """Return the second image with its histograms of the valid pixels matched to those of the first, band by band."""
    result = after.copy()
    if valid.any():
        result[:, valid] = match_histograms(after[:, valid], before[:, valid], channel_axis=0)
    return result


_ALL = (
    Baseline("difference", "mean absolute difference of the bands", "Singh, IJRS 10 (1989)", difference),
    Baseline("cva", "change vector analysis after histogram matching", "Malila, LARS Symposia (1980)", change_vector),
    Baseline("irmad", "iteratively reweighted MAD, to convergence", "Nielsen, IEEE TIP 16 (2007)", alteration),
    Baseline("ssim", "dissimilarity after histogram matching", "Wang et al., IEEE TIP 13 (2004)", dissimilarity),
    Baseline("pca-kmeans", "clusters of principal components", "Celik, IEEE GRSL 6 (2009)", pca_kmeans, 0.5),
    Baseline("autoencoder", "what it cannot reproduce", "Hawkins et al., DaWaK (2002)", autoencoder_difference),
)
BASELINES = {baseline.name: baseline for baseline in _ALL}


def baseline(name: str) -> Baseline:
    """Return a method by name.

    Raises
    ------
    OptionError
        There is none of this name.
    """
    if name not in BASELINES:
        raise OptionError(f"baseline {name!r}", "is not known", f"choose from {', '.join(BASELINES)}")
    return BASELINES[name]


TOLERANCE = 1e-3
MOST_ITERATIONS = 50
SAMPLE = 200_000
_RIDGE = 1e-9  # of the mean variance: bands that are copies of each other are no error
_LEAST_VARIANCE = 1e-9


@dataclass(frozen=True)
class Alteration:
    """What IR-MAD found.

    Parameters
    ----------
    statistic
        float64 (n,), chi-square distributed with as many degrees of freedom as bands where nothing changed.
    correlations
        float64 (bands,), canonical correlations, ascending.
    iterations
        Until these stood still.
    converged
        Whether they did.
    """

    statistic: NDArray[np.float64]
    correlations: NDArray[np.float64]
    iterations: int
    converged: bool


def irmad(before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]], *, sample: int = SAMPLE) -> Alteration:
    """Run IR-MAD to convergence.

    Parameters
    ----------
    before, after
        float (bands, n), the same pixels at both dates.
    sample
        Pixels to estimate from, drawn at random; the statistic is then given for all.
    """
    bands, count = before.shape
    stacked = np.concatenate([before, after]).astype(np.float64)
    drawn = stacked
    if count > sample:
        drawn = stacked[:, np.random.default_rng(0).choice(count, sample, replace=False)]
    weights = np.ones(drawn.shape[1])
    previous = np.full(bands, np.inf)
    converged = False
    for iteration in range(1, MOST_ITERATIONS + 1):
        try:
            variates = _Variates.of(drawn, weights)
        except LinAlgError:  # all weight on pixels that are alike: there is nothing left to correlate
            return Alteration(np.zeros(count), np.zeros(bands), iteration, converged=False)
        converged = bool(np.abs(variates.correlations - previous).max() < TOLERANCE)
        if converged:
            break
        previous, weights = variates.correlations, chdtrc(bands, variates.statistic(drawn))
    return Alteration(variates.statistic(stacked), variates.correlations, iteration, converged)


@dataclass(frozen=True)
class _Variates:
    """The canonical variates of weighted pixels: their mean, what to multiply both scenes' bands by, correlations."""

    mean: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    correlations: NDArray[np.float64]

    @classmethod
    def of(cls, stacked: NDArray[np.float64], weights: NDArray[np.float64]) -> _Variates:
        bands = len(stacked) // 2
        mean = (stacked @ weights / weights.sum())[:, None]
        centered = stacked - mean
        covariance = (centered * weights) @ centered.T / weights.sum()
        covariance += np.eye(2 * bands) * max(_RIDGE * np.trace(covariance) / (2 * bands), 1e-15)
        s11, s22, s12 = covariance[:bands, :bands], covariance[bands:, bands:], covariance[:bands, bands:]
        # s12 s22^-1 s21 a = rho^2 s11 a, ascending: as MAD variates are numbered, the least alike first.
        squares, a = eigh(s12 @ np.linalg.solve(s22, s12.T), s11)
        b = np.linalg.solve(s22, s12.T @ a)
        b /= np.sqrt(np.einsum("ij,ik,kj->j", b, s22, b)).clip(1e-15)
        return cls(mean, a, b, np.sqrt(squares.clip(0, 1)))

    def statistic(self, stacked: NDArray[np.float64]) -> NDArray[np.float64]:
        bands = len(stacked) // 2
        centered = stacked - self.mean
        difference = self.first.T @ centered[:bands] - self.second.T @ centered[bands:]
        variance = (2 * (1 - self.correlations)).clip(_LEAST_VARIANCE)
        return np.asarray((difference**2 / variance[:, None]).sum(axis=0))
