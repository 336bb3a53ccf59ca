"""How polygons are cut out of scores: the options, with their defaults, and the sizes written in them."""

from __future__ import annotations

import math
import re
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Self

from geosiam.errors import OptionError

_NUMBER = r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)"


@dataclass(frozen=True)
class MinArea:
    """The smallest component worth a polygon.

    Parameters
    ----------
    value
        At least 0.
    unit
        ``m2``: square metres on the ground; ``px``: pixels of the before-scene.
    """

    value: float
    unit: Literal["m2", "px"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise OptionError("`min_area`", f"is {self.value:g}", "give an area of 0 or more, like 1.5m2 or 20px")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the area that a text such as ``1.5m2`` or ``20px`` says.

        Raises
        ------
        OptionError
            The text is anything else.
        """
        match = re.fullmatch(rf"{_NUMBER}\s*(m2|m²|m\^2|px)", text.strip().lower())
        if match is None:
            raise OptionError(
                "`min_area`", f"is {text!r}", "give a number and a unit: square metres as 1.5m2, pixels as 20px"
            )
        return cls(float(match[1]), "px" if match[2] == "px" else "m2")


@dataclass(frozen=True)
class Tolerance:
    """How far a simplified outline may lie from the full one.

    Parameters
    ----------
    value
        At least 0.
    unit
        ``m``: metres on the ground; ``px``: pixels of the before-scene.
    """

    value: float
    unit: Literal["m", "px"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise OptionError("`simplify`", f"is {self.value:g}", "give a distance of 0 or more, like 0.5m or 4px")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the distance that a text such as ``0.5m`` or ``4px`` says.

        Raises
        ------
        OptionError
            The text is anything else.
        """
        match = re.fullmatch(rf"{_NUMBER}\s*(m|px)", text.strip().lower())
        if match is None:
            raise OptionError("`simplify`", f"is {text!r}", "give a number and a unit: metres as 0.5m, pixels as 4px")
        return cls(float(match[1]), "px" if match[2] == "px" else "m")


@dataclass(frozen=True)
class PolygonOptions:
    """How polygons are cut out of scores; every default serves most rasters.

    Parameters
    ----------
    threshold
        Minimum anomaly probability for a cell to be part of a polygon, above 0, up to 1. ``"auto"``: the model's own,
        or a higher one where the two scenes differ almost everywhere; see :mod:`geosiam.scores.threshold`.
    seed_threshold
        Each polygon has at least one cell of this score or more (hysteresis). None: any will do, or, where the
        threshold is chosen automatically, the seed threshold that goes with it.
    min_area
        Drop smaller components: ``"1.5m2"`` on the ground, or ``"20px"`` of the before-scene; None keeps all. What
        counts is the area of the cells.
    connectivity
        8: cells that share a corner belong together; 4: only those that share a side.
    smooth
        Draw outlines where the score crosses the threshold between cells, not along the sides of cells.
    simplify
        Leave out points of outlines that change them by less: ``"0.5m"`` or ``"4px"``; None keeps all.

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
        threshold = None if self.threshold == "auto" else self.threshold
        for name, value in (("`threshold`", threshold), ("`seed_threshold`", self.seed_threshold)):
            if value is not None and not 0 < value <= 1:
                raise OptionError(name, f"is {value:g}", "give a probability above 0, up to 1")
        if self.seed_threshold is not None and threshold is not None and self.seed_threshold < threshold:
            fact = f"is {self.seed_threshold:g}, below the threshold {threshold:g}, and would change nothing"
            raise OptionError("`seed_threshold`", fact, "give one above the threshold")
        if self.connectivity not in (4, 8):
            raise OptionError("`connectivity`", f"is {self.connectivity}", "use 4 or 8")
        self.smallest()
        self.tolerance()

    def at(self, threshold: float, seed_threshold: float | None) -> PolygonOptions:
        """Return the same polygon options, and nothing else, with the thresholds that were chosen."""
        kept = ("min_area", "connectivity", "smooth", "simplify")
        values = {name: getattr(self, name) for name in kept}
        return PolygonOptions(threshold=threshold, seed_threshold=seed_threshold, **values)

    def smallest(self) -> MinArea | None:
        """Return the least area of a component."""
        return None if self.min_area is None else MinArea.parse(self.min_area)

    def tolerance(self) -> Tolerance | None:
        """Return the tolerance of simplification."""
        return None if self.simplify is None else Tolerance.parse(self.simplify)
