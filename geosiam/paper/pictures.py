"""Pictures small enough to live beside a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

_COLORS = 256
_ROUNDS = 3  # of k-means: median cut alone loses rare colors, such as those of the score's ramp


def shrink(path: Path) -> None:
    """Rewrite a PNG with a palette, which takes a third of the space and shows the same."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_COLORS, kmeans=_ROUNDS)
    small.save(path, optimize=True)
