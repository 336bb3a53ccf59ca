"""The report on a pair: metadata of the scenes, the decisions about reading them, and warnings to the user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from geosiam.imagery.bands import FIRST_BANDS
from geosiam.imagery.normalization import has_few_levels
from geosiam.imagery.registration import DEFAULT_POLICY, Shift

if TYPE_CHECKING:
    from geosiam.imagery.alignment import Alignment
    from geosiam.imagery.bands import Channels
    from geosiam.imagery.normalization import RadiometricNormalization
    from geosiam.imagery.reader import AlignedReader
    from geosiam.imagery.sampling import Sample
    from geosiam.imagery.scene_info import SceneInfo

_RGB = ["red", "green", "blue"]
_NOTICEABLE_RATIO = 1.5  # of pixel sizes
_NOTICEABLE_SHIFT_PX = 2.0
_LARGE_UNKNOWN = 0.5  # share of the ground where the scenes cannot be matched
_SMALL_OVERLAP = 0.5  # share of the before scene
_STRONG_GAIN, _STRONG_OFFSET = 2.0, 0.25  # of the normalization; values lie in [0, 1]


@dataclass(frozen=True)
class PairReport:
    """Metadata of a pair of scenes, the decisions about reading it, and warnings.

    Parameters
    ----------
    before, after
        Metadata of the scenes.
    before_bands, after_bands
        1-based bands that serve as red, green and blue, and why.
    alignment, resampling
        How the after scene is brought onto the before scene's grid, and GDAL's name of the resampling.
    scaling
        Per scene, the values of each channel that the stretch maps to 0 (``low``) and 1 (``high``).
    radiometry
        See :meth:`geosiam.imagery.normalization.RadiometricNormalization.to_dict`.
    overlap
        Window (row_start, row_stop, col_start, col_stop) of pixels outside of which nothing is valid.
    overlap_fraction, valid_fraction
        Share of the before scene inside that window, and estimated share of valid pixels in the window.
    shift
        Estimated misregistration (rows, cols) in pixels before any correction, and the share of patches that agree.
    moved_px
        Part (rows, cols) of this shift that is corrected: the after scene is moved up and left by this much.
    shift_px
        Estimated misregistration in pixels that remains; None if it cannot be estimated reliably.
    displacement
        Displacement from place to place: whether it is corrected (``applied``); in pixels, the ``median_px``, 95th
        percentile (``p95_px``) and largest (``largest_px``) distance from one shift, which is the bend of the scenes;
        the share of the local matches that agree (``agreement``); the ``unknown_fraction`` of the ground; and the
        ``checksum`` of an applied field. None if not estimated.
    warnings
        Warnings to the user.
    """

    before: SceneInfo
    after: SceneInfo
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
    displacement: dict[str, Any] | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @property
    def misfit(self) -> str | None:
        """Why the scenes do not fit as they are read, or why that is not known; None if they fit."""
        if self.shift_px is not None and self.shift_px > _NOTICEABLE_SHIFT_PX:
            return _misregistered(self.shift_px)
        if self.displacement is None:
            return None
        if _bends(self.displacement):
            return _bent(self.displacement)
        unknown = self.displacement["unknown_fraction"]
        if unknown > _LARGE_UNKNOWN:
            return f"the scenes cannot be matched on {unknown:.0%} of the ground; look whether they fit there"
        return None

    def registration(self) -> dict[str, str]:
        """Return what is known of the misregistration, and what is done about it, in words by topic."""
        words = {"shift": "not known", "bend": "not known", "nothing known": "-", "correction": self._correction()}
        if self.shift is not None:
            shift = Shift(self.shift["rows"], self.shift["cols"], self.shift["confidence"], int(self.shift["patches"]))
            share = f"{shift.confidence:.0%} of {shift.patches} patches agree"
            reliable = "" if shift.trustworthy else "not reliably known, "
            words["shift"] = f"{reliable}{_directed(shift.rows, shift.cols)} ({share})"
        if (local := self.displacement) is not None:
            percentiles = f"median {local['median_px']:.1f}, 95th percentile {local['p95_px']:.1f}"
            reliable = "" if _is_certain(local) else "not reliably known, "
            share = f"{local['agreement']:.0%} of the matches agree"
            words["bend"] = f"{reliable}{percentiles}, largest {local['largest_px']:.1f} px ({share})"
            words["nothing known"] = f"on {local['unknown_fraction']:.0%} of the ground"
        words["remaining"] = "not known" if self.shift_px is None else f"{self.shift_px:.1f} px"
        return words

    def _correction(self) -> str:
        if self.displacement is not None and self.displacement["applied"]:
            return "the after scene is read through a displacement field"
        if any(self.moved_px):
            return f"the after scene is moved by {_directed(*(-offset for offset in self.moved_px))}"
        return "none"


def _directed(rows: float, cols: float) -> str:
    """Return a shift in words."""
    down, right = ("down" if rows >= 0 else "up"), ("right" if cols >= 0 else "left")
    return f"{abs(cols):.1f} px {right}, {abs(rows):.1f} px {down}"


def _bends(displacement: dict[str, Any]) -> bool:
    """Return whether most of the ground is known to bend noticeably, and this is not corrected."""
    bends = not displacement["applied"] and bool(displacement["p95_px"] > _NOTICEABLE_SHIFT_PX)
    return bends and _is_certain(displacement)


def _is_certain(displacement: dict[str, Any]) -> bool:
    """Return whether the displacement of most of the ground is known, and the matches do not contradict each other."""
    agrees = displacement["agreement"] >= DEFAULT_POLICY.min_agreement
    return bool(agrees and displacement["unknown_fraction"] <= _LARGE_UNKNOWN)


def _misregistered(length: float) -> str:
    return f"the scenes are misregistered by about {length:.1f} px"


def _bent(displacement: dict[str, Any]) -> str:
    return f"the scenes bend apart by {displacement['p95_px']:.1f} px (95th percentile), which is not corrected"


def warnings_on_bands(
    scenes: tuple[SceneInfo, SceneInfo], channels: tuple[Channels, Channels], *, same_unit: bool = True
) -> list[str]:
    """Warn if bands of different kinds or types are compared; values of different units share one stretch."""
    warnings = []
    before, after = (choice.color_count for choice in channels)
    if before != after:
        warnings.append(f"{before} band(s) of the before scene are compared with {after} of the after scene")
    for date, scene, choice in zip(("before", "after"), scenes, channels, strict=True):
        colors = [scene.colors[index - 1] for index in choice.indexes]
        if choice.reason == FIRST_BANDS and set(colors) == set(_RGB) and colors != _RGB:
            warnings.append(
                f"bands 1 to 3 of the {date} scene are {', '.join(colors)}; choose bands that fit both with `bands`"
            )
    if same_unit and scenes[0].dtype != scenes[1].dtype:
        warnings.append(
            f"the scenes have different data types ({scenes[0].dtype}, {scenes[1].dtype}); each is stretched separately"
        )
    return warnings


def warnings_on_levels(scenes: tuple[SceneInfo, SceneInfo], dtypes: tuple[str, str], sample: Sample) -> list[str]:
    """Say so if bytes hold small values only, such as those of masks and class maps."""
    pixels = sample.before, sample.after
    few = [has_few_levels(dtype, values) for dtype, values in zip(dtypes, pixels, strict=True)]
    if all(few):
        largest = max(int(values.max()) for values in pixels)
        return [
            f"the scenes hold no value above {largest}, of 255; they are stretched from the smallest to the largest"
        ]
    if dtypes[0] == dtypes[1] and any(few):
        dark, other = (0, 1) if few[0] else (1, 0)
        fact = f"{scenes[dark].name} holds no value above {int(pixels[dark].max())}, {scenes[other].name} does"
        return [f"{fact}; values of one meaning should be equal in both"]
    return []


def warnings_on_resolution(alignment: Alignment) -> list[str]:
    """Warn if the pixel sizes of the scenes differ much."""
    ratio = alignment.ratio
    if ratio > _NOTICEABLE_RATIO:
        method = "the most frequent value of them is used" if alignment.resampling == "mode" else "they are averaged"
        return [f"the after scene has {ratio:.3g}x finer pixels; {method}"]
    if ratio < 1 / _NOTICEABLE_RATIO:
        return [f"the after scene has {1 / ratio:.3g}x coarser pixels; it does not show small objects"]
    return []


def warnings_on_storage(readers: tuple[AlignedReader, AlignedReader]) -> list[str]:
    """Warn if a file's blocks are so large that parts of it are decoded several times."""
    return [
        f"{reader.scene.name} is stored in blocks too large to keep in memory, so reading it is slow; store it in "
        "tiles: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT"
        for reader in readers
        if reader.decodes_again
    ]


