"""The chips of the experiments: MNIST for figures 2 and 3, CIFAR-10 with blue rectangles for figures 4 and 5."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Generator, Tensor

from geosiam.errors import TrainingDataError
from geosiam.network.architecture import Convolution, NetworkConfig
from geosiam.paper.workbench import fingerprint
from geosiam.training.datasets import load_chips
from geosiam.training.recipes import Batch, Contrastive, CrossEntropy, PaperRecipe, Schedule, make_recipe
from geosiam.training.sources import ChipStack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geosiam.paper.workbench import Workbench
    from geosiam.training.loop import TrainingRun
    from geosiam.training.recipes import Objective
    from geosiam.training.sources import ChipSource

SIDE = 28
CLASSES = 10
FEATURES = 3  # so that features can be drawn as points in space
PAIRS = 50_000
BATCH = 250
_IDX_UINT8 = 0x08
_QUICK_EPOCHS, _QUICK_STEPS = 3, 100
_REMEDY = "get the four idx files of MNIST, plain or with .gz, into one folder and set `data` to it"


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or gzip-compressed.

    The format is that of LeCun, Cortes and Burges, "The MNIST database": two zero bytes, the type, the number of axes,
    each length as a big-endian 32-bit integer, then the values.

    Raises
    ------
    TrainingDataError
        The file does not exist, is not an idx file of bytes, or is truncated.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingDataError(path, f"cannot be read ({error})", _REMEDY) from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _IDX_UINT8]):  # noqa: PLR2004 - the magic number's length
        raise TrainingDataError(path, "is not an idx file of unsigned bytes", _REMEDY)
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise TrainingDataError(path, "ends within its header", _REMEDY)
    shape = tuple(int(length) for length in np.frombuffer(content[4:start], ">u4"))
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise TrainingDataError(path, f"holds {values.size} values, but its header says {shape}", _REMEDY)
    return values.reshape(shape)


@dataclass(frozen=True)
class DigitStack:
    """Digits with labels: a source of random pairs, half of which show the same digit.

    Parameters
    ----------
    images
        uint8 (n, 28, 28).
    labels
        uint8 (n,), 0 to 9.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.shape != (len(self.labels), SIDE, SIDE):
            raise ValueError(f"{len(self.labels)} labels do not match images of shape {tuple(self.images.shape)}")

    @classmethod
    def load(cls, folder: str | Path, part: str) -> Self:
        """Read the ``"train"`` or ``"t10k"`` part of MNIST from a folder."""
        names = [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]
        images, labels = (read_idx(_existing_file(Path(folder), name)) for name in names)
        if images.shape != (len(labels), SIDE, SIDE):
            raise TrainingDataError(folder, f"{part} images {images.shape} and {len(labels)} labels differ", _REMEDY)
        return cls(torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices sorted by label, and the start and length of each label's run in them."""
        counts = torch.bincount(self.labels.long(), minlength=CLASSES)
        return self.labels.argsort(stable=True), counts.cumsum(0) - counts, counts

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the indices of the two digits of ``count`` pairs, half of which show the same digit."""
        order, starts, counts = self._by_class
        first = torch.randint(len(self), (count,), generator=generator)
        digit = self.labels[first].long()
        other_digit = (digit + torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
        second = torch.where(torch.rand(count, generator=generator) < 0.5, digit, other_digit)  # noqa: PLR2004 - even odds
        offset = (torch.rand(count, generator=generator, dtype=torch.float64) * counts[second]).long()
        return first, order[starts[second] + offset]

    def chips(self, index: Tensor) -> Tensor:
        """Return the digits at ``index`` as float32 (n, 1, 28, 28) in [0, 1]."""
        return (self.images[index].float() / 255).unsqueeze(1)

    def sample(self, count: int, size: int, generator: Generator) -> Tensor:
        """Return random digits, float32 (count, 1, 28, 28) in [0, 1]."""
        return self.chips(torch.randint(len(self), (count,), generator=generator))[..., :size, :size]

    def pairs(self, count: int, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return random pairs; the whole chip counts as changed where the digits differ."""
        a, b = self.draw(count, generator)
        first, second = self.chips(a)[..., :size, :size], self.chips(b)[..., :size, :size]
        changed = (self.labels[a] != self.labels[b]).float().view(-1, 1, 1, 1)
        return first, second, changed.expand(-1, 1, size, size)


def _existing_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise TrainingDataError(folder / name, "does not exist", _REMEDY)


def digit_network(**options: object) -> NetworkConfig:
    """Return the encoder of figures 2 and 3: valid convolutions whose receptive field is exactly a digit's 28 px.

    4 + 2 (3 - 1) + 4 (6 - 1) = 28 px, so a digit gives one cell of three features, with no fully connected layer.
    """
    stack = ((4, 2, 16), (3, 2, 32), (6, 1, 64), (1, 1, FEATURES))
    layers = tuple(Convolution(*layer) for layer in stack)
    return NetworkConfig(layers, channels=1, batch_norm=False, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DigitRecipe:
    """Pairs of digits, similar = the same digit: 100 epochs of 50,000 newly drawn pairs each."""

    network: NetworkConfig = field(default_factory=digit_network)
    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=100, steps=PAIRS // BATCH, batch_size=BATCH, learning_rate=2e-3)
    )
    objective: Objective = field(default_factory=CrossEntropy)
    chip_size: int = SIDE
    name: str = "digits"
    summary: str = "Pairs of MNIST digits; similar = the same digit (Hirokawa, VI, figures 2 and 3)"

    def batch(self, source: ChipSource, generator: Generator) -> Batch:
        """Draw a batch of pairs with one label each."""
        first, second, changed = source.pairs(self.schedule.batch_size, SIDE, generator)
        similar = 1 - changed.amax(dim=(1, 2, 3), keepdim=True)
        return Batch(first, second, similar, torch.ones_like(similar))


@dataclass(frozen=True)
class Variant:
    """One way to train the encoder of figure 2.

    Parameters
    ----------
    name
        Short name, also in file names.
    title
        Name in the report.
    objective, distance, head
        See :mod:`geosiam.training.recipes` and :class:`geosiam.network.siamese.NetworkConfig`.
    """

    name: str
    title: str
    objective: Objective
    distance: str
    head: str

    def recipe(self, *, quick: bool = False) -> DigitRecipe:
        """Return the recipe, shortened for a smoke test."""
        recipe = DigitRecipe(digit_network(distance=self.distance, head=self.head), objective=self.objective)
        if not quick:
            return recipe
        return replace(recipe, schedule=replace(recipe.schedule, epochs=_QUICK_EPOCHS, steps=_QUICK_STEPS))


VARIANTS = (
    Variant("contrastive", "(a) contrastive loss", Contrastive(), "euclidean", "distance"),
    Variant("concatenation", "(b) concatenation [f1, f2, ‖f1 - f2‖]", CrossEntropy(), "euclidean", "concat"),
    Variant("distance", "(c) distance ‖f1 - f2‖ only", CrossEntropy(), "euclidean", "distance"),
    Variant("elementwise", "(listing) concatenation [f1, f2, |f1 - f2|]", CrossEntropy(), "elementwise", "concat"),
)


def digit_folder(bench: Workbench) -> Path:
    """Return the folder with MNIST's files."""
    return bench.data("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte").parent


def load_digits(bench: Workbench) -> tuple[DigitStack, DigitStack]:
    """Return MNIST's training and test digits."""
    folder = digit_folder(bench)
    return DigitStack.load(folder, "train"), DigitStack.load(folder, "t10k")


def train_variant(bench: Workbench, variant: Variant, train: DigitStack, test: DigitStack, seed: int) -> TrainingRun:
    """Train one variant with one seed."""
    return bench.train(
        f"digits-{variant.name}",
        variant.recipe(quick=bench.options.quick),
        train,
        test,
        seed=seed,
        fingerprint=fingerprint(train.images, train.labels),
    )


MAX_CHIPS = 50_000
_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar10*.tar.*", "cifar-10-batches-*", "cifar10")
_QUICK_EPOCHS, _QUICK_STEPS = 2, 40


def cifar_file(bench: Workbench) -> Path:
    """Return CIFAR-10's archive or folder."""
    return bench.data(*_ARCHIVES)


def load_cifar(bench: Workbench) -> tuple[ChipStack, ChipStack]:
    """Return the training images of CIFAR-10, at most 50,000, and its test images."""
    return _load_stacks(cifar_file(bench))


@lru_cache(maxsize=1)
def _load_stacks(path: Path) -> tuple[ChipStack, ChipStack]:
    train, test = load_chips(path)
    assert isinstance(train, ChipStack)
    assert isinstance(test, ChipStack)
    return ChipStack(train.chips[:MAX_CHIPS]), test


def anomaly_recipe(bench: Workbench, epochs: int | None = None) -> PaperRecipe:
    """Return the paper's recipe, shortened for a smoke test."""
    recipe = make_recipe("paper")
    assert isinstance(recipe, PaperRecipe)
    if bench.quick:
        return replace(recipe, schedule=replace(recipe.schedule, epochs=_QUICK_EPOCHS, steps=_QUICK_STEPS))
    return replace(recipe, schedule=replace(recipe.schedule, epochs=epochs or recipe.schedule.epochs))


def train_anomalies(bench: Workbench, recipe: PaperRecipe, seed: int) -> TrainingRun:
    """Train the paper's recipe on CIFAR-10 with one seed."""
    train, test = load_cifar(bench)
    label = f"anomalies-{recipe.schedule.epochs}epochs"
    return bench.train(label, recipe, train, test, seed=seed, fingerprint=_fingerprint(train))


@lru_cache(maxsize=2)
def _fingerprint(stack: ChipStack) -> str:
    return fingerprint(stack.chips)


@torch.inference_mode()
def pair_accuracy(trained: TrainingRun, source: ChipStack, batches: int, seed: int) -> float:
    """Return the fraction of random pairs classified correctly at probability 1/2."""
    generator = torch.Generator().manual_seed(seed)
    correct = count = 0
    for _ in range(batches):
        batch = trained.recipe.batch(source, generator)
        is_similar = trained.network(batch.before, batch.after) > 0
        correct += int((is_similar == (batch.similar > 0)).sum())
        count += batch.similar.numel()
    return correct / count
