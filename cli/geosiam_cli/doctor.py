"""``geosiam doctor``: the facts about an installation that explain how it behaves."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosiam_cli import options, output

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9._-]+")  # at the beginning of a requirement such as "dask[array]>=2024.8"
_DEVELOPERS = re.compile(r"extra == ['\"](?:dev|docs)['\"]")
_DRIVERS = ("GTiff", "COG", "VRT", "JP2OpenJPEG", "ECW", "MrSID", "HFA", "ENVI", "PNG", "JPEG", "WEBP", "LIBERTIFF")
_SETTINGS = re.compile(
    r"(?:GDAL|CPL|OGR|PROJ|VSI|VRT|OMP|MKL|OPENBLAS|ONEDNN|ATEN|TORCH|CUDA|MALLOC|DASK|GEOSIAM)_\w+|LD_LIBRARY_PATH"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|PWD|AUTH|COOKIE|HEADER|CRED|SIGN|SAS", re.IGNORECASE)
_GIB = 1 << 30


@options.command("doctor", examples=("geosiam doctor", "geosiam doctor --json > report.json"))
@options.json_output
def command() -> None:
    """Show versions, devices and settings, to send with a question.

    That is: packages, processor and precision, CUDA devices, memory, GDAL's drivers, and the environment variables that
    change how the libraries behave. Nothing is sent anywhere. Passwords, keys and the like do not appear: a setting
    whose name sounds like one is listed without its value, and secrets in URLs are left out.
    """
    settings = _settings(dict(os.environ))  # before libraries are imported that add their own
    output.result(
        {
            "geosiam": {"version": metadata.version("geosiam"), "python": sys.version.split()[0], "system": _system()},
            "packages": _packages(),
            "processor": _processor(),
            "devices": _devices(),
            "memory": _memory(),
            "gdal": _gdal(),
            "programs": {name: shutil.which(name) or "not found" for name in ("qgis", "qgis_process", "chromium")},
            "settings": settings,
        }
    )


def _system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _packages() -> dict[str, str]:
    """Return the version of each package that geosiam requires, and of those of its extras that are here."""
    versions = {}
    for requirement in metadata.requires("geosiam") or ():
        match = _NAME.match(requirement)
        assert match is not None
        name, is_extra = match[0], "extra ==" in requirement
        if _DEVELOPERS.search(requirement):
            continue
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if not is_extra:
                versions[name] = "missing"
    versions.pop("geosiam", None)
    return dict(sorted(versions.items()))


def _processor() -> dict[str, Any]:
    from geosiam.runtime import default_workers, processor_name

    facts = {"name": processor_name(), "processors": os.cpu_count(), "usable": default_workers()}
    return facts | (_arithmetic() if importlib.util.find_spec("torch") else {})


def _arithmetic() -> dict[str, str]:
    """Return the instructions that PyTorch uses, and the precision that it computes in by default."""
    import torch

    from geosiam.inference.torch_engine import choose_precision, precision_name

    fastest = choose_precision("auto", torch.device("cpu"), quantizable=True)
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "precision": f"{precision_name(fastest)} (auto)",
    }


def _devices() -> list[dict[str, Any]] | str:
    """Return the CUDA devices that PyTorch sees."""
    if importlib.util.find_spec("torch") is None:
        return "no PyTorch"
    import torch

    devices = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_gib": round(torch.cuda.get_device_properties(index).total_memory / _GIB, 1),
            "cuda": torch.version.cuda,
        }
        for index in range(torch.cuda.device_count())
    ]
    return devices or "no CUDA device"


def _memory() -> dict[str, float]:
    import psutil

    memory = psutil.virtual_memory()
    free = shutil.disk_usage(Path.cwd()).free
    return {
        "total_gib": round(memory.total / _GIB, 1),
        "available_gib": round(memory.available / _GIB, 1),
        "free_in_this_folder_gib": round(free / _GIB, 1),
    }


def _gdal() -> dict[str, Any]:
    import pyogrio
    import pyproj
    import rasterio
    from rasterio.env import Env

    with Env() as env:
        drivers = env.drivers()
    return {
        "rasterio": rasterio.__gdal_version__,
        "pyogrio": ".".join(map(str, pyogrio.__gdal_version__)),
        "proj": pyproj.proj_version_str,
        "proj_data": pyproj.datadir.get_data_dir(),
        "drivers": ", ".join(name for name in _DRIVERS if name in drivers),
    }


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that change how the libraries behave, without secrets."""
    from geosiam.errors import redacted

    return {
        name: "set" if _SECRET.search(name) else redacted(value)
        for name, value in sorted(environment.items())
        if _SETTINGS.fullmatch(name)
    }
