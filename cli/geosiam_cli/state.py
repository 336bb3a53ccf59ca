"""What holds for one call of the command line, whichever command it runs."""

from __future__ import annotations

from dataclasses import dataclass

import click


@dataclass
class State:
    """Switches that the entry point and every command share.

    Parameters
    ----------
    json
        Results, and errors too, are printed as one JSON object on stdout.
    verbosity
        How often ``-v`` was given, minus how often ``-q`` was.
    answered
        The one JSON object is on stdout: what comes after goes to stderr only.
    progress_json
        Progress is a JSON object a line on stderr, for another program to read.
    """

    json: bool = False
    verbosity: int = 0
    answered: bool = False
    progress_json: bool = False

    @property
    def quiet(self) -> bool:
        """Nothing but errors on stderr."""
        return self.verbosity < 0


def current() -> State:
    """Return the state of the running command; defaults where a command is called without the entry point."""
    context = click.get_current_context(silent=True)
    return State() if context is None else context.ensure_object(State)
