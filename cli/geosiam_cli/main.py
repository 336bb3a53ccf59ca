"""The entry point ``geosiam``: find the command, run it, and turn errors into one line and an exit code.

Exit codes: 0 done; 1 unexpected error (a bug); 2 wrong usage; 3 input refused; 4 finished, but some pairs or blocks
failed; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

from geosiam.errors import GeosiamError, IncompleteRunError, OutputError, redacted
from geosiam.runtime import tune_allocator
from geosiam_cli import options
from geosiam_cli.state import State, configure_logging, print_error

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "detect",
    "score",
    "vectorize",
    "heights",
    "info",
    "batch",
    "report",
    "review",
    "demo",
    "evaluate",
    "train",
    "paper",
    "models",
    "export",
    "doctor",
    "completion",
)  # the order of the help

_GC_THRESHOLDS = 50_000, 20, 100
"""Net allocations before a garbage collection, and collections before one of each older generation. The libraries
create hundreds of thousands of objects that live as long as the process. Collecting seldom, and not at all at the end
(``gc.freeze``), reduces the processor time of `detect` on 512 x 512 px from 7.6 to 6.1 s; the latter alone, to 6.3 s
(two shared cores, Python 3.11, best of 10 interleaved runs)."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says about a disk, a quota or a file that is full."""

EXIT_UNEXPECTED, EXIT_REFUSED, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 1, 3, 4, 130


class LazyGroup(click.Group):
    """A group that imports each command on demand, as ``command`` from the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order in which a newcomer needs them."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(f"geosiam_cli.{cmd_name}").command
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n  geosiam demo\n  geosiam detect before.tif after.tif -o anomalies.gpkg",
)
@click.version_option(package_name="geosiam", prog_name="geosiam")
@options.verbosity
def cli() -> None:
    """Find what changed between two georeferenced scenes of the same place."""


def program() -> NoReturn:
    """Run the command line of this process, and end it.

    What is set here holds for the whole process, which is why :func:`main` does not do it. NumPy gets one thread unless
    the environment says otherwise: the work is divided into blocks, and its own threads would only wait for each other.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
    tune_allocator()
    gc.set_threshold(*_GC_THRESHOLDS)
    code = main()
    gc.freeze()
    try:
        sys.stdout.flush()
    except OSError:  # has been reported; the interpreter would do so again, with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args
        Arguments after the program's name; None: those of this process.

    Returns
    -------
    int
        The exit code.
    """
    state = State()
    configure_logging(state)
    try:
        # Outside standalone mode click raises errors instead of printing them; a closed stdout it still handles.
        code = cli.main(args, prog_name="geosiam", standalone_mode=False, obj=state)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        print_error(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except GeosiamError as error:
        return _print_refusal(error, state)
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # click takes this for Ctrl-D, but here it is a truncated file
            return _print_bug(error.__cause__, state)
        print_error("geosiam: interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: the user learns what to do about it
        return _print_full(error, state) if getattr(error, "errno", None) in _FULL else _print_bug(error, state)
    return code if isinstance(code, int) else 0


def _print_refusal(error: GeosiamError, state: State) -> int:
    """Print an error of the library in the words of the command line, and return its exit code."""
    code = EXIT_INCOMPLETE if isinstance(error, IncompleteRunError) else EXIT_REFUSED
    message = state.with_flags(str(error))
    print_error(f"geosiam: error: {message}")
    if state.json and not state.result_printed:
        parts = {name: state.with_flags(getattr(error, name)) for name in ("subject", "fact", "remedy")}
        _print_json_error(error, message, code, **parts)
    return code


def _print_full(error: Exception, state: State) -> int:
    """Print that a disk is full, mostly the one that stdout is on: the library names its own files."""
    subject = getattr(error, "filename", None) or "standard output"
    fact = f"cannot be written ({getattr(error, 'strerror', None) or error})"
    return _print_refusal(OutputError(subject, fact, "free disk space, or write to another place"), state)


def _print_bug(error: BaseException, state: State) -> int:
    from importlib.metadata import version  # slow to import, and most runs end well

    print_error("".join(traceback.format_exception(error)).rstrip())
    print_error(
        f"geosiam: unexpected error: this is a bug in geosiam {version('geosiam')} (Python {sys.version.split()[0]}, "
        f"{sys.platform}); please report it with the command and the lines above"
    )
    if state.json and not state.result_printed:
        _print_json_error(error, redacted(str(error)), EXIT_UNEXPECTED)
    return EXIT_UNEXPECTED


def _print_json_error(error: BaseException, message: str, code: int, **parts: str) -> None:
    content = {"kind": type(error).__name__, "message": message, **parts, "exit_code": code}
    with contextlib.suppress(OSError):  # full, which may be the error
        click.echo(json.dumps({"error": content}, indent=2))
