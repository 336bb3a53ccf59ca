"""How a pair of scenes is read: the options, with their defaults."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

from geosiam.errors import OptionError

if TYPE_CHECKING:
    import os

RADIOMETRY_MODES = ("auto", "none", "linear", "histogram")


@dataclass(frozen=True)
class PairOptions:
    """How a pair of scenes is read; every default serves most pairs.

    Parameters
    ----------
    bands
        One or three 1-based band numbers for both scenes; None: by color interpretation, else the first three.
    aoi
        Area of interest: a vector file outside of whose polygons nothing is valid; None: the whole overlap.
    register
        Correct the misregistration of the after scene where it can be estimated reliably. None: by whole pixels only,
        which changes none of them, or fully where the scene is resampled anyway, and only if that leaves less of it.
    radiometry
        Relative radiometric normalization: ``"auto"``, ``"none"``, ``"linear"`` or ``"histogram"``; see
        :func:`geosiam.imagery.normalization.estimate`.
    on_error
        What to do where a scene cannot be decoded: ``"stop"``, or ``"skip"`` the block, which is left without scores.
    workers
        Number of threads that read and compute; None: one for each processor. The result does not depend on it.

    Raises
    ------
    OptionError
        A value is not one of these.
    """

    _: KW_ONLY
    bands: tuple[int, ...] | None = None
    aoi: str | os.PathLike[str] | None = None
    register: bool | None = None
    radiometry: str = "auto"
    on_error: Literal["stop", "skip"] = "stop"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.radiometry not in RADIOMETRY_MODES:
            raise OptionError(f"`radiometry` {self.radiometry!r}", "is not known", f"use {', '.join(RADIOMETRY_MODES)}")
        if self.on_error not in ("stop", "skip"):
            raise OptionError(f"`on_error` {self.on_error!r}", "is not known", "use stop or skip")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"`workers` {self.workers}", "cannot do any work", "use 1 or more")
