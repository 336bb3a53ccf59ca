"""The network's forward pass in PyTorch: its device, precision, thread count, and input in memory."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from geosiam.errors import OptionError
from geosiam.imagery.pair import StoredBlock
from geosiam.inference.gpu import BLOCKS_PER_BATCH, GpuBatcher
from geosiam.network.cpu_layers import (
    LEVELS,
    can_be_quantized,
    int8_obstacle,
    multiplies_exactly,
    quantized,
    with_winograd,
)
from geosiam.network.siamese import normalized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from geosiam.imagery.normalization import PixelTransform
    from geosiam.network.architecture import NetworkConfig
    from geosiam.network.siamese import SiameseNetwork
    from geosiam.network.weights import Model

_NEUTRAL_BYTE = (LEVELS + 1) // 2  # input of an invalid pixel where the input is bytes; otherwise it is 0
_VOLTA, _AMPERE = (7, 0), (8, 0)  # CUDA compute capabilities with tensor cores for fp16, and for bf16
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
_ONLY_ON = {"fp16": "cuda", "int8": "cpu"}
_DEVICE_KINDS = {"cpu": "CPUs", "cuda": "CUDA devices"}
_DEVICE_REMEDY = "use auto, cpu, cuda or cuda:N"


def choose_device(name: str) -> torch.device:
    """Return the device called ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"`device={name}`", f"{torch.cuda.device_count()} CUDA devices were found", "use cpu")
    return device


def cuda_devices(device: torch.device) -> list[torch.device]:
    """Return the CUDA devices that share the work: all of this machine for ``cuda``, one for ``cuda:N``."""
    if ":" in str(device):
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def named_device(name: str) -> torch.device:
    """Return the device of a name without checking that this machine has it; ``auto`` is the CPU."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise OptionError(f"`device={name}`", "is not known", _DEVICE_REMEDY) from error
    if device.type not in _DEVICE_KINDS:
        raise OptionError(f"`device={name}`", "is not supported", _DEVICE_REMEDY)
    return device


def choose_precision(name: str, device: torch.device, *, quantizable: bool = False) -> torch.dtype:
    """Return the number type of the forward pass; ``torch.int8`` stands for an encoder that multiplies integers.

    ``auto`` is the fastest precision that the hardware has instructions for and that stays close to fp32
    (docs/models.md says how close): int8, then bf16 on a CPU; bf16, then fp16 on CUDA devices. Everywhere else, and for
    a CUDA device of another machine, it is fp32, the reference.

    Parameters
    ----------
    name
        ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    device
        Device that computes.
    quantizable
        Whether the weights can be quantized.

    Raises
    ------
    OptionError
        The name is unknown, or the device or the weights do not support the precision.
    """
    if name == "auto":
        return _fastest_precision(device, quantizable=quantizable)
    if name not in _PRECISIONS:
        raise OptionError(f"`precision={name}`", "is not known", f"use auto, {', '.join(_PRECISIONS)}")
    if _ONLY_ON.get(name, device.type) != device.type:
        fact = f"is for {_DEVICE_KINDS[_ONLY_ON[name]]}"
        raise OptionError(f"`precision={name}`", fact, "use fp32 or bf16, or another device")
    if name == "int8" and not quantizable:
        raise OptionError("`precision=int8`", "needs weights with batch norm, which these lack", "use fp32 or bf16")
    return _PRECISIONS[name]


def _fastest_precision(device: torch.device, *, quantizable: bool) -> torch.dtype:
    if device.type == "cpu":
        if quantizable and multiplies_int8():
            return torch.int8
        return torch.bfloat16 if multiplies_bf16() else torch.float32
    if not torch.cuda.is_available():
        return torch.float32
    capability = min(torch.cuda.get_device_capability(each) for each in cuda_devices(device))
    return torch.bfloat16 if capability >= _AMPERE else torch.float16 if capability >= _VOLTA else torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """Return the name of a number type: ``fp32``, ``bf16``, ``fp16`` or ``int8``."""
    return next(name for name, precision in _PRECISIONS.items() if precision == dtype)


def multiplies_bf16() -> bool:
    """Return whether this CPU has instructions for products of bf16 (AVX512-BF16 or AMX) and PyTorch uses them.

    A CPU without them computes bf16 as well, but slower than fp32. ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA``
    can keep PyTorch from using AVX512 at all; then the answer is no.
    """
    if not _uses_avx512():
        return False
    try:
        onednn_has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - torch itself asks so
    except AttributeError:  # not a public operator: of a PyTorch without it nothing is known
        return False
    return bool(onednn_has_bf16) and _has_any("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def multiplies_int8() -> bool:
    """Return whether this CPU has instructions for products of bytes (AVX512-VNNI or AMX) and PyTorch uses them."""
    return _uses_avx512() and _has_any("_is_vnni_supported", "_is_amx_tile_supported") and multiplies_exactly()


def _uses_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _has_any(*checks: str) -> bool:
    # The public torch.cpu.get_capabilities() is younger than the oldest PyTorch that is supported.
    return any(check is not None and check() for check in (getattr(torch.cpu, name, None) for name in checks))


class _SingleThread:
    """Let PyTorch compute with one thread in the contexts of :func:`single_thread`.

    PyTorch keeps a thread count for each thread, and one that threads start with; setting the first sets the second
    too. So each thread that enters gets one thread, and each that leaves sets both back to what they were before the
    first one entered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._usual = 1

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            threads = torch.get_num_threads()
            if not self._active:
                self._usual = threads
            self._active += 1
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                # A thread that started in the meantime started with one; it is to have the usual count as well.
                torch.set_num_threads(self._usual if threads == 1 else threads)


