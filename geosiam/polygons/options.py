"""Options of cutting polygons out of scores: their defaults, and the sizes written in them."""

from __future__ import annotations

import math
import re
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Self

from geosiam.errors import OptionError
from geosiam.imagery.options import use_plain_values

_NUMBER = r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)"


@dataclass(frozen=True)
class MinArea:
    """Minimum area of a component.

    Parameters
    ----------
    value
        At least 0.
    unit
        ``m2``: square meters on the ground; ``px``: pixels of the before scene.
    """

    value: float
    unit: Literal["m2", "px"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise OptionError("`min_area`", f"is {self.value:g}", "give an area of 0 or more, like 1.5m2 or 20px")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the area in a text such as ``1.5m2`` or ``20px``.

        Raises
        ------
        OptionError
            The text is anything else.
        """
        match = re.fullmatch(rf"{_NUMBER}\s*(m2|m²|m\^2|px)", text.strip().lower())
        if match is None:
            remedy = "give a number and a unit: square meters as 1.5m2, pixels as 20px"
            raise OptionError("`min_area`", f"is {text!r}", remedy)
        return cls(float(match[1]), "px" if match[2] == "px" else "m2")


@dataclass(frozen=True)
class Tolerance:
    """Distance that points of the full outline may have from the simplified one.

    Parameters
    ----------
    value
        At least 0.
    unit
        ``m``: meters on the ground; ``px``: pixels of the before scene.
    """

    value: float
    unit: Literal["m", "px"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise OptionError("`simplify`", f"is {self.value:g}", "give a distance of 0 or more, like 0.5m or 4px")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the distance in a text such as ``0.5m`` or ``4px``.

        Raises
        ------
        OptionError
            The text is anything else.
        """
        match = re.fullmatch(rf"{_NUMBER}\s*(m|px)", text.strip().lower())
        if match is None:
            raise OptionError("`simplify`", f"is {text!r}", "give a number and a unit: meters as 0.5m, pixels as 4px")
        return cls(float(match[1]), "px" if match[2] == "px" else "m")


@dataclass(frozen=True)
class PolygonOptions:
    """Options of cutting polygons out of scores; the defaults suit most rasters.

    Parameters
    ----------
    threshold
        Minimum anomaly probability for a cell to be part of a polygon, above 0, up to 1. ``"auto"``: the model's own,
        or a higher one where the two scenes differ almost everywhere; see :mod:`geosiam.scores.threshold`.
    seed_threshold
        Minimum anomaly probability that at least one cell of each polygon must reach (hysteresis), not below the
        threshold. None: no such condition, or with an automatic threshold the seed threshold that goes with it.
    min_area
        Drop smaller components: ``"1.5m2"`` on the ground, or ``"20px"`` of the before scene; None drops none. It
        applies to the area of the cells, whatever the outline.
    connectivity
        8: cells that share a side or a corner are connected; 4: only those that share a side.
    smooth
        Draw outlines where the score crosses the threshold between cell centers, not along cell edges.
    simplify
        Drop points that change the outline by less: ``"0.5m"`` on the ground or ``"4px"`` of the before scene; None
        drops none.

    Raises
    ------
    OptionError
        A value makes no sense.
    """

    _: KW_ONLY
    threshold: float | Literal["auto"] = "auto"
    seed_threshold: float | None = None
    min_area: str | None = None
    connectivity: int = 8
    smooth: bool = True
    simplify: str | None = None

    def __post_init__(self) -> None:
        use_plain_values(self)
        threshold = None if self.threshold == "auto" else self.threshold
        given: dict[str, object] = {"`threshold`": threshold, "`seed_threshold`": self.seed_threshold}
        for name, value in given.items():
            if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
                raise OptionError(name, f"is {value}", "give a probability above 0, up to 1")
        if self.seed_threshold is not None and threshold is not None and self.seed_threshold < threshold:
            fact = f"is {self.seed_threshold:g}, below the threshold {threshold:g}, and would change nothing"
            raise OptionError("`seed_threshold`", fact, "give one above the threshold")
        if self.connectivity not in (4, 8):
            raise OptionError("`connectivity`", f"is {self.connectivity}", "use 4 or 8")
        self.parsed_min_area()
        self.parsed_tolerance()

    def at(self, threshold: float, seed_threshold: float | None) -> PolygonOptions:
        """Return the polygon options, and no others, with the thresholds that were chosen."""
        names = ("min_area", "connectivity", "smooth", "simplify")
        return PolygonOptions(
            threshold=threshold, seed_threshold=seed_threshold, **{name: getattr(self, name) for name in names}
        )

    def parsed_min_area(self) -> MinArea | None:
        """Return the minimum area of a component; None if there is none."""
        return None if self.min_area is None else MinArea.parse(self.min_area)

    def parsed_tolerance(self) -> Tolerance | None:
        """Return the tolerance of simplification; None if outlines are not simplified."""
        return None if self.simplify is None else Tolerance.parse(self.simplify)
