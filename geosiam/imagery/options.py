"""The options of reading a pair of scenes, with their defaults."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

from geosiam.errors import OptionError

if TYPE_CHECKING:
    import os

RADIOMETRY_MODES = ("auto", "none", "linear", "histogram")
REGISTER_MODES = ("auto", "none", "shift", "field")
_REGISTER_SWITCH: dict[object, str] = {None: "auto", False: "none", True: "shift"}


def use_plain_values(options: object) -> None:
    """Turn NumPy's numbers and arrays among the fields of frozen options into Python's: JSON holds no others."""
    for name, value in vars(options).items():
        object.__setattr__(options, name, _plain(value))


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class PairOptions:
    """Options of reading a pair of scenes; the defaults suit most pairs.

    Parameters
    ----------
    bands
        One or three 1-based band numbers for both scenes; None: by color interpretation, else the first three.
    after_bands
        Band numbers of the after scene, if they differ from those of the before scene; None: `bands`.
    nodata
        Value of the pixels that are invalid, in place of what the files declare: one for both scenes, or one for each,
        before and after, of which ``"none"`` leaves a scene as it is. None: as declared; where nothing is, values that
        certainly mean nodata are recognized.
    aoi
        Area of interest: a vector file outside of whose polygons nothing is valid; None: the whole overlap.
    register
        How the misregistration of the after scene is corrected: ``"none"``: not at all; ``"shift"``: by one shift for
        the whole scene; ``"field"``: by a displacement that varies over the scene; ``"auto"``: by whole pixels, which
        changes no value, or by a shift if the scene is resampled anyway, or by a field if the scenes bend apart, and
        only if they fit better then. True and False stand for ``"shift"`` and ``"none"``, None for ``"auto"``.
    radiometry
        Relative radiometric normalization: ``"auto"``, ``"none"``, ``"linear"`` or ``"histogram"``; see
        :func:`geosiam.imagery.normalization.estimate_radiometry`.
    on_error
        What to do if part of a scene cannot be decoded: ``"stop"``, or ``"skip"`` the block, which gets no scores.
    workers
        Number of threads that read and compute; None: one for each processor. The result does not depend on it.

    Raises
    ------
    OptionError
        The value of an option is not allowed.
    """

    _: KW_ONLY
    bands: tuple[int, ...] | None = None
    after_bands: tuple[int, ...] | None = None
    nodata: float | str | tuple[float | str, ...] | None = None
    aoi: str | os.PathLike[str] | None = None
    register: str | bool | None = "auto"
    radiometry: str = "auto"
    on_error: Literal["stop", "skip"] = "stop"
    workers: int | None = None

    def __post_init__(self) -> None:
        use_plain_values(self)
        object.__setattr__(self, "register", _REGISTER_SWITCH.get(self.register, self.register))
        if self.register not in REGISTER_MODES:
            raise OptionError(f"`register` {self.register!r}", "is not known", f"use {', '.join(REGISTER_MODES)}")
        if self.radiometry not in RADIOMETRY_MODES:
            raise OptionError(f"`radiometry` {self.radiometry!r}", "is not known", f"use {', '.join(RADIOMETRY_MODES)}")
        if self.on_error not in ("stop", "skip"):
            raise OptionError(f"`on_error` {self.on_error!r}", "is not known", "use stop or skip")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"`workers` {self.workers}", "must be positive", "use 1 or more")
        values = self.nodata if isinstance(self.nodata, tuple) else (self.nodata,)
        if not 1 <= len(values) <= 2 or not all(v is None or v == "none" or isinstance(v, int | float) for v in values):  # noqa: PLR2004 - scenes
            remedy = "use a number, none, or one of them for each scene, such as 0,none"
            raise OptionError(f"`nodata` {self.nodata!r}", "is not known", remedy)

    @property
    def nodata_of_scenes(self) -> tuple[float | str | None, float | str | None]:
        """The nodata value of the before and the after scene, ``"none"``, or None if it was not given."""
        values = self.nodata if isinstance(self.nodata, tuple) else (self.nodata,)
        return values[0], values[-1]

    @property
    def bands_of_scenes(self) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """The bands of the before and the after scene, as given."""
        return self.bands, self.bands if self.after_bands is None else self.after_bands
