"""Local displacement between two images of one place: least-squares matching on a pyramid, and a stiff field.

Each *node* stands for a square of :data:`NODE_PX` pixels. At every level of the pyramid, the second image is warped
by the field so far, and what is left is estimated around each node by least squares on the gradient (Lucas and Kanade,
"An iterative image registration technique", 1981; Gruen, "Adaptive least squares correlation", 1985). An estimate
comes with its information matrix: along an edge it knows only the direction across it. The field is the average of all
estimates weighted by their information (normalized convolution: Knutsson and Westin, 1993), which is repeated on its
own residual so that it does not flatten bends (twicing: Tukey, 1977), and in which estimates that contradict their
neighborhood, such as those of things that moved, lose their weight.

The coarse levels match the local contrast as well as the brightness: rows and tiles of a few pixels are the same a
period further on, and too fine for these levels, but how strong their contrast is differs from place to place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geosiam.imagery.registration import whole_shift
from geosiam.runtime import unchanged_environment

with unchanged_environment():
    import cv2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[Any]  # float32 (rows, cols)

NODE_PX = 16
"""Side in pixels of the square that a node stands for."""

STIFFNESS = (4.0, 2.0, 1.0, 0.7)
"""Standard deviations in nodes of the smoothing that a field may have, the stiffest first."""

LONGEST_PX = 100.0
"""Longest displacement that is looked for, in pixels."""


@dataclass(frozen=True)
class _Level:
    """Settings of a level of the pyramid.

    Parameters
    ----------
    scale
        Pixels of the scene along the side of one of the level's pixels.
    contrast_px
        Side of the window, in pixels of the level, in which brightness and contrast are made equal.
    nodes
        Nodes along the side of the squares that are matched as one.
    window
        Standard deviation of the window that a square is matched with, in squares.
    iterations
        Number of times that the image is warped and matched.
    """

    scale: int
    contrast_px: int
    nodes: int
    window: float
    iterations: int

    @property
    def square_px(self) -> int:
        """Side of a square in pixels of the level."""
        return NODE_PX * self.nodes // self.scale


_LEVELS = (_Level(16, 9, 4, 1.5, 2), _Level(8, 13, 2, 1.5, 2), _Level(4, 17, 1, 1.0, 3), _Level(2, 11, 1, 0.7, 5))
COARSE_PX, FINEST_PX = (level.scale for level in _LEVELS[-2:])
"""Sides in pixels of a pixel of the images that are matched: to know whether scenes bend apart, and to know how."""

_SQUARE = _LEVELS[0].nodes
_START = _LEVELS[1]  # in which the shift of the whole image is estimated
_TEXTURE_PX = 5  # side of the window in which the local contrast is measured, in pixels of the finest level
_NOISE = 2 / 255  # standard deviation of the values below which contrast is not amplified
_MIN_VALID = 0.2  # share of valid pixels around a node that is matched
_MIN_CORRELATION = 0.3  # of both images around a node
_MIN_GRADIENT = 0.01  # mean square of the gradient per pixel, of images with unit variance
_MIN_RESIDUAL = 0.02  # variance of the difference; a smaller one says nothing more about the accuracy
_PRIOR = 1e-3  # information of the field of the coarser level
_LONGEST_STEP = 1.5  # pixels of the level by which an iteration moves a node
_AGREEMENT = 0.3  # pixels of the level within which estimates agree with the field, at least
_ROUNDS = 3  # of robust weighting
_TWICINGS = 4
_TREND, _TREND_NODES = 2.0, 3.0  # smoothing of the trend, in that of the field and at least in nodes
_TREND_SQUARES = 1.5  # least smoothing of the trend in squares of nodes, which it is fitted to
_TREND_RIDGE = 0.05  # variance of the slopes' prior, in that of the window
_LEAST_STRETCH = 0.2  # determinant of the Jacobian; at zero the field folds
_FOLD_NODES, _FOLD_PEAK = 2.0, 0.03  # reach around a fold; the smoothed mask of a single one is larger than the peak


@dataclass(frozen=True)
class Matches:
    """Displacement that was estimated at every node by itself.

    Parameters
    ----------
    displacement
        float32 (2, rows, cols): how far the second image's content lies down and right, in pixels of the scene.
    information
        float32 (3, rows, cols): relative information matrix (down-down, down-right, right-right).
    reliable
        bool (rows, cols): whether there is texture and both images are alike.
    valid
        bool (rows, cols): whether both images have data there.
    correlation
        float32 (rows, cols): correlation of both images around the node.
    """

    displacement: NDArray[np.float32]
    information: NDArray[np.float32]
    reliable: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    correlation: NDArray[np.float32]

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Matches:
        """Return nodes without an estimate."""
        images = [np.zeros((count, *shape), np.float32) for count in (2, 3)]
        masks = [np.zeros(shape, bool) for _ in range(2)]
        return cls(images[0], images[1], masks[0], masks[1], np.zeros(shape, np.float32))

    def where(self, mask: NDArray[np.bool_]) -> Matches:
        """Return the matches with those outside of a mask marked as not reliable."""
        return replace(self, reliable=self.reliable & mask)

    def part(self, rows: slice, cols: slice) -> Matches:
        """Return the matches of some rows and columns of nodes."""
        displacement, information = (array[:, rows, cols] for array in (self.displacement, self.information))
        reliable, valid = self.reliable[rows, cols], self.valid[rows, cols]
        return Matches(displacement, information, reliable, valid, self.correlation[rows, cols])

    def coarsened(self, nodes: int) -> Matches:
        """Return squares of ``nodes x nodes`` nodes as one each; both sides are multiples of it."""
        if nodes == 1:
            return self
        rows, cols = (side // nodes for side in self.reliable.shape)

        def total(array: NDArray[Any]) -> NDArray[np.float32]:
            squares = array.reshape(-1, rows, nodes, cols, nodes)
            return np.asarray(squares.sum(axis=(2, 4)), np.float32)

        count = total(self.reliable)[0]
        weights = self.information * self.reliable
        information, sums = total(weights), total(_times(weights, self.displacement))
        (dd, dr, rr), (down, right) = information, sums
        displacement = _solved(dd, dr, rr, down, right, ridge=1e-9)
        mean = information / np.maximum(count, 1)
        correlation = np.asarray(total(self.correlation * self.reliable)[0] / np.maximum(count, 1), np.float32)
        return Matches(displacement, mean, count > 0, total(self.valid)[0] > 0, correlation)


@dataclass(frozen=True)
class Masked:
    """A gray image float32 (rows, cols), zero where not valid, and the share of valid pixels, float32 of that shape."""

    values: Image
    valid: Image

    def extended(self, height: int, width: int) -> Masked:
        """Return the image with pixels that are not valid at its end, up to a size."""
        missing = ((0, height - self.values.shape[0]), (0, width - self.values.shape[1]))
        if missing == ((0, 0), (0, 0)):
            return self
        return Masked(np.pad(self.values, missing), np.pad(self.valid, missing))

    def texture(self) -> Masked:
        """Return the local contrast: the standard deviation of the values around each pixel."""
        _, variance = _centered(self.values, self.valid, _TEXTURE_PX)
        return Masked(np.sqrt(variance.clip(0)) * self.valid, self.valid)  # rounding: where it is flat

    def halved(self) -> Masked:
        """Return the image at half the resolution, without what is too fine for it; half a pixel has to be valid."""
        height, width = (side // 2 * 2 for side in self.values.shape)
        size = width // 2, height // 2
        smooth = _smoothed(self.values) / np.maximum(_smoothed(self.valid), np.float32(1e-3)) * self.valid
        values, share = (
            cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA) for image in (smooth, self.valid)
        )
        valid = share > 0.49  # noqa: PLR2004 - half, whatever the rounding
        return Masked(np.where(valid, values / np.maximum(share, 0.25), np.float32(0)), valid.astype(np.float32))


def match(before: Masked, after: Masked, scale: int = FINEST_PX, start: NDArray[np.float32] | None = None) -> Matches:
    """Match two images at every node.

    Parameters
    ----------
    before, after
        Images of one size, at ``scale`` scene pixels a pixel and with values in [0, 1]. Both sides are multiples of
        ``NODE_PX / scale``.
    scale
        :data:`COARSE_PX` or :data:`FINEST_PX`.
    start
        float32 (2, rows, cols): a field from which only the finest level is matched; None: all levels are.
    """
    nodes = before.values.shape[0] * scale // NODE_PX, before.values.shape[1] * scale // NODE_PX
    rows, cols = (-(-count // _SQUARE) * _SQUARE for count in nodes)  # whole squares of the coarsest level
    size = rows * NODE_PX // scale, cols * NODE_PX // scale
    levels = [level for level in _LEVELS if level.scale >= scale]
    images = before.extended(*size), after.extended(*size)
    pyramid = {scale: [images]}
    if start is None:
        pairs = [images, (images[0].texture(), images[1].texture())]
        for level in reversed(levels[:-1]):
            pairs = [(first.halved(), second.halved()) for first, second in pairs]
            pyramid[level.scale] = pairs
        first, second = pyramid[_START.scale][0]
        equal = [_equalized(image.values, image.valid, _START.contrast_px) for image in (first, second)]
        shift = whole_shift(equal, (first.valid, second.valid), int(LONGEST_PX / _START.scale))
        field = np.reshape(np.multiply(shift, _START.scale), (2, 1, 1)).astype(np.float32)
    else:
        levels = levels[-1:]
        field = np.pad(start, ((0, 0), (0, rows - nodes[0]), (0, cols - nodes[1])), "edge")
    for level in levels:
        field = _resized(field, rows // level.nodes, cols // level.nodes)
        for iteration in range(level.iterations):
            matches = _match_once(pyramid[level.scale], field, level)
            if level.scale > scale or iteration + 1 < level.iterations:
                field, _ = smooth_field(matches, level.window, field, agreement=_AGREEMENT * level.scale)
    return matches.part(slice(nodes[0]), slice(nodes[1]))


def _resized(field: NDArray[np.float32], rows: int, cols: int) -> NDArray[np.float32]:
    """Return a field (2, ...) on a lattice of other squares over the same ground."""
    if field.shape[1:] == (rows, cols):
        return field
    return np.stack([cv2.resize(part, (cols, rows), interpolation=cv2.INTER_LINEAR) for part in field])


def _match_once(pairs: Sequence[tuple[Masked, Masked]], field: NDArray[np.float32], level: _Level) -> Matches:
    """Match pairs of images that show the same ground once more; the result is the total displacement.

    The second image of each is warped by a field, in pixels of the scene.
    """
    sums = np.sum([_normal_equations(before, _warped(after, field, level), level) for before, after in pairs], axis=0)
    dd, dr, rr, dt, rt, tt, product, first, second, shares = sums
    share = shares / np.float32(len(pairs))
    correlation = np.asarray(product / np.sqrt(first * second + 1e-6), np.float32)
    step = -_solved(dd, dr, rr, dt, rt, ridge=1e-3 * share + 1e-6)
    length = np.hypot(*step)
    step *= np.minimum(1, _LONGEST_STEP / np.maximum(length, 1e-6))
    squares = np.maximum(tt + step[0] * dt + step[1] * rt, 0)
    residual = np.maximum(squares / np.maximum(shares, 1e-3), _MIN_RESIDUAL)
    reliable = (share > _MIN_VALID) & (correlation > _MIN_CORRELATION) & (dd + rr > _MIN_GRADIENT * residual)
    total = field + step * np.float32(level.scale)
    return Matches(total, np.stack([dd, dr, rr]) / residual, reliable, share > _MIN_VALID, correlation)


def _normal_equations(before: Masked, after: Masked, level: _Level) -> NDArray[np.float32]:
    """Return the means around each node of which least squares on the gradient consists.

    Returns
    -------
    float32 (10, rows, cols) of squares of nodes: down-down, down-right, right-right, down-difference,
    right-difference and difference-difference; first-second, first-first and second-second; share of valid pixels
    """
    height, width = before.values.shape
    valid = before.valid * after.valid
    first, second = (_equalized(image.values, valid, level.contrast_px) for image in (before, after))
    mean = first + second
    valid = cv2.erode(valid, np.ones((3, 3), np.uint8))
    down, right = (cv2.Sobel(mean, -1, dx, dy, ksize=3, scale=1 / 16) for dx, dy in ((0, 1), (1, 0)))
    difference = _smoothed(second - first)  # as the gradient is, so that no step goes too far
    for image in (down, right, difference, first, second):
        np.multiply(image, valid, out=image)
    squares = width // level.square_px, height // level.square_px

    def around_nodes(a: Image, b: Image) -> Image:
        return blurred(cv2.resize(a * b, squares, interpolation=cv2.INTER_AREA), level.window)

    equations = [(down, down), (down, right), (right, right), (down, difference), (right, difference)]
    energies = [(difference, difference), (first, second), (first, first), (second, second), (valid, valid)]
    return np.stack([around_nodes(*pair) for pair in (*equations, *energies)])


def _warped(image: Masked, field: NDArray[np.float32], level: _Level) -> Masked:
    """Return an image with a field undone, in pixels of the scene; valid where all pixels it is made from are."""
    height, width = image.values.shape
    rows, cols = (
        cv2.resize(part / np.float32(level.scale), (width, height), interpolation=cv2.INTER_CUBIC) for part in field
    )
    rows += np.arange(height, dtype=np.float32)[:, None]
    cols += np.arange(width, dtype=np.float32)
    values, share = (
        cv2.remap(plane, cols, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        for plane in (image.values, image.valid)
    )
    return Masked(values, (share > 0.999).astype(np.float32))  # noqa: PLR2004 - all, whatever the rounding


def _equalized(image: Image, valid: Image, side: int) -> Image:
    """Return an image with mean 0 and variance 1 around every pixel; 0 where not valid."""
    centered, variance = _centered(image, valid, side)
    variance += np.float32(_NOISE**2)  # in place, here and below: new memory costs more than the arithmetic
    centered /= np.sqrt(variance, out=variance)
    return centered


def _centered(image: Image, valid: Image, side: int) -> tuple[Image, Image]:
    """Return an image without its mean around every pixel, 0 where not valid, and its variance around every pixel."""
    weight = np.maximum(_box(valid, side), np.float32(1e-3))
    centered = _box(image * valid, side)
    centered /= weight
    np.subtract(image, centered, out=centered)
    centered *= valid
    variance = _box(centered * centered, side)
    variance /= weight
    return centered, variance


def _smoothed(image: Image) -> Image:
    """Return an image smoothed by (1, 2, 1) / 4 along both axes, as a Sobel filter smooths across the gradient."""
    return cv2.GaussianBlur(image, (3, 3), 0)


def _box(image: Image, side: int) -> Image:
    return cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_REFLECT)


def blurred(image: Image, sigma: float) -> Image:
    """Return an image smoothed by a Gaussian; beyond its margins it is 0."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)


