"""The displacement field of a pair: how far the after scene's content lies apart, from place to place."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geosiam.errors import SceneUnreadableError
from geosiam.imagery.grid import Grid, Window
from geosiam.imagery.optical_flow import (
    COARSE_PX,
    FINEST_PX,
    NODE_PX,
    STIFFNESS,
    Masked,
    Matches,
    blurred,
    match,
    smooth_field,
    without_folds,
)
from geosiam.imagery.registration import Shift
from geosiam.imagery.resampling import OPENCV_TYPES, interpolated
from geosiam.runtime import default_workers, unchanged_environment

with unchanged_environment():
    import cv2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from geosiam.imagery.normalization import Stretch
    from geosiam.imagery.reader import AlignedReader
    from geosiam.imagery.registration import RegistrationPolicy

_WINDOW_PX = 1536  # side of the windows in which the scenes are matched
_MARGIN_PX = 128  # around a window, so that the displacement finds its counterpart
_MAX_THREADS = 8  # each needs about 100 MB
_MAX_NODES = 1_000_000  # of a field; of larger scenes, several nodes become one
_BACKGROUND = 16.0  # standard deviation in nodes of the smoothing that fills where nothing is known
_HELD_OUT_NODES = 3  # side of the squares of nodes that are predicted from the others
_NEIGHBORHOOD = 2.0  # standard deviation in nodes of the neighborhood whose agreement is the confidence
_TYPICAL_PERCENTILE = 80  # of the distances by which stiffnesses are compared; what moved or changed lies above
_STIFFER_IS_BETTER = 1.25  # a stiffer field may predict single nodes this much worse
_TOLERANCE_PX = 0.1  # and by this many pixels
_PROMISING = 0.9  # share of the least bend that a coarse estimate has to show to be made finer
_NEAR_NODES = 2  # from known nodes, within which finer matches are taken
_MIN_MATCHES = 12  # reliable nodes from which a field can be drawn
_MIN_KNOWN = 0.5  # share of the neighborhood of a node that has to agree with the field
_MIN_LOCAL = 0.1  # share of its closest surroundings that have to be matched for a displacement of their own
_AGREEMENT_PX = 1.0  # a match within this distance agrees
_OUTLIER = 3.0  # times the usual distance from the stiffest field; a match beyond does not take part
_SURROUNDED = 0.9  # share of reliable nodes around one that the stiffest field can judge; it is not exact at a margin
_ALIKE, _NEAR_PX = 0.8, 3.0  # with this correlation, which no two different places have, it does within this distance


@dataclass(frozen=True)
class DisplacementField:
    """Displacement of the after scene's content relative to the before scene's, on a lattice of nodes.

    Node ``(i, j)`` stands for a square of ``spacing`` pixels of the before scene, whose first pixel is
    ``(first[0] + i, first[1] + j) * spacing``.

    Parameters
    ----------
    spacing
        Distance between nodes in pixels of the before scene.
    first
        Row and column of the first node of the lattice that begins at the before scene's first pixel.
    displacement
        float32 (2, rows, cols): how far the content lies too far down and right, in pixels of the before scene.
    confidence
        float32 (rows, cols): share of the ground around the node whose match agrees with a field that was drawn
        without it, 0 to 1.
    local
        float32 (2, rows, cols): the displacement of the closest surroundings, which the field may be too stiff to
        follow; NaN where nothing was matched.
    applied
        Whether the after scene is read through the field.
    shift
        Shift (down, right) that is corrected if it is not.
    """

    spacing: int
    first: tuple[int, int]
    displacement: NDArray[np.float32]
    confidence: NDArray[np.float32]
    local: NDArray[np.float32]
    applied: bool = False
    shift: tuple[float, float] = (0.0, 0.0)

    def plus(self, rows: float, cols: float) -> DisplacementField:
        """Return the total displacement if the field was estimated after a shift had been corrected."""
        shift = np.array([rows, cols], np.float32)[:, None, None]
        return replace(self, displacement=self.displacement + shift, local=self.local + shift, shift=(rows, cols))

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether the displacement of a node was estimated, not only continued from others: bool (rows, cols)."""
        return self.confidence >= _MIN_KNOWN

    @property
    def longest(self) -> float:
        """Length of the longest displacement in pixels."""
        return float(np.hypot(*self.displacement).max())

    @property
    def checksum(self) -> str:
        """Digest of the displacements."""
        return hashlib.sha256(self.displacement.tobytes()).hexdigest()[:16]

    def grid(self, target: Grid) -> Grid:
        """Return the grid of the nodes as a raster, where ``target`` is the before scene's."""
        rows, cols = self.confidence.shape
        transform = target.transform @ Affine.scale(self.spacing) @ Affine.translation(*reversed(self.first))
        return Grid(target.crs, transform, cols, rows)

    def around(self, window: Window) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and columns of the lattice whose nodes the pixels of a window are interpolated from."""
        rows, cols = (
            np.arange((start - self.spacing) // self.spacing - 1, (stop + self.spacing) // self.spacing + 2)
            for start, stop in ((window.row_start, window.row_stop), (window.col_start, window.col_stop))
        )
        return rows, cols

    def at_nodes(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the displacement (2, rows, cols) at nodes of the lattice; beyond the field, that of its margin."""
        inside = [
            (numbers - first).clip(0, size - 1)
            for numbers, first, size in zip((rows, cols), self.first, self.confidence.shape, strict=True)
        ]
        return self.displacement[:, inside[0]][:, :, inside[1]].astype(np.float64)

    def start(self, window: Window) -> NDArray[np.float32]:
        """Return the displacement (2, rows, cols) of each node of a window, that of its surroundings where known."""
        rows, cols = self.around(window)
        closest = np.where(np.isfinite(self.local), self.local, self.displacement)
        values = replace(self, displacement=closest).at_nodes(rows, cols)
        edges = (rows[0], window.row_start, window.row_stop), (cols[0], window.col_start, window.col_stop)
        for axis, (first, start, stop) in enumerate(edges, start=1):
            middles = np.arange(start + NODE_PX / 2, stop, NODE_PX)
            values = interpolated(values, axis, middles / self.spacing - 0.5 - first)
        return values.astype(np.float32)

    @property
    def remaining(self) -> NDArray[np.float64]:
        """Distance in pixels that both scenes are apart at each node as they are read, (rows, cols); NaN = unknown."""
        corrected = self.displacement if self.applied else np.reshape(self.shift, (2, 1, 1))
        return np.where(self.is_known, np.hypot(*(self.local - corrected)), np.nan).astype(np.float64)

    def remaining_at(self, rows: NDArray[np.floating[Any]], cols: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return what remains, in pixels, at pixel positions of shape (n,); NaN where it is not known."""
        row, col = (
            (np.floor(position / self.spacing).astype(np.intp) - first).clip(0, size - 1)
            for position, first, size in zip((rows, cols), self.first, self.confidence.shape, strict=True)
        )
        return np.asarray(self.remaining[row, col], np.float64)


@dataclass(frozen=True)
class FieldEstimate:
    """What local matches say about the misregistration of a view of a pair; lengths in pixels of the before scene.

    Parameters
    ----------
    field
        The field, relative to the view.
    shift
        The one shift that fits the whole scene best, relative to the view.
    bend
        Distance of the field from that shift where it is known: median, 95th percentile and largest.
    unknown_fraction
        Share of the ground where both scenes have data but nothing could be matched, 0 to 1.
    agreement
        Share of the matches that agree with a field that was drawn without them, 0 to 1.
    error_of_shift, error_of_field
        Median distance of matches from the one shift, and from a field that was drawn without them.
    """

    field: DisplacementField
    shift: Shift
    bend: tuple[float, float, float]
    unknown_fraction: float
    agreement: float
    error_of_shift: float
    error_of_field: float

    def to_dict(self, displacement: DisplacementField | None) -> dict[str, Any]:
        """Return plain values for a report, with what is known of the displacement as it was applied."""
        applied = displacement is not None and displacement.applied
        median, large, largest = (round(value, 3) for value in self.bend)
        return {
            "applied": applied,
            "median_px": median,
            "p95_px": large,
            "largest_px": largest,
            "agreement": round(self.agreement, 3),
            "unknown_fraction": round(self.unknown_fraction, 4),
            "checksum": displacement.checksum if displacement is not None and applied else None,
        }

    def may_improve(self, policy: RegistrationPolicy) -> bool:
        """Return whether a finer estimate could show that the field fits better than one shift."""
        bends = self.bend[1] >= _PROMISING * policy.min_bend_px
        return bends and self.agreement >= policy.min_agreement and self.shift.patches >= policy.min_nodes

    def improves(self, policy: RegistrationPolicy) -> bool:
        """Return whether the scenes bend apart, so that the field fits provably better than one shift."""
        return (
            self.bend[1] >= policy.min_bend_px
            and self.shift.patches >= policy.min_nodes
            and self.agreement >= policy.min_agreement
            and self.error_of_field <= policy.max_error_ratio * self.error_of_shift
        )


def estimate_field(
    before: AlignedReader,
    after: AlignedReader,
    overlap: Window,
    stretches: tuple[Stretch, Stretch],
    *,
    coarse: FieldEstimate | None = None,
    skip_unreadable: bool = False,
    workers: int | None = None,
) -> FieldEstimate | None:
    """Estimate the displacement field of a view of a pair; None if the scenes cannot be matched anywhere.

    The first estimate, from images at a quarter of the resolution, tells cheaply whether and how the scenes bend apart;
    from it, a second one is made at half of the resolution.

    Parameters
    ----------
    before, after
        Readers of both scenes on the before scene's grid.
    overlap
        Window that both may cover.
    stretches
        Stretch of each scene's values to [0, 1].
    coarse
        The first estimate of the same view, which is made finer; None: make the first one.
    skip_unreadable
        Leave out windows that cannot be decoded, instead of raising.
    workers
        Number of threads; None: one for each processor. The result does not depend on it.
    """
    lattice = _Lattice.over(overlap)
    matches = Matches.none(lattice.shape)
    scale = COARSE_PX if coarse is None else FINEST_PX

    def match_window(window: Window) -> tuple[Window, Matches | None]:
        area = window.grown(_MARGIN_PX)
        try:
            first, second = (
                _gray(*reader.read(area), stretch, scale)
                for reader, stretch in zip((before, after), stretches, strict=True)
            )
        except SceneUnreadableError:
            if not skip_unreadable:
                raise
            return window, None
        if not (first.valid.any() and second.valid.any()):
            return window, None
        return window, match(first, second, scale, None if coarse is None else coarse.field.start(area))

    threads = min(workers or default_workers(), _MAX_THREADS)
    with ThreadPoolExecutor(threads, "geosiam-register") as pool:
        for window, result in pool.map(match_window, lattice.windows()):
            if result is not None:
                lattice.insert(matches, window, result)
    for reader in (before, after):
        reader.clear_cache()
    if coarse is not None:
        square = np.ones((2 * _NEAR_NODES + 1,) * 2, np.uint8)  # farther away, a pattern may be matched a period off
        matches = matches.where(cv2.dilate(coarse.field.is_known.astype(np.uint8), square) > 0)
    return _estimate(lattice, matches)


def _gray(values: NDArray[Any], valid: NDArray[np.bool_], stretch: Stretch, scale: int) -> Masked:
    """Return the brightness of a scene in [0, 1], averaged to pixels of ``scale`` of the scene's."""
    is_whole = valid.all()
    if not is_whole:
        values = np.where(valid, values, np.zeros((), values.dtype))
    if values.dtype not in OPENCV_TYPES:
        values = values.astype(np.float64)
    means = np.stack([_averaged(band, scale) for band in values])
    share = np.ones(means.shape[1:], np.float32)
    if not is_whole:
        share = _averaged(valid.astype(np.float32), scale)
        means = means / np.maximum(share, np.float32(1 / scale**2))
    inside = (share > 0.49).astype(np.float32)  # noqa: PLR2004 - half, whatever the rounding
    return Masked(stretch.apply(means).mean(axis=0) * inside, inside)


def _averaged(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return an image in pixels that are the mean of ``scale x scale``, where ``scale`` is a power of two."""
    for _ in range(scale.bit_length() - 1):  # one step of 4 takes three times as long
        size = image.shape[1] // 2, image.shape[0] // 2
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image


@dataclass(frozen=True)
class _Lattice:
    """The nodes of a field over a window of the before scene.

    Parameters
    ----------
    first
        Row and column of the first node.
    shape
        Rows and columns.
    nodes
        Number of nodes of :data:`NODE_PX` along the side of one of the lattice.
    """

    first: tuple[int, int]
    shape: tuple[int, int]
    nodes: int

    @classmethod
    def over(cls, overlap: Window) -> _Lattice:
        """Return the lattice over a window, as fine as its size allows."""
        nodes = 1
        while (
            overlap.shape[0] * overlap.shape[1] / (NODE_PX * nodes) ** 2 > _MAX_NODES and NODE_PX * nodes < _WINDOW_PX
        ):
            nodes *= 2
        side = NODE_PX * nodes
        first = overlap.row_start // side, overlap.col_start // side
        last = -(-overlap.row_stop // side), -(-overlap.col_stop // side)
        return cls(first, (last[0] - first[0], last[1] - first[1]), nodes)

    @property
    def spacing(self) -> int:
        """Distance of nodes in pixels."""
        return NODE_PX * self.nodes

    def windows(self) -> Iterator[Window]:
        """Yield the windows that are matched, which cover all nodes."""
        (row, col), (rows, cols), side = self.first, self.shape, self.spacing
        whole = Window(row * side, (row + rows) * side, col * side, (col + cols) * side)
        for top in range(whole.row_start // _WINDOW_PX * _WINDOW_PX, whole.row_stop, _WINDOW_PX):
            for left in range(whole.col_start // _WINDOW_PX * _WINDOW_PX, whole.col_stop, _WINDOW_PX):
                part = Window(top, top + _WINDOW_PX, left, left + _WINDOW_PX).intersection(whole)
                assert part is not None
                yield part

    def insert(self, matches: Matches, window: Window, result: Matches) -> None:
        """Insert the matches of a window, without its margin."""
        margin, side = _MARGIN_PX // NODE_PX, self.spacing
        inner = (slice(margin, count - margin) for count in result.reliable.shape)
        part = result.part(*inner).coarsened(self.nodes)
        rows = slice(window.row_start // side - self.first[0], window.row_stop // side - self.first[0])
        cols = slice(window.col_start // side - self.first[1], window.col_stop // side - self.first[1])
        matches.displacement[:, rows, cols] = part.displacement
        matches.information[:, rows, cols] = part.information
        matches.reliable[rows, cols] = part.reliable
        matches.valid[rows, cols] = part.valid
        matches.correlation[rows, cols] = part.correlation


def _estimate(lattice: _Lattice, matches: Matches) -> FieldEstimate | None:
    """Draw the stiffest field that explains the matches."""
    if np.count_nonzero(matches.reliable) < _MIN_MATCHES:
        return None
    reliable = matches.reliable
    center = np.median(matches.displacement[:, reliable], axis=1)
    one = np.zeros_like(matches.displacement) + center.astype(np.float32)[:, None, None]
    distance = np.hypot(*(matches.displacement - one))[reliable]
    shift = Shift(float(center[0]), float(center[1]), float((distance <= _AGREEMENT_PX).mean()), len(distance))
    background, _ = smooth_field(matches, _BACKGROUND, one)
    matches = _without_outliers(matches, background)
    sigma = _stiffness(matches, background)
    displacement, stiff = (smooth_field(matches, value, background)[0] for value in (sigma, STIFFNESS[0]))
    displacement = without_folds(displacement, stiff, lattice.spacing)
    rows, cols = np.indices(matches.reliable.shape) // _HELD_OUT_NODES
    squares = (rows + cols) % 2 == 0
    errors = _held_out_errors(matches, (squares, ~squares), sigma, background)
    whole = np.ones_like(errors)
    alike = (matches.correlation >= _ALIKE) & (errors <= _NEAR_PX)
    agrees = (alike | (errors <= _AGREEMENT_PX)).astype(np.float32)
    confidence = np.asarray(blurred(agrees, _NEIGHBORHOOD) / blurred(whole, _NEIGHBORHOOD), np.float32)
    local, weight = smooth_field(matches, STIFFNESS[-1], displacement)
    local[:, blurred(weight, STIFFNESS[-1]) < _MIN_LOCAL * blurred(whole, STIFFNESS[-1])] = np.nan
    field = DisplacementField(lattice.spacing, lattice.first, displacement, confidence, local)
    bend = np.hypot(*(displacement - one))[field.is_known]
    if not bend.size:
        return None
    median, large, largest = (float(value) for value in np.percentile(bend, (50, 95, 100)))
    valid = int(np.count_nonzero(matches.valid))
    unknown = 1 - int(np.count_nonzero(field.is_known & matches.valid)) / max(1, valid)
    return FieldEstimate(
        field,
        shift,
        bend=(median, large, largest),
        unknown_fraction=unknown,
        agreement=float(agrees[reliable].mean()),
        error_of_shift=float(np.median(distance)),
        error_of_field=float(np.nanmedian(errors)),
    )


def _without_outliers(matches: Matches, background: NDArray[np.float32]) -> Matches:
    """Leave out matches far from the stiffest field, compared with the others: those of things that moved."""
    field, _ = smooth_field(matches, STIFFNESS[0], background)
    distance = np.hypot(*(matches.displacement - field))
    usual = np.percentile(distance[matches.reliable], _TYPICAL_PERCENTILE)
    far = distance > max(_AGREEMENT_PX, _OUTLIER * usual)
    surrounded = blurred(matches.reliable.astype(np.float32), STIFFNESS[0]) >= _SURROUNDED
    return matches.where(~(far & surrounded))


def _stiffness(matches: Matches, background: NDArray[np.float32]) -> float:
    """Return the stiffness of the field: the stiffest that predicts single nodes about as well as any other."""
    rows, cols = np.indices(matches.reliable.shape)
    part = np.isin(3 * (rows % 3) + cols % 3, (0, 5))  # two of nine, none beside another
    errors = [
        np.nanpercentile(_held_out_errors(matches, [part], sigma, background), _TYPICAL_PERCENTILE)
        for sigma in STIFFNESS
    ]
    enough = max(min(errors) * _STIFFER_IS_BETTER, min(errors) + _TOLERANCE_PX)
    return next((sigma for sigma, error in zip(STIFFNESS, errors, strict=True) if error <= enough), STIFFNESS[0])


def _held_out_errors(
    matches: Matches, parts: Sequence[NDArray[np.bool_]], sigma: float, background: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the distance in pixels of each match in one of the parts from a field that is drawn without that part.

    Returns
    -------
    float32 (rows, cols), NaN outside of the parts and where no match is reliable
    """
    errors = np.full(matches.reliable.shape, np.nan, np.float32)
    for part in parts:
        field, _ = smooth_field(matches.where(~part), sigma, background)
        members = part & matches.reliable
        errors[members] = np.hypot(*(matches.displacement - field))[members]
    return errors
