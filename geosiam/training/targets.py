"""Targets: the objects that recipe ``target`` looks for, given by a specification or by crops, and drawn into chips.

Drawing works on whole batches: images are float32 (n, 3, h, w) in [0, 1], masks float32 (n, 1, h, w) in [0, 1].
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
from geosiam.files import is_file, is_folder
from geosiam.training.anomalies import AnomalyConfig, Shape, chance, smooth_noise, uniform

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TEXTURES = ("plain", "grain", "stripes", "folds")
_KEYS = ("color", "spread", "texture", "size")
_OTHER_SPELLINGS = {"colour": "color"}
_SPEC_REMEDY = 'write for example "color=70,100,200 spread=25 texture=folds size=8-60"'
_BRIGHTEST = 255
_LARGEST_PX = 1000.0

_PICTURES = {".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}
_MASK_ENDINGS = ("_mask", ".mask", "-mask")
_CROP_REMEDY = "cut the object out (PNG with alpha), or put NAME_mask.png beside it, white where the object is"
_LARGEST_CROP_PX = 256  # larger crops are reduced to this, which is more than any chip shows
_FEWEST_PIXELS = 4  # of an object in a crop

_LIGHT = (0.5, 1.4)  # brightness relative to full light: shade, slope, exposure
_LOOK_ALIKE_LIGHT = (0.35, 1.8)
_LOOK_ALIKE = 0.05  # difference from a target's colors beyond its spread, in units of the full range
_CROP_SCALE = (0.6, 1.6)
_COVERED = 0.3  # probability that something lies on an object, or that it has a tear


class Target(Protocol):
    """A kind of object to find."""

    def draw(self, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Return one object for each image of a batch of ``shape`` (n, 3, h, w): its colors, and its alpha."""
        ...

    def resembles(self, images: Tensor) -> Tensor:
        """Return the mask of the pixels whose color could be the object's: bool (n, 1, h, w)."""
        ...