single_thread = _SingleThread()
"""Context in which PyTorch computes with one thread; afterwards the caller's thread counts are as they were before."""


class InputTransform:
    """Build the network's input from parts of blocks, both scenes in one tensor.

    Images of 8 and 16 bits are looked up in a table that holds the complete transform of a pixel, in the network's own
    precision, so that each value is touched once. Others are computed. Each thread uses the same memory again for each
    part: allocating it would take as long as the work.

    Parameters
    ----------
    dtype
        The network's precision. ``torch.int8``: its input is bytes, 255 times the images in [0, 1] instead of
        normalized ones, and a byte image whose transform is the identity is used as it is.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = torch.uint8 if dtype == torch.int8 else dtype
        self._local = threading.local()

    def __call__(self, block: StoredBlock, rows: slice, cols: slice) -> torch.Tensor:
        """Return the input for a part of a block: (2, 3, rows, cols), before and after, channels last.

        Invalid pixels are the middle of the range in both. The tensor is valid until this thread's next call.
        """
        images = block.before[:, rows, cols], block.after[:, rows, cols]
        buffers = self._thread_buffers(images[0].shape)
        invalid = ~block.valid[rows, cols]
        channels_last = _as_integers(buffers.channels_last.permute(0, 2, 3, 1)).numpy()
        for image, transform, planar, pixels in zip(
            images, block.transforms, buffers.planar, channels_last, strict=True
        ):
            for channel, values in enumerate(self._transformed(image, transform, planar, buffers.places)):
                pixels[..., channel] = values
            if invalid.any():
                pixels[invalid] = _NEUTRAL_BYTE if self._dtype == torch.uint8 else 0
        return buffers.channels_last

    def table(self, transform: PixelTransform, stored: str) -> torch.Tensor | None:
        """Return the input for each value of a stored type: (3, levels); None if the type has too many values."""
        return _lookup_table(transform, stored, self._dtype)

    def _transformed(
        self, image: NDArray[Any], transform: PixelTransform, planar: torch.Tensor, places: torch.Tensor
    ) -> NDArray[Any]:
        """Return the bits of the input as integers: in `planar`, or the image itself if it is the input already."""
        table = self.table(transform, image.dtype.str)
        if table is None:
            planar.copy_(_network_input(torch.from_numpy(transform.apply(image)), self._dtype))
        elif image.dtype == np.uint8 and torch.equal(table, _identity_table()):
            return image
        else:
            integer = np.uint8 if image.itemsize == 1 else np.int16  # PyTorch has few operators for uint16
            bits = torch.from_numpy(image.view(integer))
            for channel, values, result in zip(bits, _as_integers(table), _as_integers(planar), strict=True):
                places.copy_(channel)
                if bits.dtype.is_signed:
                    places.bitwise_and_(table.shape[1] - 1)
                torch.index_select(values, 0, places.view(-1), out=result.view(-1))
        return _as_integers(planar).numpy()

    def _thread_buffers(self, shape: tuple[int, ...]) -> _Buffers:
        buffers: _Buffers | None = getattr(self._local, "buffers", None)
        if buffers is None or buffers.planar.shape[1:] != shape:
            buffers = self._local.buffers = _Buffers.of_shape(shape, self._dtype)
        return buffers


@dataclass(frozen=True)
class _Buffers:
    planar: torch.Tensor  # (2, 3, rows, cols)
    channels_last: torch.Tensor  # the same shape, channels last in memory
    places: torch.Tensor  # int32 (rows, cols), index into a table

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Self:
        planar = torch.empty((2, *shape), dtype=dtype)
        channels_last = torch.empty_like(planar, memory_format=torch.channels_last)
        return cls(planar, channels_last, torch.empty(shape[1:], dtype=torch.int32))


@lru_cache(maxsize=16)
def _lookup_table(transform: PixelTransform, stored: str, dtype: torch.dtype) -> torch.Tensor | None:
    table = transform.table(stored)
    return None if table is None else _network_input(torch.from_numpy(table), dtype)


def _network_input(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return images in [0, 1] as the network's input in a precision; bytes are 255 times as much."""
    return (images * LEVELS).round_().to(dtype) if dtype == torch.uint8 else normalized(images).to(dtype)


