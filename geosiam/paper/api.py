"""`reproduce`: run missing experiments, and write their numbers, pictures and the report."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam import __version__
from geosiam.errors import InputError, OptionError
from geosiam.files import is_folder
from geosiam.network.weights import available_models
from geosiam.paper.results import REPORT, Record, write_report
from geosiam.paper.workbench import PaperOptions, Workbench, file_checksum, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from geosiam.paper.results import Result

log = logging.getLogger(__name__)

EXPERIMENTS = ("fig2", "fig3", "fig4", "fig5", "fig6", "position", "transfer", "resolution")
"""Experiments in the order of the report; each is a module of this package with a function ``run``."""


def reproduce(
    names: list[str] | tuple[str, ...],
    options: PaperOptions,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Run experiments and write a report of all results in the folder.

    Results from the same data, weights, settings and code are kept.

    Parameters
    ----------
    names
        Names from :data:`EXPERIMENTS`, or ``"all"``.
    options
        Data, output folder and settings.
    on_progress
        Called with (steps done, steps in total, name of the step).

    Returns
    -------
    Path of the report

    Raises
    ------
    OptionError
        There is no such experiment.
    InputError
        Data are missing or the results cannot be written.
    """
    experiments = EXPERIMENTS if "all" in names else tuple(dict.fromkeys(names))
    for name in experiments:
        if name not in EXPERIMENTS:
            raise OptionError(f"experiment {name!r}", "is not known", f"use one of all, {', '.join(EXPERIMENTS)}")
    if not is_folder(options.data):
        raise InputError(options.data, "is not a folder", "set `data` to the folder of the data")
    bench = Workbench(options, on_progress)
    for name in experiments:
        _run_experiment(bench, name)
    report = bench.path(REPORT)
    records = [bench.path(f"{name}.json") for name in EXPERIMENTS]
    write_report([Record.load(path) for path in records if path.exists()], report)
    return report


def _run_experiment(bench: Workbench, name: str) -> None:
    path = bench.path(f"{name}.json")
    key = _key(bench, name)
    if _is_current(path, key):
        log.info("%s: up to date", name)
        return
    bench.used.clear()
    bench.spent.clear()
    started = time.perf_counter()
    result: Result = importlib.import_module(f"geosiam.paper.{name}").run(bench)
    seconds = time.perf_counter() - started
    record = Record(
        result=result,
        command=_command(name, bench.options),
        quick=bench.quick,
        key=key,
        seconds=seconds - sum(bench.spent),
        training_seconds=sum(bench.used.values()),
        machine=machine(),
    )
    record.save(path)
    log.info("%s: done in %.0f s", name, seconds)


def _is_current(path: Path, key: str) -> bool:
    try:
        record = Record.load(path)
    except InputError:
        return False
    return record.key == key and all((path.parent / picture.file).exists() for picture in record.result.pictures)


def _key(bench: Workbench, name: str) -> str:
    """Return a checksum of everything a result depends on: options, data, weights, code of the experiment, version."""
    module = importlib.import_module(f"geosiam.paper.{name}")
    data = [file_checksum(path) for path in module.inputs(bench)]
    weights = {card.name: card.checksum for card in available_models()} if module.USES_WEIGHTS else {}
    settings = repr(replace(bench.options, out=Path(), data=Path()))
    code = inspect.getsource(module)
    return hashlib.sha256(json.dumps([settings, data, weights, code, __version__]).encode()).hexdigest()


def _command(name: str, options: PaperOptions) -> str:
    words = ["geosiam", "paper", name, "--data", "DIR", "--out", "OUT", "--seeds", str(options.seeds)]
    words += ["--precision", options.precision]
    for scene in options.scenes:
        words += ["--scene", Path(scene).name]
    return shlex.join(words + (["--quick"] if options.quick else []))
