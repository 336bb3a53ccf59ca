"""Images on disk -> chips: CIFAR-10 archives, folders and archives of images, and the user's own GeoTIFFs.

Archives are read as they lie, nothing is extracted; the pickles of CIFAR-10's python archive are never unpickled:
their opcodes are read for the byte string that holds the pixels.
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
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair
from geosiam.synthesis.pairs import make_pair, varied_config
from geosiam.training.sources import CHANGED, UNCHANGED, UNDECIDED, ChipSource, ChipStack, PairStack, SceneStack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from geosiam.synthesis.pairs import SyntheticPair

log = logging.getLogger(__name__)

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_HASH = "md5:c58f30108f718f92721af3b95e74349a"  # as its authors state it
CIFAR10_SIDE = 32

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
_SCENES = {".tif", ".tiff", ".vrt"}
_MOST_PIXELS = 64_000_000  # of one scene held in memory; larger scenes are cut to their middle
_HELD_OUT = 10  # one image in so many is kept for validation where the data has no test part of its own
_REMEDY = "name CIFAR-10 (an archive or a folder of images), a folder of images, or GeoTIFFs"


def load_chips(path: str | Path | None) -> tuple[ChipSource, ChipSource]:
    """Load what ``path`` names as (chips to learn from, held-out chips).

    Parameters
    ----------
    path
        An official CIFAR-10 archive (python or binary version), a folder, tar or zip-free archive of images, a folder
        of GeoTIFFs or one GeoTIFF. Images under a folder ``test`` are held out; without one, every tenth image is.
        None downloads CIFAR-10 into the user's cache.

    Raises
    ------
    TrainingDataError
        Nothing there, nothing usable in it, or the download failed.
    """
    if path is None:
        path = _downloaded()
    path = Path(path)
    if not path.exists():
        raise TrainingDataError(path, "does not exist", _REMEDY)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() in _SCENES:
        return _from_scenes([path])
    try:
        with tarfile.open(path) as archive:
            return _from_archive(archive, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TrainingDataError(path, f"is no readable tar archive ({error})", _REMEDY) from error


def _downloaded() -> Path:
    log.info("fetching CIFAR-10 from %s", CIFAR10_URL)
    try:
        return Path(pooch.retrieve(CIFAR10_URL, CIFAR10_HASH, path=pooch.os_cache("geosiam")))
    except (OSError, ValueError) as error:
        raise TrainingDataError(CIFAR10_URL, f"cannot be fetched ({error})", "pass --data with a copy of it") from error


def _from_archive(archive: tarfile.TarFile, path: Path) -> tuple[ChipSource, ChipSource]:
    train: list[NDArray[np.uint8]] = []
    test: list[NDArray[np.uint8]] = []
    for member in archive:
        name = PurePosixPath(member.name)
        batch = name.name.startswith(("data_batch", "test_batch"))
        if not member.isfile() or not (batch or name.suffix.lower() in _IMAGES):
            continue
        file = archive.extractfile(member)
        assert file is not None
        held_out = "test" in name.parts or name.name.startswith("test_batch")
        images = test if held_out else train
        if batch:
            images.extend(cifar_batch(file.read(), f"{path}/{name}"))
        else:
            images.append(_image(file, f"{path}/{name}"))
    return _split(train, test, path)


def cifar_batch(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return the images of one official CIFAR-10 batch file, uint8 of shape (n, 3, 32, 32).

    Parameters
    ----------
    content
        The file: the binary version's records of one label byte and 3072 pixel bytes, or the python version's pickle,
        whose opcodes are read for the pixels and none of which is executed.
    name
        Its name; the binary version's ends with ``.bin``.
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
        raise TrainingDataError(name, "is no CIFAR-10 batch", _REMEDY) from error
    if not len(images):
        raise TrainingDataError(name, "is no CIFAR-10 batch", _REMEDY)
    return images


def _from_folder(folder: Path) -> tuple[ChipSource, ChipSource]:
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
        if file.suffix.lower() in _IMAGES:
            images = test if "test" in file.relative_to(folder).parts else train
            images.append(_image(file, str(file)))
    return _split(train, test, folder)


def _image(file: object, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:  # type: ignore[arg-type]
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (UnidentifiedImageError, OSError) as error:
        raise TrainingDataError(name, f"is no readable image ({error})", "remove or repair it") from error


def _split(train: list[NDArray[np.uint8]], test: list[NDArray[np.uint8]], path: Path) -> tuple[ChipSource, ChipSource]:
    if not train and not test:
        raise TrainingDataError(path, "holds no images", _REMEDY)
    if not train or not test:
        both = train or test
        test = both[::_HELD_OUT]
        train = [image for index, image in enumerate(both) if index % _HELD_OUT] or both
    return _source(train), _source(test)


def _source(images: list[NDArray[np.uint8]]) -> ChipSource:
    height, width = images[0].shape[1:]
    chips = height == width and height <= 4 * CIFAR10_SIDE and all(image.shape == images[0].shape for image in images)
    if chips:
        return ChipStack(torch.from_numpy(np.stack(images)))
    return SceneStack([torch.from_numpy(np.ascontiguousarray(image)) for image in images])


def _from_scenes(paths: list[Path]) -> tuple[ChipSource, ChipSource]:
    """Cut every scene into its first nine tenths to learn from and its last tenth to validate on."""
    train, test = [], []
    for path in paths:
        first, last = parted(read_scene(path))
        train.append(first)
        test.append(last)
    return SceneStack(train), SceneStack(test)


def parted(scene: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a scene (channels, height, width) into what is learnt from and its last tenth, which is held out."""
    cut = max(1, scene.shape[1] * (_HELD_OUT - 1) // _HELD_OUT)
    return scene[:, :cut], scene[:, cut:] if cut < scene.shape[1] else scene


def read_scene(path: str | Path) -> Tensor:
    """Read a georeferenced scene as the network sees it: uint8 (3, height, width), bands chosen, range stretched."""
    with open_pair(path, path, PairOptions(radiometry="none")) as pair:
        block = pair.read(middle(Window(0, pair.grid.height, 0, pair.grid.width)))
    return torch.from_numpy((block.before * 255).round().astype(np.uint8))


def middle(window: Window) -> Window:
    """Return the middle of a window of pixels, at most so many of them as memory should hold."""
    height, width = window.shape
    shrink = min(1.0, (_MOST_PIXELS / (height * width)) ** 0.5)
    rows, cols = int(height * shrink), int(width * shrink)
    top, left = window.row_start + (height - rows) // 2, window.col_start + (width - cols) // 2
    return Window(top, top + rows, left, left + cols)


GENERATED = 160
"""Surveys that take part in a training."""

SOME = 60
"""Surveys that teach recipe target what else may change."""

FEW = 24
"""Surveys that keep a fine-tuning from forgetting what it knew."""

_SIDE = 512
_OBJECTS = 24
_VISIBLE = 10  # mean absolute difference in gray levels under which a change cannot be seen
_WEATHERING = 1.0  # from flights of one week to flights years apart
_HELD_OUT_SCENES = 8  # one scene in so many, at least one, is kept for validation
_SEEDS = 1_000_000  # room for the scenes of one training seed, and far from the seeds that people choose for a demo


def generated_pairs(count: int, seed: int) -> tuple[PairStack, PairStack]:
    """Return ``count`` generated pairs to learn from, and some more that are held out."""
    first = (seed + 1) * _SEEDS
    seeds = range(first, first + count + max(1, count // _HELD_OUT_SCENES))
    pairs = [_pair(number) for number in seeds]
    return PairStack(pairs[:count]), PairStack(pairs[count:])


def _pair(seed: int) -> Tensor:
    """Return one pair as :class:`PairStack` wants it; the misregistration is left to the recipe."""
    config = varied_config(seed, _SIDE, _SIDE, objects=_OBJECTS, most_weathering=_WEATHERING)
    pair = make_pair(replace(config, shift_px=(0.0, 0.0)))
    return torch.from_numpy(np.concatenate([pair.before, pair.after, _cover(pair)[None]]))


def _cover(pair: SyntheticPair) -> NDArray[np.uint8]:
    """Label what visibly changed; the outline and what cannot be seen are undecided."""
    difference = np.abs(pair.before.astype(np.int16) - pair.after).mean(axis=0)
    sure = binary_erosion(pair.truth_mask) & (difference > _VISIBLE)
    near = binary_dilation(pair.truth_mask)
    return np.where(sure, CHANGED, np.where(near, UNDECIDED, UNCHANGED)).astype(np.uint8)
