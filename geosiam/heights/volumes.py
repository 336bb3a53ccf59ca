"""Heights and volumes inside an outline, from whole numbers, so that neither blocks nor threads matter.

Differences are whole millimeters, and a pixel counts with the number of its 16 parts that lie inside the outline.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rasterio.features import rasterize
from scipy import ndimage

from geosiam.heights.coregistration import LEVEL_95
from geosiam.imagery.grid import common_parts
from geosiam.imagery.scene import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    import shapely
    from affine import Affine
    from numpy.typing import NDArray

    from geosiam.heights.coregistration import Coregistration

PARTS = 4
"""Parts along the side of a pixel; the outline is exact to these."""

EVIDENCE = ("raised", "lowered", "level", "unknown")
"""Values of the column ``height_evidence``."""

_RASTERIZING = threading.Lock()  # rasterio silences a warning meanwhile, in a way that two threads at once break
_MM = 1000
_MIN_KNOWN = 0.5  # fraction of an outline with heights, without which nothing is said
_MIN_SHARE = 0.25  # fraction of an outline beyond the level of detection that makes it raised or lowered
_OFF_NADIR = math.tan(math.radians(30.0))  # the largest lean that a mosaic of frames shows
_MIN_STEP_M = 0.5  # height that stands out of noise and grass
_MOSTLY, _HALF = 0.7, 0.5  # shares of an outline within reach of a lean
_SAME = 0.1  # fraction of the steps around an outline by which its height may differ and be the same
_ROOF_M = 2.0  # height above the surroundings from which something is a roof
_SAME_M = 0.2  # and meters
_SLOPING = 0.1  # slope of the ground that does not make a roof
_SLACK_M = 0.5  # by which outlines of a lean are wider than itself


class HeightStats(NamedTuple):
    """Heights and volumes of one outline; NaN = unknown.

    Parameters
    ----------
    dz_mean, dz_median, dz_min, dz_max
        Height of the after surface above the before surface inside the outline, in meters.
    volume_gain_m3, volume_loss_m3
        Volumes above and below the before surface.
    volume_sigma_m3
        Standard error of the net volume.
    height_fraction
        Fraction of the outline with heights on both dates, 0 to 1.
    height_evidence
        One of :data:`EVIDENCE`.
    """

    dz_mean: float
    dz_median: float
    dz_min: float
    dz_max: float
    volume_gain_m3: float
    volume_loss_m3: float
    volume_sigma_m3: float
    height_fraction: float
    height_evidence: str


@dataclass
class Tally:
    """Sums of the pixels of one outline, in whole numbers.

    Parameters
    ----------
    total, known
        Parts of pixels inside the outline, and those with heights on both dates.
    above, below, between
        Millimeters times parts, of pixels above the level of detection, below it, and between.
    raised, lowered
        Parts of pixels above and below the level of detection.
    noise
        Noise of the pixels in micrometers times parts.
    edge, edge_parts
        Millimeters times parts, and parts, of the pixels just outside of the outline.
    values
        Counts of parts by millimeters: arrays of values and counts, one pair a block.
    """

    total: int = 0
    known: int = 0
    above: int = 0
    below: int = 0
    between: int = 0
    raised: int = 0
    lowered: int = 0
    noise: int = 0
    edge: int = 0
    edge_parts: int = 0

    def __post_init__(self) -> None:
        self.values: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, parts: NDArray[np.int64], dz: NDArray[np.floating], noise: NDArray[np.floating]) -> None:
        """Add pixels (rows, cols): parts inside the outline, difference in meters (NaN = unknown), and its noise."""
        self.total += int(parts.sum())
        inside = (parts > 0) & np.isfinite(dz)
        count, value = parts[inside], np.rint(dz[inside] * _MM).astype(np.int64)
        deviation = np.nan_to_num(noise[inside].astype(np.float64))
        limit = LEVEL_95 * deviation * _MM
        up, down = value > limit, value < -limit
        product = value * count
        self.known += int(count.sum())
        self.above += int(product[up].sum())
        self.below += int(product[down].sum())
        self.between += int(product[~up & ~down].sum())
        self.raised += int(count[up].sum())
        self.lowered += int(count[down].sum())
        self.noise += int((np.rint(deviation * _MM * _MM).astype(np.int64) * count).sum())
        unique, place = np.unique(value, return_inverse=True)
        self.values.append((unique, np.bincount(place, weights=count, minlength=len(unique)).astype(np.int64)))

    def add_edge(self, parts: NDArray[np.int64], dz: NDArray[np.floating]) -> None:
        """Add pixels just outside of the outline, as :meth:`add` does."""
        pixels = (parts > 0) & np.isfinite(dz)
        self.edge += int((np.rint(dz[pixels] * _MM).astype(np.int64) * parts[pixels]).sum())
        self.edge_parts += int(parts[pixels].sum())

    def histogram(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the millimeters that occur, ascending, and the number of parts of each."""
        if not self.values:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        values, counts = (np.concatenate(column) for column in zip(*self.values, strict=True))
        unique, place = np.unique(values, return_inverse=True)
        return unique, np.bincount(place, weights=counts, minlength=len(unique)).astype(np.int64)