def warnings_on_extent(fraction: float) -> list[str]:
    """Warn if much of the before scene has no counterpart."""
    return [f"only {fraction:.0%} of the before scene can be compared"] if fraction < _SMALL_OVERLAP else []


def warnings_on_radiometry(radiometry: RadiometricNormalization, mode: str) -> list[str]:
    """Warn if less was done than the user asked for, or if the scenes look very different."""
    warnings = []
    if radiometry.note and mode != "auto":
        extent = "is applied in part" if radiometry.mode == mode else "is not applied"
        warnings.append(f"`radiometry={mode}` {extent}: {radiometry.note}")
    lines = radiometry.target if radiometry.mode == "linear" else ()
    gains = [high - low for low, high in lines]
    if any(not 1 / _STRONG_GAIN < gain < _STRONG_GAIN for gain in gains) or any(
        abs(low) > _STRONG_OFFSET for low, _ in lines
    ):
        warnings.append(
            "the scenes differ strongly in brightness or contrast; expect false alarms where normalization fails"
        )
    return warnings


def warnings_on_shift(
    remaining: Shift | None, moved: tuple[float, float], displacement: dict[str, Any] | None, *, register: str
) -> list[str]:
    """Warn if the scenes are misregistered, or were and the correction was not asked for."""
    warnings = []
    if displacement is not None and displacement["applied"] and register == "auto":
        extent = f"{displacement['p95_px']:.1f} px at the 95th percentile, {displacement['largest_px']:.1f} px at most"
        warnings.append(
            f"the scenes bend apart by {extent}; the after scene is read through a displacement field "
            "(`register=shift` disables this)"
        )
    elif register in ("auto", "field") and max(map(abs, moved)) >= _NOTICEABLE_SHIFT_PX:
        rows, cols = (f"{0.0 - offset:+.3g}" for offset in moved)
        warnings.append(
            f"the after scene is shifted; it was moved by {rows} rows and {cols} columns "
            "(`register=none` disables this)"
        )
    if remaining is not None and remaining.trustworthy and remaining.length > _NOTICEABLE_SHIFT_PX:
        remedy = {"none": "; consider `register=auto`", "auto": "; consider `register=field`"}.get(register, "")
        warnings.append(f"{_misregistered(remaining.length)}{remedy}")
    elif displacement is not None and _bends(displacement):
        warnings.append(f"{_bent(displacement)}; consider `register=field`")
    return warnings
