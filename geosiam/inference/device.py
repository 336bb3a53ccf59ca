"""Device, precision and thread count of the network's forward pass."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch

from geosiam.errors import OptionError
from geosiam.network.quantized import multiplies_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

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
