"""Classical change detection methods that a user could run instead, behind one interface.

Each takes two images on one grid and gives a score for every pixel, larger if more changed. The scores are ranks, not
probabilities. They are cut at Otsu's threshold, as is usual for these methods, except for PCA-k-means, which classifies
the pixels itself.
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

_SSIM_WINDOW_PX = 11  # Gaussian weights of sigma 1.5, as in Wang et al.
_CELIK_BLOCK_PX, _CELIK_COMPONENTS = 4, 3
_CELIK_SAMPLE_PX = 100_000
_IRMAD_SAMPLE_PX = 200_000
_IRMAD_TOLERANCE = 1e-3  # largest change of a canonical correlation in the last iteration
_IRMAD_MAX_ITERATIONS = 50
_IRMAD_RIDGE = 1e-9  # fraction of the mean variance, added so that bands may be copies of each other
_IRMAD_MIN_VARIANCE = 1e-9


@dataclass(frozen=True)
class Baseline:
    """A classical method.

    Parameters
    ----------
    name
        Name on the command line.
    summary, source
        What the method does, and its publication.
    function
        Function that computes scores, float (rows, cols) in [0, 1], from (before, after, valid): float32
        (3, rows, cols) in [0, 1] twice, and bool (rows, cols). A score means the same in every pair.
    threshold
        Minimum score of a changed pixel; None: Otsu's threshold.
    """

    name: str
    summary: str
    source: str
    function: Callable[[Image, Image, Mask], NDArray[np.floating[Any]]]
    threshold: float | None = None

    def scores(self, before: Image, after: Image, valid: Mask) -> NDArray[np.float32]:
        """Return the scores of a pair: float32 (rows, cols) in [0, 1], NaN = not valid."""
        scores = self.function(before, after, valid).astype(np.float32)
        scores[~valid] = np.nan
        return scores

    def choose_threshold(self, scores: NDArray[np.float32]) -> float:
        """Return the minimum score of the pixels that the method reports as changed."""
        if self.threshold is not None:
            return self.threshold
        valid = scores[~np.isnan(scores)]
        if not valid.size or valid.min() == valid.max():
            return 1.0
        # Otsu's threshold is the last value of the lower class.
        return float(np.nextafter(np.float32(threshold_otsu(valid)), np.float32(1)))  # type: ignore[no-untyped-call]


def baseline(name: str) -> Baseline:
    """Return a baseline by name.

    Raises
    ------
    OptionError
        There is no baseline of this name.
    """
    if name not in BASELINES:
        raise OptionError(f"baseline {name!r}", "is not known", f"choose from {', '.join(BASELINES)}")
    return BASELINES[name]


def mean_difference(before: Image, after: Image, _valid: Mask) -> NDArray[np.floating[Any]]:
    """Return the mean absolute difference of the bands."""
    return np.asarray(np.abs(after - before).mean(axis=0))


def change_vector(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return the root mean square difference of the bands after matching histograms."""
    matched = _match_to(before, after, valid)
    return np.asarray(np.sqrt(((matched - before) ** 2).mean(axis=0)))


