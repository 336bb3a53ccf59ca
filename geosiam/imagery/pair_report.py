"""What was found about a pair, what is done with it, and what of that the user should know."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from geosiam.imagery.bands import FIRST_BANDS

if TYPE_CHECKING:
    from geosiam.imagery.alignment import Alignment
    from geosiam.imagery.bands import Channels
    from geosiam.imagery.normalization import RadiometricNormalization
    from geosiam.imagery.reader import AlignedReader
    from geosiam.imagery.registration import Shift
    from geosiam.imagery.scene import SceneFacts

_COLORS = ["red", "green", "blue"]
_OTHER_SIZE = 1.5
_NOTICEABLE_PX = 2.0
_HALF = 0.5
_STRONG_GAIN, _STRONG_OFFSET = 2.0, 0.25


@dataclass(frozen=True)
class PairReport:
    """What was found about a pair and what is done with it.

    Parameters
    ----------
    before, after
        What the scenes say of themselves.
    before_bands, after_bands
        1-based bands that serve as red, green and blue, and why.
    alignment, resampling
        How the after-scene comes onto the before-scene's grid.
    scaling
        (lowest, highest) value of each channel that becomes 0 and 1, per scene.
    radiometry
        See :meth:`geosiam.imagery.normalization.RadiometricNormalization.to_dict`.
    overlap
        Pixels (row_start, row_stop, col_start, col_stop) outside of which nothing is valid.
    overlap_fraction, valid_fraction
        Share of the before-scene inside that window, and estimated share of valid pixels in the window.
    shift
        Estimated misregistration (rows, cols) in pixels and the share of patches that agree, before any correction.
    moved_px
        (rows, cols) of it that are corrected: the content of the after-scene is moved up and left by as much.
    shift_px
        Estimated misregistration in pixels that remains; None where it cannot be told.
    warnings
        What the user should know.
    """

    before: SceneFacts
    after: SceneFacts
    before_bands: dict[str, Any]
    after_bands: dict[str, Any]
    alignment: str
    resampling: str
    scaling: dict[str, Any]
    radiometry: dict[str, Any]
    overlap: tuple[int, int, int, int]
    overlap_fraction: float
    valid_fraction: float
    shift: dict[str, float] | None
    moved_px: tuple[float, float]
    shift_px: float | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


def remarks_on_bands(scenes: tuple[SceneFacts, SceneFacts], channels: tuple[Channels, Channels]) -> list[str]:
    """Say where bands of different kinds meet."""
    found = []
    before, after = (chosen.colors for chosen in channels)
    if before != after:
        found.append(f"{before} band(s) of the before-scene are compared with {after} of the after-scene")
    for which, scene, chosen in zip(("before", "after"), scenes, channels, strict=True):
        named = [scene.colors[index - 1] for index in chosen.indexes]
        if chosen.reason == FIRST_BANDS and set(named) == set(_COLORS) and named != _COLORS:
            found.append(f"bands 1 to 3 of the {which}-scene are {', '.join(named)}; name what fits both with --bands")
    if scenes[0].dtype != scenes[1].dtype:
        found.append(f"values of different types ({scenes[0].dtype}, {scenes[1].dtype}) are scaled by themselves")
    return found


def remarks_on_resolution(alignment: Alignment) -> list[str]:
    """Say where the pixels of the scenes differ much in size."""
    ratio = alignment.ratio
    if ratio > _OTHER_SIZE:
        done = "the most frequent of them counts" if alignment.resampling == "mode" else "are averaged"
        return [f"the after-scene's pixels are {ratio:.3g} times as small and {done}"]
    if ratio < 1 / _OTHER_SIZE:
        return [f"the after-scene's pixels are {1 / ratio:.3g} times as large: it does not show small things"]
    return []


def remarks_on_storage(readers: tuple[AlignedReader, AlignedReader]) -> list[str]:
    """Say that a file's blocks are so large that reading it takes longer than it has to."""
    return [
        f"{reader.source.name} is stored in blocks too large to keep, which takes long to read; store it in tiles: "
        "gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT"
        for reader in readers
        if reader.decodes_again
    ]


def remarks_on_extent(share: float) -> list[str]:
    """Say that much of the before-scene has no counterpart."""
    return [f"only {share:.0%} of the before-scene can be compared"] if share < _HALF else []


def remarks_on_radiometry(radiometry: RadiometricNormalization, asked: str) -> list[str]:
    """Say that less was done than asked for, and that the scenes look very different before they are matched."""
    found = []
    if radiometry.note and asked != "auto":
        done = "is applied in part" if radiometry.mode == asked else "is not applied"
        found.append(f"radiometry {asked} {done}: {radiometry.note}")
    lines = radiometry.target if radiometry.mode == "linear" else ()
    gains = [high - low for low, high in lines]
    if any(not 1 / _STRONG_GAIN < gain < _STRONG_GAIN for gain in gains) or any(
        abs(low) > _STRONG_OFFSET for low, _ in lines
    ):
        found.append("the scenes differ much in brightness or contrast; expect false alarms where matching fails")
    return found


def remarks_on_shift(remaining: Shift | None, moved: tuple[float, float], *, asked: bool) -> list[str]:
    """Say that the scenes are misregistered, or were and nobody asked to mend it."""
    found = []
    if not asked and max(map(abs, moved)) >= _NOTICEABLE_PX:
        down, right = (f"{-part:+.3g}" for part in moved)
        found.append(
            f"the after-scene lies apart and was moved by {down} rows and {right} columns; --no-register leaves it"
        )
    if remaining is not None and remaining.trustworthy and remaining.length > _NOTICEABLE_PX:
        found.append(f"the scenes are misregistered by about {remaining.length:.1f} px; consider --register")
    return found
