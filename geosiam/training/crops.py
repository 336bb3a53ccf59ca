"""Crops of a thing: pictures that say by alpha, or by a mask beside them, which of their pixels belong to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from geosiam.errors import TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

_PICTURES = {".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}
_MASKS = ("_mask", ".mask", "-mask")
_REMEDY = "cut it out (PNG with alpha), or put NAME_mask.png beside it, white where the thing is"
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
        raise TrainingDataError(file, "has neither alpha nor a mask beside it", _REMEDY)
    opaque = np.asarray(alpha) > 127  # noqa: PLR2004 - half of 255
    if opaque.sum() < _FEWEST:
        raise TrainingDataError(file, "shows nothing: its alpha or mask is empty", _REMEDY)
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
