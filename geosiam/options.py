"""How a pair is compared: the options of the main job, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from geosiam.errors import OptionError
from geosiam.network.default import DEFAULT_MODEL
from geosiam.polygons.options import PolygonOptions

if TYPE_CHECKING:
    from distributed import Client

_LEAST = 1e-9  # stands for a threshold that is not known yet


@dataclass(frozen=True)
class DetectOptions:
    """How a pair is compared; every default serves most pairs.

    Parameters
    ----------
    model
        Name of bundled weights or path of a weights file.
    threshold
        Anomaly probability from which on a cell belongs to a polygon; ``"auto"``: the model's own,
        or what stands out from a pair that differs all over; see :mod:`geosiam.scores.threshold`.
    seed_threshold, min_area, connectivity, smooth, simplify
        What becomes a polygon and how it is drawn; a threshold of ``"auto"`` also chooses a seed threshold where none
        is given. See :class:`~geosiam.polygons.options.PolygonOptions`.
    bands
        One or three 1-based band numbers for both scenes; None chooses by color interpretation.
    aoi
        Vector file outside of whose polygons nothing is looked at.
    register
        Correct the misregistration of the after-scene where it can be estimated reliably. None: by whole pixels only,
        which changes none of them, or fully where the scene is resampled anyway.
    radiometry
        Relative normalization: ``"auto"``, ``"none"``, ``"linear"`` or ``"histogram"``.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    precision
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    workers
        Threads; None: one a processor. The result does not depend on it.
    scheduler
        Address of a Dask scheduler whose workers do the work, or a ``distributed.Client``; None: this machine does.
        The result does not depend on it. ``device`` is then a device of the workers, and ``"auto"`` their CPU.
    restart
        Begin again where an interrupted run left something to go on from.
    on_error
        What to do where a scene cannot be decoded: ``"stop"``, or ``"skip"``: leave the block without scores.
    score_type
        How scores are stored: ``"uint8"`` (0 to 254), or ``"float32"``, by which the strongest anomalies can still be
        told apart where much scores above 0.998.
    """

    model: str = DEFAULT_MODEL
    threshold: float | Literal["auto"] = "auto"
    seed_threshold: float | None = PolygonOptions.seed_threshold
    min_area: str | None = None
    connectivity: int = PolygonOptions.connectivity
    smooth: bool = PolygonOptions.smooth
    simplify: str | None = None
    bands: tuple[int, ...] | None = None
    aoi: str | None = None
    register: bool | None = None
    radiometry: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    scheduler: str | Client | None = None
    restart: bool = False
    on_error: Literal["stop", "skip"] = "stop"
    score_type: Literal["uint8", "float32"] = "uint8"

    def __post_init__(self) -> None:
        if self.threshold != "auto" and not 0 < self.threshold <= 1:
            raise OptionError(f"threshold {self.threshold}", "is no probability", "use auto or a number in (0, 1]")
        # Raises now what would otherwise come after the scoring.
        self.of_polygons(self.threshold if self.threshold != "auto" else _LEAST, self.seed_threshold)
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"{self.workers} workers", "cannot do any work", "use 1 or more")
        if self.on_error not in ("stop", "skip"):
            raise OptionError(f"on_error {self.on_error!r}", "is not known", "use stop or skip")
        if self.score_type not in ("uint8", "float32"):
            raise OptionError(f"score_type {self.score_type!r}", "is not known", "use uint8 or float32")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        values = {name: value for name, value in vars(self).items() if name != "scheduler"}
        known = self.scheduler is None or isinstance(self.scheduler, str)
        return values | {"scheduler": self.scheduler if known else "a client"}

    def of_polygons(self, threshold: float, seed_threshold: float | None = None) -> PolygonOptions:
        """Return how polygons are made of scores, at the thresholds that were chosen."""
        return PolygonOptions(threshold, seed_threshold, self.min_area, self.connectivity, self.smooth, self.simplify)

    def of_pair(self) -> dict[str, Any]:
        """Return the options that :func:`geosiam.imagery.pair.open_pair` takes."""
        shared = {name: getattr(self, name) for name in ("bands", "aoi", "register", "radiometry")}
        return shared | {"skip_unreadable": self.on_error == "skip", "workers": self.workers}