def stats(tally: Tally, pixel_area: float, errors: Coregistration) -> HeightStats:
    """Return the heights and volumes of an outline.

    A pixel within the level of detection does not say whether ground was added or taken away: these pixels count
    together, on the side of their sum. So the noise of level ground is neither gain nor loss, the foot of a heap is not
    lost, and gain less loss is exactly the sum of all differences. Voids get the mean of the outline.

    Beside the errors of the heights, the standard error of the volume counts what a void may hide, and what the outline
    cuts off: dense matching smears a steep side over pixels on both sides of it, so what lies just outside of the
    outline, beyond what errors of the heights explain, may belong to it.

    Parameters
    ----------
    tally
        Sums of its pixels.
    pixel_area
        Area of a pixel in square meters.
    errors
        Errors of the difference.
    """
    fraction = tally.known / tally.total if tally.total else 0.0
    if not tally.known:
        nan = float("nan")
        return HeightStats(nan, nan, nan, nan, nan, nan, nan, fraction, "unknown")
    values, counts = tally.histogram()
    mean = (tally.above + tally.below + tally.between) / tally.known / _MM
    median = float(values[np.searchsorted(np.cumsum(counts) * 2, tally.known)]) / _MM
    gain = (tally.above + max(tally.between, 0)) / tally.known / _MM
    loss = -(tally.below + min(tally.between, 0)) / tally.known / _MM
    pixels = tally.total / PARTS**2
    area = pixels * pixel_area
    error = errors.mean_error(math.sqrt(pixels), tally.noise / tally.known / _MM**2)
    spread = math.sqrt(float((counts * (values / _MM - mean) ** 2).sum()) / tally.known)
    error = math.hypot(error, (1 - fraction) * spread)
    sigma = math.hypot(error, _cut_off(tally, errors) / pixels)
    evidence, volumes = "unknown", (float("nan"),) * 3
    if fraction >= _MIN_KNOWN:
        evidence, volumes = _evidence(tally, mean, error), (gain * area, loss * area, sigma * area)
    return HeightStats(mean, median, values[0] / _MM, values[-1] / _MM, *volumes, fraction, evidence)


def _cut_off(tally: Tally, errors: Coregistration) -> float:
    """Return the height just outside of an outline, summed over pixels, that errors do not explain; in meters."""
    if not tally.edge_parts:
        return 0.0
    pixels = tally.edge_parts / PARTS**2
    error = errors.mean_error(math.sqrt(pixels), tally.noise / tally.known / _MM**2)
    limit = LEVEL_95 * error * pixels
    return max(0.0, abs(tally.edge) / PARTS**2 / _MM - (limit if math.isfinite(limit) else 0.0))


def _evidence(tally: Tally, mean: float, error: float) -> str:
    if not math.isfinite(error):
        return "unknown"
    up, down = tally.raised / tally.known, tally.lowered / tally.known
    if max(up, down) < _MIN_SHARE or abs(mean) <= LEVEL_95 * error:
        return "level"
    return "raised" if mean > 0 else "lowered"


