"""Defined anomalies as they are drawn into chips: things by specification, and things by crops.

Everything works on whole batches: images are float32 (n, 3, h, w) in [0, 1], masks float32 (n, 1, h, w) in [0, 1].
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from geosiam.errors import OptionError, TrainingDataError
from geosiam.training.anomalies import AnomalyConfig, Shape, chance, smooth_noise, uniform

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

_LIGHT = (0.5, 1.4)  # of what a thing would be in full light: shade, slope, exposure
_LOOK_ALIKE_LIGHT = (0.35, 1.8)
_LOOK_ALIKE = 0.05  # beyond its spread, in units of the full range
_CROP_SCALE = (0.6, 1.6)
_TORN = 0.3  # probability that something else lies on a thing, or a hole is in it


class Target(Protocol):
    """A thing that is to be found."""

    def draw(self, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Return one thing for each image of a batch of ``shape`` (n, 3, h, w): what it is made of, and its alpha."""
        ...

    def resembles(self, images: Tensor) -> Tensor:
        """Return where images could be taken for the thing by their color: bool (n, 1, h, w)."""
        ...


@dataclass(frozen=True)
class SpecTarget:
    """A thing by its specification, in varied shape, light and partial cover."""

    spec: TargetSpec

    def draw(self, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Return things as :class:`Target` says."""
        n = shape[0]
        config = AnomalyConfig(size_px=self.spec.size_px, line=0.0)
        outline = Shape.random(torch.empty(tuple(shape), device=generator.device), config, generator)
        alpha = outline.alpha(smooth_noise(shape, 9, generator), generator)
        base = torch.tensor(self.spec.color, device=generator.device).view(1, 3, 1, 1) / 255
        spread = self.spec.spread / 255
        base = base + uniform((n, 3, 1, 1), -spread, spread, generator)
        relief = _relief(self.spec.texture, outline, shape, generator)
        fill = base * uniform((n, 1, 1, 1), *_LIGHT, generator) * relief
        return fill.clamp(0, 1), _torn(alpha, shape, generator)

    def resembles(self, images: Tensor) -> Tensor:
        """Return look-alikes as :class:`Target` says: the color in any light."""
        base = torch.tensor(self.spec.color, device=images.device).view(1, 3) / 255
        return _near(images, base, self.spec.spread / 255 + _LOOK_ALIKE)


@dataclass(frozen=True)
class CropTarget:
    """A thing by a few crops of it, each at varied scale, rotation, light and partial cover.

    Parameters
    ----------
    name
        Of the folder they came from.
    digest
        Checksum of the crops, which tells one training from another.
    crops
        float32 (count, 4, side, side) in [0, 1]: red, green, blue, alpha, each crop in the middle of a square.
    """

    name: str
    digest: str
    crops: Tensor = field(repr=False, compare=False)

    @classmethod
    def read(cls, folder: Path) -> CropTarget:
        """Read a folder as :func:`read_crops` does."""
        crops = read_crops(folder)
        digest = hashlib.sha256(b"".join(crop.numpy().tobytes() for crop in crops)).hexdigest()
        side = max(max(crop.shape[1:]) for crop in crops)
        return cls(folder.name, digest, torch.stack([_in_square(crop, side) for crop in crops]).float() / 255)

    def draw(self, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Return things as :class:`Target` says."""
        n, _, height, width = shape
        crops = self.crops.to(generator.device)
        index = torch.randint(len(crops), (n,), generator=generator, device=generator.device)
        low, high = torch.tensor(_CROP_SCALE).log().tolist()
        scale = uniform((n,), low, high, generator).exp() * crops.shape[-1]  # its square's side, in pixels of the chip
        angle = uniform((n,), 0, 2 * torch.pi, generator)
        mirror = torch.where(chance(n, 0.5, generator).flatten(), -1.0, 1.0)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        linear = torch.stack([mirror * cos * width, mirror * sin * height, -sin * width, cos * height], 1).view(n, 2, 2)
        place = uniform((n, 2, 1), -1, 1, generator)
        theta = torch.cat([linear, -linear @ place], dim=2)
        grid = affine_grid(theta, [n, 1, height, width], align_corners=False)
        drawn = grid_sample(crops[index], grid, align_corners=False)
        light = uniform((n, 1, 1, 1), *_LIGHT, generator) * uniform((n, 3, 1, 1), 0.95, 1.05, generator)
        return (drawn[:, :3] * light).clamp(0, 1), _torn(drawn[:, 3:], shape, generator)

    def resembles(self, images: Tensor) -> Tensor:
        """Return look-alikes as :class:`Target` says: the mean color of any crop, in any light."""
        alpha = self.crops[:, 3:]
        means = (self.crops[:, :3] * alpha).sum(dim=(2, 3)) / alpha.sum(dim=(2, 3))
        return _near(images, means.to(images.device), 2 * _LOOK_ALIKE)


def load_target(text: str) -> Target:
    """Return the thing that an ``--anomaly`` names: a folder of crops, or a specification.

    Raises
    ------
    OptionError, TrainingDataError
        It is neither, or of no use.
    """
    path = Path(text)
    if path.is_dir():
        return CropTarget.read(path)
    if path.is_file():
        raise TrainingDataError(path, "is a file", "name the folder that holds the crops")
    if "=" not in text:
        raise TrainingDataError(
            text, "is neither a folder of crops nor a specification", 'name one, or write "color=70,100,200"'
        )
    return SpecTarget(parse_spec(text))


def _near(images: Tensor, colors: Tensor, tolerance: float) -> Tensor:
    """Return where images have one of the ``colors`` (count, 3) in some light, to a ``tolerance`` in full light."""
    low, high = _LOOK_ALIKE_LIGHT
    near = torch.zeros_like(images[:, :1], dtype=torch.bool)
    for color in colors:
        base = color.view(1, 3, 1, 1)
        light = ((images * base).sum(dim=1, keepdim=True) / base.square().sum().clamp(min=1e-6)).clamp(low, high)
        near |= (images - light * base).abs().amax(dim=1, keepdim=True) <= tolerance * light.clamp(max=1)
    return near


def _in_square(crop: Tensor, side: int) -> Tensor:
    rows, cols = (side - length for length in crop.shape[1:])
    return pad(crop, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))


