"""What a program can do while its libraries are still loading."""

from __future__ import annotations

import contextlib
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def imported_meanwhile(*modules: str) -> Iterator[None]:
    """Import modules in a thread, one after the other, while the caller goes on; it is over when the context is.

    Whoever imports one of them in the meantime waits for just that one, and sees what is wrong with it.
    """

    def load() -> None:
        with contextlib.suppress(Exception):
            for module in modules:
                import_module(module)

    thread = threading.Thread(target=load, name="geosiam-imports")
    missing = any(module not in sys.modules for module in modules)
    if missing:
        thread.start()
    try:
        yield
    finally:
        if missing:
            thread.join()