@dataclass(frozen=True)
class SpecTarget:
    """A kind of object given by a specification, in varied shape and light, sometimes partly covered."""

    spec: TargetSpec

    def draw(self, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Return objects as :meth:`Target.draw` does."""
        n = shape[0]
        config = AnomalyConfig(size_px=self.spec.size_px, line=0.0)
        outline = Shape.random(torch.empty(tuple(shape), device=generator.device), config, generator)
        alpha = outline.alpha(smooth_noise(shape, 9, generator), generator)
        base = torch.tensor(self.spec.color, device=generator.device).view(1, 3, 1, 1) / 255
        spread = self.spec.spread / 255
        base = base + uniform((n, 3, 1, 1), -spread, spread, generator)
        relief = _relief(self.spec.texture, outline, shape, generator)
        fill = base * uniform((n, 1, 1, 1), *_LIGHT, generator) * relief
        return fill.clamp(0, 1), _partly_covered(alpha, shape, generator)

    def resembles(self, images: Tensor) -> Tensor:
        """Return the mask of the pixels with the color of the specification, in any light."""
        base = torch.tensor(self.spec.color, device=images.device).view(1, 3) / 255
        return _resembles(images, base, self.spec.spread / 255 + _LOOK_ALIKE)


@dataclass(frozen=True)
class CropTarget:
    """A kind of object given by a few crops of it, in varied scale, rotation and light, sometimes partly covered.

    Parameters
    ----------
    name
        Name of the folder of crops.
    digest
        SHA-256 of the crops, by which checkpoints distinguish trainings.
    crops
        float32 (count, 4, side, side) in [0, 1]: red, green, blue, alpha, each crop in the center of a square.
    """

    name: str
    digest: str
    crops: Tensor = field(repr=False, compare=False)

    @classmethod
    def read(cls, folder: Path) -> CropTarget:
        """Read a folder of crops, see :func:`read_crops`."""
        crops = read_crops(folder)
        digest = hashlib.sha256(b"".join(crop.numpy().tobytes() for crop in crops)).hexdigest()
        side = max(max(crop.shape[1:]) for crop in crops)
        return cls(folder.name, digest, torch.stack([_centered(crop, side) for crop in crops]).float() / 255)

    def draw(self, shape: Sequence[int], generator: Generator) -> tuple[Tensor, Tensor]:
        """Return objects as :meth:`Target.draw` does."""
        n, _, height, width = shape
        crops = self.crops.to(generator.device)
        index = torch.randint(len(crops), (n,), generator=generator, device=generator.device)
        low, high = torch.tensor(_CROP_SCALE).log().tolist()
        scale = uniform((n,), low, high, generator).exp() * crops.shape[-1]  # side of its square, in pixels of the chip
        angle = uniform((n,), 0, 2 * torch.pi, generator)
        mirror = torch.where(chance(n, 0.5, generator).flatten(), -1.0, 1.0)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        linear = torch.stack([mirror * cos * width, mirror * sin * height, -sin * width, cos * height], 1).view(n, 2, 2)
        place = uniform((n, 2, 1), -1, 1, generator)
        theta = torch.cat([linear, -linear @ place], dim=2)
        grid = affine_grid(theta, [n, 1, height, width], align_corners=False)
        objects = grid_sample(crops[index], grid, align_corners=False)
        light = uniform((n, 1, 1, 1), *_LIGHT, generator) * uniform((n, 3, 1, 1), 0.95, 1.05, generator)
        return (objects[:, :3] * light).clamp(0, 1), _partly_covered(objects[:, 3:], shape, generator)

    def resembles(self, images: Tensor) -> Tensor:
        """Return the mask of the pixels with the mean color of any crop, in any light."""
        alpha = self.crops[:, 3:]
        means = (self.crops[:, :3] * alpha).sum(dim=(2, 3)) / alpha.sum(dim=(2, 3))
        return _resembles(images, means.to(images.device), 2 * _LOOK_ALIKE)


def load_target(text: str) -> Target:
    """Return the target that an ``anomaly`` of the options names: a folder of crops, or a specification.

    Raises
    ------
    OptionError, TrainingDataError
        It is neither, or it is invalid.
    """
    path = Path(text)
    if is_folder(path):
        return CropTarget.read(path)
    if is_file(path):
        raise TrainingDataError(path, "is a file", "name the folder that holds the crops")
    if "=" not in text:
        raise TrainingDataError(
            text, "is neither a folder of crops nor a specification", 'name one, or write "color=70,100,200"'
        )
    return SpecTarget(parse_spec(text))


@dataclass(frozen=True)
class TargetSpec:
    """Color, texture and size of an object.

    Parameters
    ----------
    color
        Red, green and blue in full light, 0 to 255.
    spread
        Largest difference of each of them between objects.
    texture
        ``"plain"``, ``"grain"`` (a rough surface), ``"stripes"`` or ``"folds"`` (cloth: creases, a bend, shade).
    size_px
        Smallest and largest length in pixels.

    Raises
    ------
    OptionError
        A value is out of range.
    """

    color: tuple[int, int, int]
    spread: float = 20.0
    texture: str = "plain"
    size_px: tuple[float, float] = (5.0, 60.0)

    def __post_init__(self) -> None:
        if not all(0 <= value <= _BRIGHTEST for value in self.color):
            raise OptionError(f"color={_joined(self.color, ',')}", "is not a color of 0 to 255 each", _SPEC_REMEDY)
        if not any(self.color):
            raise OptionError("color=0,0,0", "is black in any light, as shadows are", "use a lighter color")
        if not 0 <= self.spread < _BRIGHTEST / 2:
            raise OptionError(f"spread={self.spread:g}", "is out of range", "use 0 to 127")
        if self.texture not in TEXTURES:
            raise OptionError(f"texture={self.texture}", "is not known", f"use one of {', '.join(TEXTURES)}")
        low, high = self.size_px
        if not 1 <= low <= high <= _LARGEST_PX:
            fact = f"is not a range from 1 px up to at most {_LARGEST_PX:g} px"
            raise OptionError(f"size={_joined(self.size_px, '-')}", fact, _SPEC_REMEDY)

    def __str__(self) -> str:
        return (
            f"color={_joined(self.color, ',')} spread={self.spread:g} texture={self.texture} "
            f"size={_joined(self.size_px, '-')}"
        )


def parse_spec(text: str) -> TargetSpec:
    """Read a specification: ``key=value`` words in any order, of which only ``color`` is required.

    ``colour`` is accepted as another spelling of ``color``.

    Raises
    ------
    OptionError
        A word is unknown or repeated, or its value is invalid.
    """
    words: dict[str, str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        key = _OTHER_SPELLINGS.get(key, key)
        if not equals or key not in _KEYS:
            raise OptionError(f"`anomaly` {text!r}", f"has the word {word!r}, which is not known", _SPEC_REMEDY)
        if key in words:
            raise OptionError(f"`anomaly` {text!r}", f"gives {key} twice", _SPEC_REMEDY)
        words[key] = value
    if "color" not in words:
        raise OptionError(f"`anomaly` {text!r}", "names no color", _SPEC_REMEDY)
    default = TargetSpec((_BRIGHTEST,) * 3)
    low, high = default.size_px
    if "size" in words:
        low, high = _numbers(text, "size", words["size"], "-", 2)
    red, green, blue = _numbers(text, "color", words["color"], ",", 3)
    if not all(value.is_integer() for value in (red, green, blue)):
        raise OptionError(f"`anomaly` {text!r}", "has a color that is not made of whole numbers", _SPEC_REMEDY)
    return TargetSpec(
        (round(red), round(green), round(blue)),
        _numbers(text, "spread", words["spread"], ",", 1)[0] if "spread" in words else default.spread,
        words.get("texture", default.texture),
        (low, high),
    )


def _numbers(text: str, key: str, value: str, separator: str, count: int) -> list[float]:
    numbers = value.split(separator)
    if len(numbers) != count or not all(re.fullmatch(r"\d+(\.\d+)?", number) for number in numbers):
        expected = f"{count} numbers separated by {separator!r}" if count > 1 else "a number"
        raise OptionError(f"`anomaly` {text!r}", f"has {key}={value} instead of {expected}", _SPEC_REMEDY)
    return [float(number) for number in numbers]


def _joined(values: tuple[float, ...], separator: str) -> str:
    return separator.join(f"{value:g}" for value in values)


def read_crops(folder: Path) -> list[Tensor]:
    """Read all crops of a folder.

    Parameters
    ----------
    folder
        Pictures with an alpha channel, or with ``NAME_mask.png`` beside ``NAME.*``, light where the object is.

    Returns
    -------
    list of Tensor
        uint8 (4, height, width) each: red, green, blue, alpha; in the order of their names, trimmed to the
        opaque pixels.

    Raises
    ------
    TrainingDataError
        There are none, or one of them is unreadable, has neither alpha nor mask, or is entirely transparent.
    """
    pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES and file.is_file())
    crops = [_crop(file, _mask_of(file, pictures)) for file in pictures if not file.stem.endswith(_MASK_ENDINGS)]
    if not crops:
        raise TrainingDataError(folder, "holds no crops", "put pictures of the object there, each with alpha or a mask")
    return crops


def _mask_of(file: Path, pictures: Iterable[Path]) -> Path | None:
    names = {file.stem + ending for ending in _MASK_ENDINGS}
    return next((picture for picture in pictures if picture.stem in names), None)


def _crop(file: Path, mask: Path | None) -> Tensor:
    picture = _open(file)
    if mask is not None:
        alpha = _open(mask).convert("L")
        if alpha.size != picture.size:
            fact = f"is {alpha.width} x {alpha.height} px, but {file.name} is {picture.width} x {picture.height}"
            raise TrainingDataError(mask, fact, "make both the same size")
    elif "A" in picture.getbands() or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
    else:
        raise TrainingDataError(file, "has neither alpha nor a mask beside it", _CROP_REMEDY)
    opaque = np.asarray(alpha) > 127  # noqa: PLR2004 - half of 255
    if opaque.sum() < _FEWEST_PIXELS:
        raise TrainingDataError(file, "shows nothing: its alpha or mask is empty", _CROP_REMEDY)
    picture = picture.convert("RGB")
    picture.putalpha(alpha)
    rows, cols = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    picture = picture.crop((int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1))
    picture.thumbnail((_LARGEST_CROP_PX, _LARGEST_CROP_PX))
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture.copy()
    except (UnidentifiedImageError, OSError) as error:
        raise TrainingDataError(file, f"is not a readable image ({error})", "remove or repair it") from error


def _resembles(images: Tensor, colors: Tensor, tolerance: float) -> Tensor:
    """Return the mask of the pixels with one of the ``colors`` (count, 3) in any light, within a ``tolerance``."""
    low, high = _LOOK_ALIKE_LIGHT
    resembling = torch.zeros_like(images[:, :1], dtype=torch.bool)
    for color in colors:
        base = color.view(1, 3, 1, 1)
        light = ((images * base).sum(dim=1, keepdim=True) / base.square().sum().clamp(min=1e-6)).clamp(low, high)
        resembling |= (images - light * base).abs().amax(dim=1, keepdim=True) <= tolerance * light.clamp(max=1)
    return resembling


def _centered(crop: Tensor, side: int) -> Tensor:
    """Return a crop in the center of a transparent square."""
    rows, cols = (side - length for length in crop.shape[1:])
    return pad(crop, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))


def _partly_covered(alpha: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
    """Take pieces out of some objects, as rubble on them or tears do."""
    n = shape[0]
    knots = int(torch.randint(6, 25, (), generator=generator, device=generator.device))
    pieces = (smooth_noise(shape, knots, generator) - uniform((n, 1, 1, 1), 0.2, 0.6, generator)) * 5
    return alpha * (1 - pieces.clamp(0, 1) * chance(n, _COVERED, generator))


def _relief(texture: str, outline: Shape, shape: Sequence[int], generator: Generator) -> Tensor:
    """Return the light and shade on a surface as a factor (n, 1, h, w)."""
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
    """Return the light on cloth over a ridge as a factor: one side of a line is darker."""
    n = len(outline.a)
    angle = uniform((n, 1, 1, 1), 0, 2 * torch.pi, generator)
    side = outline.u * angle.cos() + outline.v * angle.sin() + uniform((n, 1, 1, 1), -0.5, 0.5, generator) * outline.b
    depth = uniform((n, 1, 1, 1), 0, 0.35, generator) * chance(n, 0.6, generator)
    return 1 - depth * (side > 0)


def _creases(outline: Shape, shape: Sequence[int], generator: Generator) -> Tensor:
    """Return the light on wrinkled cloth as a factor: narrow bright and dark ridges at several scales and aspects."""
    n, _, height, width = shape
    total = torch.zeros((n, 1, height, width), device=generator.device)
    for rows, cols in ((10, 30), (30, 10), (24, 24)):
        coarse = uniform((n, 1, rows, cols), -1, 1, generator)
        noise = interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        ridges = 1 - 2 * noise.abs().clamp(0, 0.5) * 2  # 1 along the zero lines, -1 far from them
        total += ridges * uniform((n, 1, 1, 1), 0, 1, generator)
    return 1 + total * uniform(outline.a.shape, 0.02, 0.14, generator)
