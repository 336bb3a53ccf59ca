"""Load chips: from CIFAR-10, from folders and archives of images, from GeoTIFFs, and from synthetic pairs.

Archives are read in place, without extraction. The pickles of CIFAR-10's Python archive are never unpickled: their
opcodes are searched for the byte string that holds the pixels.
"""

from __future__ import annotations

import logging
import pickletools
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pooch
import torch
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import binary_dilation, binary_erosion

from geosiam.errors import TrainingDataError
from geosiam.files import exists
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.synthesis.pairs import make_pair, varied_config
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, ChipStack, PairStack, SceneStack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.synthesis.pairs import SyntheticPair
    from geosiam.training.sources import TrainingSources

log = logging.getLogger(__name__)

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_HASH = "md5:c58f30108f718f92721af3b95e74349a"  # as its authors publish it
CIFAR10_SIDE = 32

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
"""Suffixes of images without a georeference."""

_SCENES = {".tif", ".tiff", ".vrt"}

_MAX_PIXELS = 64_000_000  # of one scene in memory; of a larger one the central part is used
_HELD_OUT = 10  # one image in this many is held out if the data have no test part of their own

_SYNTHETIC_SIDE_PX = 512
_SYNTHETIC_OBJECTS = 24
_SYNTHETIC_WEATHERING = 1.0  # from flights of one week to flights years apart
_SYNTHETIC_HELD_OUT = 8  # one pair in this many, at least one, is held out
_SYNTHETIC_SEEDS = 1_000_000  # room for the pairs of one training seed, and far from the seeds that people choose
_VISIBLE = 10  # smallest visible change: mean absolute difference in gray levels

_REMEDY = "name CIFAR-10 (an archive or a folder of images), a folder of images, or GeoTIFFs"


