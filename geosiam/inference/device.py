"""What this machine computes with: device and precision."""

from __future__ import annotations

import torch

from geosiam.errors import OptionError
from geosiam.network.quantized import multiplies_exactly

_VOLTA, _AMPERE = (7, 0), (8, 0)  # CUDA compute capabilities with tensor cores for fp16, and for bf16
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
_ON_ONE_KIND = {"fp16": "cuda", "int8": "cpu"}


def choose_device(name: str) -> torch.device:
    """Return the device called ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {name!r}", f"{torch.cuda.device_count()} CUDA devices were found", "use cpu")
    return device


def cuda_devices(device: torch.device) -> list[torch.device]:
    """Return the devices that share the work: all that are there for ``cuda``, just the one for ``cuda:N``."""
    if ":" in str(device):
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def named_device(name: str) -> torch.device:
    """Return the device of a name, which another machine may have and this one not; ``auto`` is the CPU."""
    try:
        device = torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise OptionError(f"device {name!r}", "is not known", "use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device {name!r}", "is not supported", "use auto, cpu, cuda or cuda:N")
    return device


def choose_precision(name: str, device: torch.device, *, quantizable: bool = False) -> torch.dtype:
    """Return the number type of the forward pass, ``torch.int8`` where its encoder multiplies integers.

    ``auto`` is the fastest that the hardware multiplies and that stays close to fp32 (docs/models.md says how close):
    on a CPU int8 and then bf16, on CUDA devices bf16 and then fp16. It is fp32, the reference, everywhere else and for
    a CUDA device of another machine.

    Parameters
    ----------
    name
        ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    device
        What computes.
    quantizable
        The weights can be made integers.

    Raises
    ------
    OptionError
        The name is unknown, or hardware or weights do not have it.
    """
    if name == "auto":
        if device.type == "cpu":
            if quantizable and multiplies_int8():
                return torch.int8
            return torch.bfloat16 if multiplies_bf16() else torch.float32
        if not torch.cuda.is_available():
            return torch.float32
        generation = min(torch.cuda.get_device_capability(each) for each in cuda_devices(device))
        return torch.bfloat16 if generation >= _AMPERE else torch.float16 if generation >= _VOLTA else torch.float32
    if name not in _PRECISIONS:
        raise OptionError(f"precision {name!r}", "is not known", f"use auto, {', '.join(_PRECISIONS)}")
    if _ON_ONE_KIND.get(name, device.type) != device.type:
        kinds = {"cpu": "CPUs", "cuda": "CUDA devices"}
        raise OptionError(
            f"precision {name}", f"is for {kinds[_ON_ONE_KIND[name]]}", "use fp32 or bf16, or another device"
        )
    if name == "int8" and not quantizable:
        raise OptionError(
            "precision int8", "is for weights with batch norm, which these are without", "use fp32 or bf16"
        )
    return _PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """Return what a number type is called here: ``fp32``, ``bf16``, ``fp16`` or ``int8``."""
    return next(name for name, known in _PRECISIONS.items() if known == dtype)


def multiplies_bf16() -> bool:
    """Return whether this CPU has instructions for products of bf16 (AVX512-BF16 or AMX) and PyTorch uses them.

    A CPU without them computes bf16 as well, but slower than fp32. ``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA``
    can keep PyTorch from using AVX512 at all; then the answer is no.
    """
    if not _uses_avx512() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - torch itself asks so
        return False
    return _has("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def multiplies_int8() -> bool:
    """Return whether this CPU has instructions for products of bytes (AVX512-VNNI or AMX) and PyTorch uses them."""
    return _uses_avx512() and _has("_is_vnni_supported", "_is_amx_tile_supported") and multiplies_exactly()


def _uses_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _has(*checks: str) -> bool:
    # The public torch.cpu.get_capabilities() is younger than the oldest PyTorch that will do.
    return any(check is not None and check() for check in (getattr(torch.cpu, name, None) for name in checks))