def irmad_distance(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return d / (d + expected d), with d the root of IR-MAD's chi-square statistic: a rank that never saturates."""
    scores = np.zeros(valid.shape, np.float64)
    if valid.any():
        distance = np.sqrt(irmad(before[:, valid], after[:, valid]).statistic)
        scores[valid] = distance / (distance + np.sqrt(len(before)))
    return scores


def structural_dissimilarity(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return (1 - SSIM) / 2 after matching histograms."""
    if min(valid.shape) < _SSIM_WINDOW_PX:
        fact = f"needs {_SSIM_WINDOW_PX} x {_SSIM_WINDOW_PX} px, the scene has {valid.shape}"
        raise OptionError("ssim", fact, "compare a larger piece, or leave ssim out")
    _, similarity = structural_similarity(
        before, _match_to(before, after, valid), channel_axis=0, data_range=1.0, full=True, gaussian_weights=True,
        use_sample_covariance=False,
    )  # type: ignore[no-untyped-call]  # fmt: skip
    return np.asarray((1 - similarity.mean(axis=0)) / 2)


def pca_kmeans(before: Image, after: Image, valid: Mask) -> NDArray[np.floating[Any]]:
    """Return the closeness of each pixel's neighborhood to the cluster of changes; above 0.5 it belongs to it."""
    try:
        from sklearn.cluster import KMeans  # noqa: PLC0415 - an extra
        from sklearn.decomposition import PCA  # noqa: PLC0415
    except ImportError as error:
        raise OptionError("pca-kmeans", "needs scikit-learn", "pip install 'geosiam[evaluation]'") from error
    size = _CELIK_BLOCK_PX
    difference = np.where(valid, np.abs(_match_to(before, after, valid) - before).mean(axis=0), 0)
    rows, cols = (length // size * size for length in difference.shape)
    tiles = difference[:rows, :cols].reshape(rows // size, size, -1, size).swapaxes(1, 2)
    blocks = tiles.reshape(-1, size**2)
    if len(blocks) <= _CELIK_COMPONENTS or np.ptp(blocks) == 0:
        return np.zeros(difference.shape)
    axes = PCA(_CELIK_COMPONENTS, random_state=0).fit(blocks).components_.reshape(-1, size, size)
    features = np.stack([ndimage.correlate(difference, axis, mode="nearest") for axis in axes], axis=-1)
    pixels = features[valid]
    sample = np.random.default_rng(0).choice(len(pixels), min(len(pixels), _CELIK_SAMPLE_PX), replace=False)
    clusters = KMeans(2, n_init=4, random_state=0).fit(pixels[sample])
    distances = clusters.transform(features.reshape(-1, _CELIK_COMPONENTS)).reshape(*difference.shape, 2)
    labels = clusters.predict(pixels)
    changed = 1
    if len(set(labels)) > 1:
        changed = int(difference[valid][labels == 1].mean() > difference[valid][labels == 0].mean())
    return np.asarray(distances[..., 1 - changed] / distances.sum(axis=-1).clip(1e-12))


def autoencoder_difference(before: Image, after: Image, _valid: Mask) -> NDArray[np.floating[Any]]:
    """Return by how much an autoencoder of the first image reproduces the second one worse than the first."""
    from geosiam.evaluation.autoencoder import reconstruction_error  # noqa: PLC0415 - torch is slow to import

    first, second = (np.rint(image.clip(0, 1) * 255).astype(np.uint8) for image in (before, after))
    model = _autoencoder(first.tobytes(), first.shape)
    return np.asarray(np.clip(reconstruction_error(model, second) - reconstruction_error(model, first), 0, 1))


@lru_cache(maxsize=1)
def _autoencoder(pixels: bytes, shape: tuple[int, ...]) -> Autoencoder:
    """Train an autoencoder on one image; cached, because one image is often compared with several in a row."""
    from geosiam.evaluation.autoencoder import train_autoencoder  # noqa: PLC0415 - torch is slow to import

    return train_autoencoder([np.frombuffer(pixels, np.uint8).reshape(shape).copy()])


def _match_to(before: Image, after: Image, valid: Mask) -> Image:
    """Return the second image with the histograms of its valid pixels matched to those of the first, band by band."""
    matched = after.copy()
    if valid.any():
        matched[:, valid] = match_histograms(after[:, valid], before[:, valid], channel_axis=0)
    return matched


@dataclass(frozen=True)
class IrMad:
    """Result of IR-MAD.

    Parameters
    ----------
    statistic
        float64 (n,), chi-square distributed, with one degree of freedom per band, for unchanged pixels.
    correlations
        float64 (bands,), canonical correlations, ascending.
    iterations
        Number of iterations.
    converged
        Whether the canonical correlations have converged.
    """

    statistic: NDArray[np.float64]
    correlations: NDArray[np.float64]
    iterations: int
    converged: bool


def irmad(
    before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]], *, sample: int = _IRMAD_SAMPLE_PX
) -> IrMad:
    """Run iteratively reweighted multivariate alteration detection (IR-MAD) to convergence.

    Parameters
    ----------
    before, after
        float (bands, n), the same pixels at both dates.
    sample
        Number of randomly drawn pixels to estimate from; the statistic is computed for all pixels.
    """
    bands, count = before.shape
    stacked = np.concatenate([before, after]).astype(np.float64)
    drawn = stacked
    if count > sample:
        drawn = stacked[:, np.random.default_rng(0).choice(count, sample, replace=False)]
    weights = np.ones(drawn.shape[1])
    previous = np.full(bands, np.inf)
    converged = False
    for iteration in range(1, _IRMAD_MAX_ITERATIONS + 1):
        try:
            variates = _Variates.of(drawn, weights)
        except LinAlgError:  # all weight is on equal pixels: nothing is left to correlate
            return IrMad(np.zeros(count), np.zeros(bands), iteration, converged=False)
        converged = bool(np.abs(variates.correlations - previous).max() < _IRMAD_TOLERANCE)
        if converged:
            break
        previous, weights = variates.correlations, chdtrc(bands, variates.statistic(drawn))
    return IrMad(variates.statistic(stacked), variates.correlations, iteration, converged)


@dataclass(frozen=True)
class _Variates:
    """Canonical variates of weighted pixels.

    Parameters
    ----------
    mean
        float64 (2 * bands, 1), mean of the bands of both scenes.
    before_axes, after_axes
        float64 (bands, bands), coefficients of the variates of each scene, one variate per column.
    correlations
        float64 (bands,), canonical correlations, ascending.
    """

    mean: NDArray[np.float64]
    before_axes: NDArray[np.float64]
    after_axes: NDArray[np.float64]
    correlations: NDArray[np.float64]

    @classmethod
    def of(cls, stacked: NDArray[np.float64], weights: NDArray[np.float64]) -> _Variates:
        """Compute the variates of pixels, float64 (2 * bands, n), with weights, float64 (n,)."""
        bands = len(stacked) // 2
        mean = (stacked @ weights / weights.sum())[:, None]
        centered = stacked - mean
        covariance = (centered * weights) @ centered.T / weights.sum()
        covariance += np.eye(2 * bands) * max(_IRMAD_RIDGE * np.trace(covariance) / (2 * bands), 1e-15)
        s11, s22, s12 = covariance[:bands, :bands], covariance[bands:, bands:], covariance[:bands, bands:]
        # s12 s22^-1 s21 a = rho^2 s11 a, ascending: MAD variates are numbered from the smallest correlation.
        squares, a = eigh(s12 @ np.linalg.solve(s22, s12.T), s11)
        b = np.linalg.solve(s22, s12.T @ a)
        b /= np.sqrt(np.einsum("ij,ik,kj->j", b, s22, b)).clip(1e-15)
        return cls(mean, a, b, np.sqrt(squares.clip(0, 1)))

    def statistic(self, stacked: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of squared standardized differences of the variates of each pixel: float64 (n,)."""
        bands = len(stacked) // 2
        centered = stacked - self.mean
        difference = self.before_axes.T @ centered[:bands] - self.after_axes.T @ centered[bands:]
        variance = (2 * (1 - self.correlations)).clip(_IRMAD_MIN_VARIANCE)
        return np.asarray((difference**2 / variance[:, None]).sum(axis=0))


_BASELINES = (
    Baseline("difference", "mean absolute difference of the bands", "Singh, IJRS 10 (1989)", mean_difference),
    Baseline("cva", "change vector analysis after histogram matching", "Malila, LARS Symposia (1980)", change_vector),
    Baseline("irmad", "iteratively reweighted MAD, to convergence", "Nielsen, IEEE TIP 16 (2007)", irmad_distance),
    Baseline(
        "ssim", "dissimilarity after histogram matching", "Wang et al., IEEE TIP 13 (2004)", structural_dissimilarity
    ),
    Baseline("pca-kmeans", "clusters of principal components", "Celik, IEEE GRSL 6 (2009)", pca_kmeans, 0.5),
    Baseline("autoencoder", "reconstruction error", "Hawkins et al., DaWaK (2002)", autoencoder_difference),
)
BASELINES = {method.name: method for method in _BASELINES}
"""All baselines by name."""