def _solved(a: Image, b: Image, c: Image, u: Image, v: Image, *, ridge: Image | float) -> NDArray[np.float32]:
    """Return the solution of [[a, b], [b, c]] x = [u, v] in every pixel, with a ridge on the diagonal."""
    a, c = a + ridge, c + ridge
    determinant = a * c - b * b
    return np.asarray(np.stack([c * u - b * v, a * v - b * u]) / determinant, np.float32)


def smooth_field(
    matches: Matches, sigma: float, prior: NDArray[np.float32], *, agreement: float = _AGREEMENT
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a field through matches.

    Parameters
    ----------
    matches
        Estimates at the nodes.
    sigma
        Standard deviation of the smoothing, in nodes.
    prior
        float32 (2, rows, cols): the field where there are no matches.
    agreement
        Distance in pixels within which a match agrees with the field, at least.

    Returns
    -------
    The field, float32 (2, rows, cols), and the weight of each match in it, 0 to 1, float32 (rows, cols).
    """
    weight = matches.reliable.astype(np.float32)
    field = prior
    for _ in range(_ROUNDS):
        information = matches.information * weight
        field = _local_trend(information, matches.displacement, prior, max(_TREND * sigma, _TREND_NODES))
        dd, dr, rr = (blurred(image, sigma) for image in information)
        for _ in range(1 + _TWICINGS):
            down, right = (blurred(image, sigma) for image in _times(information, matches.displacement - field))
            field = field + _solved(dd, dr, rr, down, right, ridge=_PRIOR)
        distance = np.hypot(*(matches.displacement - field))
        typical = float(np.median(distance[matches.reliable])) if matches.reliable.any() else 0.0
        weight = matches.reliable / (1 + (distance / max(agreement, 2 * typical)) ** 2) ** 2
        weight = weight.astype(np.float32)
    return field, weight


def _local_trend(
    information: NDArray[np.float32], values: NDArray[np.float32], prior: NDArray[np.float32], sigma: float
) -> NDArray[np.float32]:
    """Return the planes through the vectors (2, rows, cols) around each node, which go on beyond the outermost ones.

    They are so smooth that they are fitted in the middle of squares of nodes only, and interpolated.
    """
    side = max(1, int(sigma / _TREND_SQUARES))
    height, width = information.shape[1:]
    squares = -(-height // side) + 2, -(-width // side) + 2  # with a margin around them
    missing = ((side, squares[0] * side - height - side), (side, squares[1] * side - width - side))

    def means(image: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean of each square."""
        return np.asarray(cv2.resize(image, squares[::-1], interpolation=cv2.INTER_AREA), np.float64)

    def around(image: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean around each square."""
        return np.asarray(blurred(means(image), sigma / side))

    weight = np.pad((information[0] + information[2]).astype(np.float64), missing)
    positions = np.indices(weight.shape).astype(np.float64)
    row, col = positions[0], positions[1]
    rows, cols = means(row), means(col)
    s, sr, sc = around(weight), around(weight * row), around(weight * col)
    srr, src, scc = around(weight * row * row), around(weight * row * col), around(weight * col * col)
    ridge = _TREND_RIDGE * sigma**2 * s + _PRIOR
    a, b, c = s + _PRIOR, sr - rows * s, sc - cols * s  # of the normal equations, around each square
    d = srr - 2 * rows * sr + rows * rows * s + ridge
    e = src - rows * sc - cols * sr + rows * cols * s
    f = scc - 2 * cols * sc + cols * cols * s + ridge
    minors = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * minors[0] + b * minors[1] + c * minors[2]
    trend = []
    for value, before in zip(values, prior, strict=True):
        weighted = weight * np.pad(value, missing)
        v, vr, vc = around(weighted), around(weighted * row), around(weighted * col)
        prior_means = means(np.pad(before, missing, mode="edge"))
        sums = v + _PRIOR * prior_means, vr - rows * v, vc - cols * v
        middle = sum(minor * part for minor, part in zip(minors, sums, strict=True)) / determinant
        whole = cv2.resize(middle, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        trend.append(whole[side : side + height, side : side + width])
    return np.asarray(trend, np.float32)


def _times(information: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the products of information matrices (3, rows, cols) and vectors (2, rows, cols)."""
    (dd, dr, rr), (down, right) = information, vectors
    return np.stack([dd * down + dr * right, dr * down + rr * right])


def without_folds(
    field: NDArray[np.float32], stiffer: NDArray[np.float32], spacing: float = NODE_PX
) -> NDArray[np.float32]:
    """Return a field (2, rows, cols) in pixels that passes into a stiffer one around each node where it (almost) folds.

    A field folds where it maps neighboring nodes onto one place or in reverse order: where the determinant of its
    Jacobian is not positive. ``spacing`` is the distance of the nodes in pixels.
    """
    if min(field.shape[1:]) < 2:  # noqa: PLR2004 - no neighbors
        return field
    (down_down, down_right), (right_down, right_right) = (np.gradient(part / spacing) for part in field)
    folded = (1 + down_down) * (1 + right_right) - down_right * right_down < _LEAST_STRETCH
    if not folded.any():
        return field
    share = np.minimum(1, blurred(folded.astype(np.float32), _FOLD_NODES) / _FOLD_PEAK)
    return np.asarray(field + share * (stiffer - field), np.float32)
