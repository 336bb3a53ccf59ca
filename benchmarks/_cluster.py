"""Start a Dask cluster of processes on this machine, like `dask scheduler` and `dask worker`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from distributed import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def cluster(workers: int, *, threads: int) -> Iterator[str]:
    """Start a scheduler and workers with a number of threads each, yield the address, and end all processes."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
    port = address.rpartition(":")[2]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        options = "--no-dashboard", "--local-directory", folder, "--memory-limit", "0"
        commands = [["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"]]
        commands += [["worker", address, "--nthreads", str(threads), "--no-nanny", *options]] * workers
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            processes.callback(process.wait)
            processes.callback(process.kill)
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