def parts_inside(outline: shapely.Geometry, transform: Affine, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the number of parts of each pixel, of ``PARTS x PARTS``, whose center lies inside an outline.

    Parameters
    ----------
    outline
        Polygon or MultiPolygon in coordinates of the CRS.
    transform
        Maps (column, row) of the pixels to coordinates.
    shape
        Rows and columns.
    """
    if outline.is_empty:
        return np.zeros(shape, np.int64)
    mask = rasterized([outline], transform @ transform.scale(1 / PARTS), (shape[0] * PARTS, shape[1] * PARTS))
    return np.asarray(mask.reshape(shape[0], PARTS, shape[1], PARTS).sum(axis=(1, 3)), np.int64)


def rasterized(outlines: Sequence[shapely.Geometry], transform: Affine, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 1 where the center of a pixel lies inside one of some outlines, else 0: uint8 (rows, cols)."""
    with _RASTERIZING, environment():
        return np.asarray(rasterize(outlines, out_shape=shape, transform=transform, dtype="uint8"), np.uint8)


def within_lean(
    heights: NDArray[np.floating], pixel_m: tuple[float, float], tangent: float = _OFF_NADIR
) -> NDArray[np.bool_]:
    """Return where a leaning picture may show something else than what stands there, bool (rows, cols).

    A thing at height h above its surroundings appears up to ``h * tangent`` away, and hides or uncovers what is there.
    So a pixel is within reach if the surface anywhere around it rises, or falls, by more than the distance divided by
    the tangent. Distances go along eight directions, and are at most 8 % too long.

    Parameters
    ----------
    heights
        Heights in meters, (rows, cols), NaN = void.
    pixel_m
        Lengths of a pixel along a row and along a column in meters.
    tangent
        Tangent of the largest angle between line of sight and vertical.
    """
    valid = np.isfinite(heights)
    if not valid.any():
        return np.zeros(heights.shape, bool)
    high, low = np.where(valid, heights, -np.inf), np.where(valid, heights, np.inf)
    reach = (float(heights[valid].max()) - float(heights[valid].min())) * tangent / min(pixel_m)
    step = 1 << max(0, min(int(reach), max(heights.shape)).bit_length() - 1)
    while step:
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            cost = math.hypot(down * pixel_m[1], right * pixel_m[0]) * step / tangent
            np.maximum(high, _moved(high, down * step, right * step, -np.inf) - cost, out=high)
            np.minimum(low, _moved(low, down * step, right * step, np.inf) + cost, out=low)
        step //= 2
    with np.errstate(invalid="ignore"):
        return np.asarray(valid & ((high - heights >= _MIN_STEP_M) | (heights - low >= _MIN_STEP_M)), bool)


def _moved(image: NDArray[np.floating], down: int, right: int, fill: float) -> NDArray[np.floating]:
    """Return an image whose content is shifted down and right, with a value where nothing comes from."""
    moved = np.full_like(image, fill)
    if abs(down) < image.shape[0] and abs(right) < image.shape[1]:
        source, target = common_parts(image.shape, down, right)
        moved[target] = image[source]
    return moved


class Size(NamedTuple):
    """Area of an outline in square meters, and its mean width in meters: twice the area by the perimeter."""

    area: float
    width: float


def likely_lean(
    parts: NDArray[np.int64],
    surfaces: NDArray[np.floating],
    pixel_m: tuple[float, float],
    row: HeightStats,
    *,
    size: Size,
    shift_fraction: float,
) -> bool:
    """Return whether an outline probably shows a roof or a crown that leans, rather than a change.

    Its height has to be the same on both dates: level, or different by less than 0.2 m and a tenth of the steps around
    it. And

    - most of it lies within reach of such a step or on a roof, and it is as narrow as what leans, or its difference is
      that of an edge out of place; or
    - it is on a roof, and no larger than what that displaces: chimneys and skylights lean, too.

    Parameters
    ----------
    parts
        Parts of pixels inside the outline, (rows, cols), with the surroundings.
    surfaces
        Heights of both dates, (2, rows, cols).
    pixel_m
        Lengths of a pixel along a row and along a column in meters.
    row
        Heights of the outline.
    size
        Size of the outline.
    shift_fraction
        See :data:`geosiam.polygons.schema.COLUMNS`; NaN = unknown.
    """
    lower = surfaces.min(axis=0)
    valid = np.isfinite(lower)
    inside = (parts > 0) & valid
    if not inside.any():
        return False
    relief = float(np.ptp(lower[valid]))
    if row.height_evidence != "level" and abs(row.dz_mean) > min(_SAME * relief, _SAME_M):
        return False
    slope = _SLOPING * max(length * count for length, count in zip(pixel_m, parts.shape[::-1], strict=True))
    above = lower - np.percentile(lower[valid], 10) - slope
    height = float(np.median(above[inside]))
    if height > 0 and size.area <= (height * _OFF_NADIR) ** 2:
        return True
    lean = within_lean(surfaces[0], pixel_m) & within_lean(surfaces[1], pixel_m)
    lean |= valid & (above >= _ROOF_M)
    lean = ndimage.binary_dilation(lean, iterations=max(1, round(_SLACK_M / 2 / max(pixel_m))))
    share = float(parts[lean].sum() / parts.sum())
    is_narrow = size.width <= relief * _OFF_NADIR + _SLACK_M
    return (share >= _MOSTLY and is_narrow) or (share >= _HALF and shift_fraction >= _HALF)
