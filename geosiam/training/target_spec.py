"""What a defined anomaly looks like, in one line: ``colour=70,100,200 spread=25 texture=folds size=8-60``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from geosiam.errors import OptionError

TEXTURES = ("plain", "grain", "stripes", "folds")
_KEYS = ("colour", "spread", "texture", "size")
_REMEDY = 'write for example "colour=70,100,200 spread=25 texture=folds size=8-60"'
_BRIGHTEST = 255
_MOST_PX = 1000.0


@dataclass(frozen=True)
class TargetSpec:
    """A thing by its colour, texture and size.

    Parameters
    ----------
    colour
        Red, green and blue in full light, 0 to 255.
    spread
        How far each of them may be off, from thing to thing.
    texture
        ``"plain"``, ``"grain"`` (a rough surface), ``"stripes"`` or ``"folds"`` (cloth: creases, a bend, shade).
    size_px
        Smallest and largest length in pixels.
    """

    colour: tuple[int, int, int]
    spread: float = 20.0
    texture: str = "plain"
    size_px: tuple[float, float] = (5.0, 60.0)

    def __post_init__(self) -> None:
        if not all(0 <= value <= _BRIGHTEST for value in self.colour):
            raise OptionError(f"colour={_joined(self.colour, ',')}", "is no colour of 0 to 255 each", _REMEDY)
        if not any(self.colour):
            raise OptionError("colour=0,0,0", "is black in any light, as shadows are", "give it some colour")
        if not 0 <= self.spread < _BRIGHTEST / 2:
            raise OptionError(f"spread={self.spread:g}", "leaves any colour or none", "use 0 to 127")
        if self.texture not in TEXTURES:
            raise OptionError(f"texture={self.texture}", "is not known", f"use one of {', '.join(TEXTURES)}")
        low, high = self.size_px
        if not 1 <= low <= high <= _MOST_PX:
            fact = f"does not run from 1 px upwards, to {_MOST_PX:g} px at most"
            raise OptionError(f"size={_joined(self.size_px, '-')}", fact, _REMEDY)

    def __str__(self) -> str:
        return (
            f"colour={_joined(self.colour, ',')} spread={self.spread:g} texture={self.texture} "
            f"size={_joined(self.size_px, '-')}"
        )


def parse_spec(text: str) -> TargetSpec:
    """Read a specification: ``key=value`` words in any order, of which only ``colour`` must be there.

    Raises
    ------
    OptionError
        A word is not understood, comes twice, or its value makes no sense.
    """
    words: dict[str, str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        key = "colour" if key == "color" else key
        if not equals or key not in _KEYS:
            raise OptionError(f"anomaly {text!r}", f"has the word {word!r}, which is not known", _REMEDY)
        if key in words:
            raise OptionError(f"anomaly {text!r}", f"says {key} twice", _REMEDY)
        words[key] = value
    if "colour" not in words:
        raise OptionError(f"anomaly {text!r}", "names no colour", _REMEDY)
    usual = TargetSpec((_BRIGHTEST,) * 3)
    low, high = usual.size_px
    if "size" in words:
        low, high = _numbers(text, "size", words["size"], "-", 2)
    red, green, blue = _numbers(text, "colour", words["colour"], ",", 3)
    if any(value != round(value) for value in (red, green, blue)):
        raise OptionError(f"anomaly {text!r}", "has a colour that is no whole numbers", _REMEDY)
    return TargetSpec(
        (round(red), round(green), round(blue)),
        _numbers(text, "spread", words["spread"], ",", 1)[0] if "spread" in words else usual.spread,
        words.get("texture", usual.texture),
        (low, high),
    )


def _numbers(text: str, key: str, value: str, separator: str, count: int) -> list[float]:
    parts = value.split(separator)
    if len(parts) != count or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
        wanted = f"{count} numbers with {separator!r} between" if count > 1 else "a number"
        raise OptionError(f"anomaly {text!r}", f"has {key}={value}, where {wanted} should stand", _REMEDY)
    return [float(part) for part in parts]


def _joined(values: tuple[float, ...], separator: str) -> str:
    return separator.join(f"{value:g}" for value in values)
