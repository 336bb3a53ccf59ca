"""Options of scoring a pair and of detecting anomalies in it, with their defaults.

They inherit those of each step: a function that takes the options of one step also accepts those of the whole job.

    PairOptions                       how two scenes are read (geosiam.imagery.options)
    +-- ScoreOptions                  and scored
        +-- DetectOptions             and how polygons are cut out of the scores
    PolygonOptions                    (geosiam.polygons.options)
    +-- DetectOptions
    HeightOptions                     how surface models are read (geosiam.heights.surfaces)
    +-- DetectOptions
"""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

from geosiam.errors import OptionError, redacted
from geosiam.files import file_and_layer, is_file
from geosiam.heights.surfaces import HeightOptions
from geosiam.imagery.options import PairOptions
from geosiam.network import DEFAULT_MODEL
from geosiam.polygons.options import PolygonOptions

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DetectOptions", "HeightOptions", "PairOptions", "PolygonOptions", "ScoreOptions"]


@dataclass(frozen=True)
class ScoreOptions(PairOptions):
    """Options of scoring a pair; the defaults suit most pairs.

    Parameters
    ----------
    bands, after_bands, nodata, aoi, register, radiometry, on_error, workers
        How the scenes are read: see :class:`~geosiam.imagery.options.PairOptions`.
    model
        Name of bundled weights or path of a weights file; or path of an ONNX model that `geosiam export` wrote.
    engine
        What computes the network: ``"torch"``, ``"onnx"`` (onnxruntime: on the CPU, in fp32), or ``"auto"``: PyTorch,
        but onnxruntime for an ONNX model and where PyTorch is not installed.
    device
        Where the network runs: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    precision
        Arithmetic of the network: ``"auto"``, ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"int8"``.
    scheduler
        Address of a Dask scheduler whose workers do the work, or a ``distributed.Client``; None: this machine does.
        The result does not depend on it. ``device`` is then a device of the workers, and ``"auto"`` their CPU.
    restart
        Start from scratch, even if an interrupted run could be resumed.
    score_type
        How scores are stored: ``"uint8"`` saturates above 0.998, ``"float32"`` keeps full precision.

    Raises
    ------
    OptionError
        The value of an option is not allowed.
    """

    _: KW_ONLY
    model: str = DEFAULT_MODEL
    engine: Literal["auto", "torch", "onnx"] = "auto"
    device: str = "auto"
    precision: str = "auto"
    scheduler: str | Client | None = None
    restart: bool = False
    score_type: Literal["uint8", "float32"] = "uint8"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score_type not in ("uint8", "float32"):
            raise OptionError(f"`score_type` {self.score_type!r}", "is not known", "use uint8 or float32")
        if self.engine not in ("auto", "torch", "onnx"):
            raise OptionError(f"`engine` {self.engine!r}", "is not known", "use auto, torch or onnx")

    @property
    def files(self) -> tuple[str | os.PathLike[str], ...]:
        """Files that a run reads besides the scenes: the area of interest, and weights that are not bundled."""
        weights = (self.model,) if is_file(self.model) else ()
        return weights if self.aoi is None else (file_and_layer(self.aoi)[0], *weights)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        values = {name: value for name, value in vars(self).items() if name != "scheduler"}
        named = self.scheduler is None or isinstance(self.scheduler, str)
        aoi = None if self.aoi is None else os.fspath(self.aoi)
        return redacted(values | {"aoi": aoi, "scheduler": self.scheduler if named else "a client"})


@dataclass(frozen=True)
class DetectOptions(ScoreOptions, PolygonOptions, HeightOptions):
    """Options of detecting anomalies in a pair; the defaults suit most pairs.

    Parameters
    ----------
    bands, after_bands, nodata, aoi, register, radiometry, on_error, workers
        How the scenes are read: see :class:`~geosiam.imagery.options.PairOptions`.
    model, engine, device, precision, scheduler, restart, score_type
        How they are scored: see :class:`ScoreOptions`.
    threshold, seed_threshold, min_area, connectivity, smooth, simplify
        What becomes a polygon and how it is drawn: see :class:`~geosiam.polygons.options.PolygonOptions`.
    dsm_units
        How surface models are read: see :class:`~geosiam.heights.surfaces.HeightOptions`.
    dsm
        Paths or URLs of the surface models of both dates, from which polygons get heights and volumes; None: none.

    Raises
    ------
    OptionError
        The value of an option is not allowed.
    """

    _: KW_ONLY
    dsm: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.dsm is not None:
            dsm: Any = self.dsm
            names = [] if isinstance(dsm, str | os.PathLike) else [os.fspath(name) for name in dsm]
            if len(names) != 2:  # noqa: PLR2004 - dates
                raise OptionError(f"`dsm` {dsm!r}", "does not name two surface models", "name that of each date")
            object.__setattr__(self, "dsm", tuple(names))
        ScoreOptions.__post_init__(self)
        PolygonOptions.__post_init__(self)
        HeightOptions.__post_init__(self)

    @property
    def files(self) -> tuple[str | os.PathLike[str], ...]:
        """Files that a run reads besides the scenes: area of interest, weights, surface models."""
        return (*super().files, *(self.dsm or ()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; without surface models, nothing of them."""
        values = super().to_dict()
        if self.dsm is None:
            del values["dsm"], values["dsm_units"]
        return values