def _torn(alpha: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
    """Take pieces out of some things: rubble that lies on them, or holes."""
    n = shape[0]
    knots = int(torch.randint(6, 25, (), generator=generator, device=generator.device))
    pieces = (smooth_noise(shape, knots, generator) - uniform((n, 1, 1, 1), 0.2, 0.6, generator)) * 5
    return alpha * (1 - pieces.clamp(0, 1) * chance(n, _TORN, generator))


def _relief(texture: str, outline: Shape, shape: Sequence[int], generator: Generator) -> Tensor:
    """Return how light and shade play on a surface, as a factor (n, 1, h, w)."""
    n, _, height, width = shape
    column = (n, 1, 1, 1)
    uneven = 1 + smooth_noise(shape, 3, generator) * uniform(column, 0, 0.12, generator)
    noise = torch.randn((n, 1, height, width), generator=generator, device=generator.device)
    if texture == "grain":
        return uneven * (1 + noise * uniform(column, 0.05, 0.25, generator))
    if texture == "stripes":
        wave = torch.sin(outline.v * (2 * torch.pi) / uniform(column, 3, 12, generator))
        return uneven * (1 + wave * uniform(column, 0.1, 0.4, generator))
    if texture == "folds":
        return uneven * _bend(outline, generator) * _creases(outline, shape, generator) * (1 + 0.04 * noise)
    return uneven * (1 + 0.02 * noise)


def _bend(outline: Shape, generator: Generator) -> Tensor:
    """Return the light on cloth over a ridge: one side of a line is darker."""
    n = len(outline.a)
    angle = uniform((n, 1, 1, 1), 0, 2 * torch.pi, generator)
    side = outline.u * angle.cos() + outline.v * angle.sin() + uniform((n, 1, 1, 1), -0.5, 0.5, generator) * outline.b
    depth = uniform((n, 1, 1, 1), 0, 0.35, generator) * chance(n, 0.6, generator)
    return 1 - depth * (side > 0)


def _creases(outline: Shape, shape: Sequence[int], generator: Generator) -> Tensor:
    """Return the light on wrinkled cloth: narrow bright and dark ridges, longer than wide, at several scales."""
    n, _, height, width = shape
    total = torch.zeros((n, 1, height, width), device=generator.device)
    for rows, cols in ((10, 30), (30, 10), (24, 24)):
        coarse = uniform((n, 1, rows, cols), -1, 1, generator)
        field_ = interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        ridges = 1 - 2 * field_.abs().clamp(0, 0.5) * 2  # 1 along the zero lines, -1 far from them
        total += ridges * uniform((n, 1, 1, 1), 0, 1, generator)
    return 1 + total * uniform(outline.a.shape, 0.02, 0.14, generator)


TEXTURES = ("plain", "grain", "stripes", "folds")
_KEYS = ("color", "spread", "texture", "size")
_SPEC_REMEDY = 'write for example "color=70,100,200 spread=25 texture=folds size=8-60"'
_BRIGHTEST = 255
_MOST_PX = 1000.0


@dataclass(frozen=True)
class TargetSpec:
    """A thing by its color, texture and size.

    Parameters
    ----------
    color
        Red, green and blue in full light, 0 to 255.
    spread
        How far each of them may be off, from thing to thing.
    texture
        ``"plain"``, ``"grain"`` (a rough surface), ``"stripes"`` or ``"folds"`` (cloth: creases, a bend, shade).
    size_px
        Smallest and largest length in pixels.
    """

    color: tuple[int, int, int]
    spread: float = 20.0
    texture: str = "plain"
    size_px: tuple[float, float] = (5.0, 60.0)

    def __post_init__(self) -> None:
        if not all(0 <= value <= _BRIGHTEST for value in self.color):
            raise OptionError(f"color={_joined(self.color, ',')}", "is no color of 0 to 255 each", _SPEC_REMEDY)
        if not any(self.color):
            raise OptionError("color=0,0,0", "is black in any light, as shadows are", "give it some color")
        if not 0 <= self.spread < _BRIGHTEST / 2:
            raise OptionError(f"spread={self.spread:g}", "leaves any color or none", "use 0 to 127")
        if self.texture not in TEXTURES:
            raise OptionError(f"texture={self.texture}", "is not known", f"use one of {', '.join(TEXTURES)}")
        low, high = self.size_px
        if not 1 <= low <= high <= _MOST_PX:
            fact = f"does not run from 1 px upwards, to {_MOST_PX:g} px at most"
            raise OptionError(f"size={_joined(self.size_px, '-')}", fact, _SPEC_REMEDY)

    def __str__(self) -> str:
        return (
            f"color={_joined(self.color, ',')} spread={self.spread:g} texture={self.texture} "
            f"size={_joined(self.size_px, '-')}"
        )


def parse_spec(text: str) -> TargetSpec:
    """Read a specification: ``key=value`` words in any order, of which only ``color`` must be there.

    Raises
    ------
    OptionError
        A word is not understood, comes twice, or its value makes no sense.
    """
    words: dict[str, str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        key = "color" if key == "color" else key
        if not equals or key not in _KEYS:
            raise OptionError(f"anomaly {text!r}", f"has the word {word!r}, which is not known", _SPEC_REMEDY)
        if key in words:
            raise OptionError(f"anomaly {text!r}", f"says {key} twice", _SPEC_REMEDY)
        words[key] = value
    if "color" not in words:
        raise OptionError(f"anomaly {text!r}", "names no color", _SPEC_REMEDY)
    usual = TargetSpec((_BRIGHTEST,) * 3)
    low, high = usual.size_px
    if "size" in words:
        low, high = _numbers(text, "size", words["size"], "-", 2)
    red, green, blue = _numbers(text, "color", words["color"], ",", 3)
    if any(value != round(value) for value in (red, green, blue)):
        raise OptionError(f"anomaly {text!r}", "has a color that is no whole numbers", _SPEC_REMEDY)
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
        raise OptionError(f"anomaly {text!r}", f"has {key}={value}, where {wanted} should stand", _SPEC_REMEDY)
    return [float(part) for part in parts]


def _joined(values: tuple[float, ...], separator: str) -> str:
    return separator.join(f"{value:g}" for value in values)


_PICTURES = {".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}
_MASKS = ("_mask", ".mask", "-mask")
_CROP_REMEDY = "cut it out (PNG with alpha), or put NAME_mask.png beside it, white where the thing is"
_LARGEST = 256  # px; larger crops are reduced to this, which is more than any chip shows
_FEWEST = 4  # pixels that make a thing


def read_crops(folder: Path) -> list[Tensor]:
    """Read all crops of a folder.

    Parameters
    ----------
    folder
        Pictures with an alpha channel, or with ``NAME_mask.png`` beside ``NAME.*``, light where the thing is.

    Returns
    -------
    list of Tensor
        uint8 (4, height, width) each: red, green, blue, alpha; in the order of their names, trimmed to what is
        opaque.

    Raises
    ------
    TrainingDataError
        There is none, or one of them is unreadable, has neither alpha nor mask, or shows nothing.
    """
    pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES and file.is_file())
    crops = [_crop(file, _mask_beside(file, pictures)) for file in pictures if not _is_mask(file)]
    if not crops:
        raise TrainingDataError(folder, "holds no crops", "put pictures of the thing there, each with alpha or a mask")
    return crops


def _is_mask(file: Path) -> bool:
    return file.stem.endswith(_MASKS)


def _mask_beside(file: Path, pictures: Iterable[Path]) -> Path | None:
    names = {file.stem + ending for ending in _MASKS}
    return next((other for other in pictures if other.stem in names), None)


def _crop(file: Path, mask: Path | None) -> Tensor:
    picture = _opened(file)
    if mask is not None:
        alpha = _opened(mask).convert("L")
        if alpha.size != picture.size:
            fact = f"is {alpha.width} x {alpha.height} px, {file.name} {picture.width} x {picture.height}"
            raise TrainingDataError(mask, fact, "make both the same size")
    elif "A" in picture.getbands() or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
    else:
        raise TrainingDataError(file, "has neither alpha nor a mask beside it", _CROP_REMEDY)
    opaque = np.asarray(alpha) > 127  # noqa: PLR2004 - half of 255
    if opaque.sum() < _FEWEST:
        raise TrainingDataError(file, "shows nothing: its alpha or mask is empty", _CROP_REMEDY)
    picture = picture.convert("RGB")
    picture.putalpha(alpha)
    rows, cols = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    picture = picture.crop((int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1))
    picture.thumbnail((_LARGEST, _LARGEST))
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture.copy()
    except (UnidentifiedImageError, OSError) as error:
        raise TrainingDataError(file, f"is no readable image ({error})", "remove or repair it") from error