def load_chips(path: str | Path | None) -> TrainingSources:
    """Load the chips that ``path`` names, for training and held out.

    Parameters
    ----------
    path
        An official CIFAR-10 archive (Python or binary version), a folder or tar archive of images, a folder of
        GeoTIFFs or one GeoTIFF. Images under a folder ``test`` are held out; without one, every tenth image is. None
        downloads CIFAR-10 into the user's cache.

    Raises
    ------
    TrainingDataError
        The path does not exist or holds nothing usable, or the download failed.
    """
    if path is None:
        path = _downloaded()
    if not exists(path):
        raise TrainingDataError(path or "the name of the data", "does not exist", _REMEDY)
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() in _SCENES:
        return _from_scenes([path])
    try:
        with tarfile.open(path) as archive:
            return _from_archive(archive, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TrainingDataError(path, f"is not a readable tar archive ({error})", _REMEDY) from error


def is_image(path: Path) -> bool:
    """Return whether a training reads a file that it meets in a folder: a picture, or a georeferenced scene."""
    return path.suffix.lower() in PICTURES | _SCENES


def _downloaded() -> Path:
    log.info("downloading CIFAR-10 from %s", CIFAR10_URL)
    try:
        return Path(pooch.retrieve(CIFAR10_URL, CIFAR10_HASH, path=pooch.os_cache("geosiam")))
    except (OSError, ValueError) as error:
        raise TrainingDataError(CIFAR10_URL, f"cannot be downloaded ({error})", "set `data` to a copy of it") from error


def _from_archive(archive: tarfile.TarFile, path: Path) -> TrainingSources:
    train: list[NDArray[np.uint8]] = []
    test: list[NDArray[np.uint8]] = []
    for member in archive:
        name = PurePosixPath(member.name)
        batch = name.name.startswith(("data_batch", "test_batch"))
        if not member.isfile() or not (batch or name.suffix.lower() in PICTURES):
            continue
        file = archive.extractfile(member)
        assert file is not None
        held_out = "test" in name.parts or name.name.startswith("test_batch")
        images = test if held_out else train
        if batch:
            images.extend(cifar_batch(file.read(), f"{path}/{name}"))
        else:
            images.append(load_image(file, f"{path}/{name}"))
    return _split(train, test, path)


def cifar_batch(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return the images of one official CIFAR-10 batch file, uint8 of shape (n, 3, 32, 32).

    Parameters
    ----------
    content
        Contents of the file: the binary version's records of one label byte and 3072 pixel bytes, or the Python
        version's pickle, whose opcodes are searched for the pixels and never executed.
    name
        Name of the file; the binary version's ends with ``.bin``.
    """
    pixels = 3 * CIFAR10_SIDE**2
    try:
        if name.endswith(".bin"):
            raw = np.frombuffer(content, np.uint8).reshape(-1, pixels + 1)[:, 1:]
        else:
            strings = (text for _, text, _ in pickletools.genops(content) if isinstance(text, str | bytes))
            longest = max(strings, key=len, default=b"")
            raw = np.frombuffer(longest.encode("latin-1") if isinstance(longest, str) else longest, np.uint8)
        images = raw.reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE)
    except ValueError as error:
        raise TrainingDataError(name, "is not a CIFAR-10 batch", _REMEDY) from error
    if not len(images):
        raise TrainingDataError(name, "is not a CIFAR-10 batch", _REMEDY)
    return images


def _from_folder(folder: Path) -> TrainingSources:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    scenes = [file for file in files if file.suffix.lower() in _SCENES]
    if scenes:
        return _from_scenes(scenes)
    batches = [file for file in files if file.name.startswith(("data_batch", "test_batch"))]
    train: list[NDArray[np.uint8]] = []
    test: list[NDArray[np.uint8]] = []
    for file in batches:
        images = test if file.name.startswith("test_batch") else train
        images.extend(cifar_batch(file.read_bytes(), str(file)))
    for file in files:
        if file.suffix.lower() in PICTURES:
            images = test if "test" in file.relative_to(folder).parts else train
            images.append(load_image(file, str(file)))
    return _split(train, test, folder)


def load_image(file: object, name: str) -> NDArray[np.uint8]:
    """Return a picture, uint8 (3, rows, cols).

    Raises
    ------
    TrainingDataError
        It is not a readable image.
    """
    try:
        with Image.open(file) as image:  # type: ignore[arg-type]
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (UnidentifiedImageError, OSError) as error:
        raise TrainingDataError(name, f"is not a readable image ({error})", "remove or repair it") from error


def _split(train: list[NDArray[np.uint8]], test: list[NDArray[np.uint8]], path: Path) -> TrainingSources:
    if not train and not test:
        raise TrainingDataError(path, "holds no images", _REMEDY)
    if not train or not test:
        images = train or test
        test = images[::_HELD_OUT]
        train = [image for index, image in enumerate(images) if index % _HELD_OUT] or images
    return _source(train), _source(test)


def _source(images: list[NDArray[np.uint8]]) -> ChipStack | SceneStack:
    height, width = images[0].shape[1:]
    chips = height == width and height <= 4 * CIFAR10_SIDE and all(image.shape == images[0].shape for image in images)
    if chips:
        return ChipStack(torch.from_numpy(np.stack(images)))
    return SceneStack([torch.from_numpy(np.ascontiguousarray(image)) for image in images])


def _from_scenes(paths: list[Path]) -> TrainingSources:
    """Return the first nine tenths of every scene for training, and its last tenth held out."""
    splits = [split_scene(read_scene(path)) for path in paths]
    return SceneStack([train for train, _ in splits]), SceneStack([held_out for _, held_out in splits])


def split_scene(scene: Tensor) -> tuple[Tensor, Tensor]:
    """Split a scene (channels, height, width) into nine tenths for training, and the last tenth, held out."""
    rows = max(1, scene.shape[1] * (_HELD_OUT - 1) // _HELD_OUT)
    return scene[:, :rows], scene[:, rows:] if rows < scene.shape[1] else scene


def read_scene(path: str | Path) -> Tensor:
    """Read a scene as the network sees it: uint8 (3, height, width), with bands chosen and values stretched."""
    with open_pair(path, path, options=PairOptions(radiometry="none")) as pair:
        block = pair.read(central_window(Window(0, pair.grid.height, 0, pair.grid.width)))
    return torch.from_numpy((block.before * 255).round().astype(np.uint8))


def central_window(window: Window) -> Window:
    """Return the central part of a window, of as many pixels as may be in memory, or all of it."""
    height, width = window.shape
    shrink = min(1.0, (_MAX_PIXELS / (height * width)) ** 0.5)
    rows, cols = int(height * shrink), int(width * shrink)
    top, left = window.row_start + (height - rows) // 2, window.col_start + (width - cols) // 2
    return Window(top, top + rows, left, left + cols)


def synthetic_pairs(count: int, seed: int, *, max_off_nadir: float = 0.0) -> tuple[PairStack, PairStack]:
    """Return ``count`` synthetic pairs for training, and an eighth as many that are held out.

    Parameters
    ----------
    count, seed
        Number of pairs for training, and seed of the training.
    max_off_nadir
        Largest off-nadir angle of both flights in degrees, so that lean is normal; see :func:`varied_config`.
    """
    first_seed = (seed + 1) * _SYNTHETIC_SEEDS
    pairs = [
        _labeled_pair(number, max_off_nadir)
        for number in range(first_seed, first_seed + count + max(1, count // _SYNTHETIC_HELD_OUT))
    ]
    return PairStack(pairs[:count]), PairStack(pairs[count:])


def _labeled_pair(seed: int, max_off_nadir: float) -> Tensor:
    """Return a synthetic pair as :class:`PairStack` takes it, without misregistration, which the recipe adds."""
    config = varied_config(
        seed,
        _SYNTHETIC_SIDE_PX,
        _SYNTHETIC_SIDE_PX,
        objects=_SYNTHETIC_OBJECTS,
        max_weathering=_SYNTHETIC_WEATHERING,
        max_off_nadir=max_off_nadir,
    )
    pair = make_pair(replace(config, shift_px=(0.0, 0.0)))
    return torch.from_numpy(np.concatenate([pair.before, pair.after, _labels(pair)[None]]))


def _labels(pair: SyntheticPair) -> NDArray[np.uint8]:
    """Label visible changes; outlines and changes that cannot be seen are undecided."""
    difference = np.abs(pair.before.astype(np.int16) - pair.after).mean(axis=0)
    certain = binary_erosion(pair.truth_mask) & (difference > _VISIBLE)
    possible = binary_dilation(pair.truth_mask)
    return np.where(certain, CHANGED, np.where(possible, UNDECIDED, UNCHANGED)).astype(np.uint8)