@lru_cache
def _identity_table() -> torch.Tensor:
    """Return the table that leaves a byte image unchanged: it is the network's input already."""
    return torch.arange(LEVELS + 1, dtype=torch.uint8).expand(3, -1)


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of the tensor's memory as integers, which are copied fastest."""
    return tensor.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize])


@dataclass(frozen=True)
class TorchEngine:
    """Compute scores with PyTorch, on a device at a precision.

    Parameters
    ----------
    network
        Network for inference, on its device and in its precision.
    device
        Device that computes.
    dtype
        Precision of the forward pass; logits are turned into probabilities in float32. ``torch.int8``: the encoder's
        convolutions, from bytes to features, multiply integers.
    batcher
        Batcher that computes on CUDA devices; None: the calling thread computes.
    """

    network: SiameseNetwork
    device: torch.device
    dtype: torch.dtype
    batcher: GpuBatcher | None = None

    name = "torch"

    @classmethod
    def of_model(
        cls, model: Model, *, device: str = "auto", precision: str = "auto", elsewhere: bool = False
    ) -> TorchEngine:
        """Prepare a model: batch norm folded, weights in its precision, channels last.

        Parameters
        ----------
        model
            The network and its weights.
        device, precision
            Names of device and precision; ``"auto"`` chooses.
        elsewhere
            The device is that of another machine.

        Raises
        ------
        OptionError
            This machine does not have the device, or the precision is unknown or unsuitable for device or weights.
        """
        target = named_device(device) if elsewhere else choose_device(device)
        dtype = choose_precision(precision, target, quantizable=can_be_quantized(model.network.encoder))
        return cls(_prepare(model.network, target, dtype), target, dtype)

    def to_device(self, side: int) -> TorchEngine:
        """Return the engine with its network on its device, which this machine must have.

        Parameters
        ----------
        side
            Side in pixels of the largest block with its halo.

        Raises
        ------
        OptionError
            This machine does not have the device, or cannot compute in int8.
        """
        device = choose_device(str(self.device))
        if self.dtype == torch.int8 and (obstacle := int8_obstacle()):
            raise OptionError("`precision=int8`", obstacle, "use fp32 or bf16")
        if device.type != "cuda":
            return self
        return replace(self, batcher=GpuBatcher(self.network, _input_transform(self.dtype), cuda_devices(device), side))

    def close(self) -> None:
        """End the threads that serve CUDA devices, if there are any; the engine cannot be used any more then."""
        if self.batcher is not None:
            self.batcher.close()

    @property
    def config(self) -> NetworkConfig:
        """Architecture of the network."""
        return self.network.config

    @property
    def device_type(self) -> str:
        """Type of the device: ``cpu`` or ``cuda``."""
        return self.device.type

    @property
    def precision(self) -> str:
        """Name of the precision."""
        return precision_name(self.dtype)

    @property
    def version(self) -> str:
        """Version of PyTorch."""
        return torch.__version__

    @property
    def takes_blocks(self) -> bool:
        """Whether a forward pass covers a whole block, and not parts of it that stay in a core's cache."""
        return self.batcher is not None

    @property
    def blocks_waiting(self) -> int:
        """Number of blocks that may wait for a device while others are read."""
        return 0 if self.batcher is None else 2 * BLOCKS_PER_BATCH * len(self.batcher.devices)

    def __call__(self, pixels: StoredBlock, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Return the scores of the cells of a valid convolution over a part of a block: float32 (rows, cols)."""
        if self.batcher is not None:
            images = pixels.before[:, rows, cols], pixels.after[:, rows, cols]
            return self.batcher.scores(StoredBlock(*images, pixels.valid[rows, cols], pixels.transforms))
        # One thread: blocks run side by side, and a sum split over threads would depend on their number.
        with single_thread(), torch.inference_mode():
            logits = self.network.compare(_input_transform(self.dtype)(pixels, rows, cols))
            scores: NDArray[np.float32] = torch.sigmoid(-logits.float())[0, 0].numpy()
        return scores


def _prepare(network: SiameseNetwork, device: torch.device, dtype: torch.dtype) -> SiameseNetwork:
    """Return a copy of a network for inference in a precision, in the fastest memory layout."""
    prepared = network.for_inference()
    if dtype == torch.int8:
        features = torch.bfloat16 if multiplies_bf16() else torch.float32
        for discriminator in prepared.discriminators:
            discriminator.to(features)
        prepared.encoder = quantized(network.encoder, features)
    else:
        prepared.to(dtype)
        if device.type == "cpu" and dtype == torch.float32:  # bf16 is too coarse for it
            prepared.encoder = with_winograd(prepared.encoder)
    prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return prepared


@lru_cache(maxsize=4)
def _input_transform(dtype: torch.dtype) -> InputTransform:
    return InputTransform(dtype)
