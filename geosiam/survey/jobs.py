"""What goes to a worker process, and what comes back: plain values, one line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from geosiam.options import DetectOptions

SCORES, POLYGONS = "scores.tif", "anomalies.gpkg"
"""Names of the results in a pair's folder."""


@dataclass(frozen=True)
class Job:
    """A pair as a worker runs it.

    Parameters
    ----------
    name
        Of the pair.
    before, after
        Its scenes.
    folder
        Where its results go; it exists.
    options
        How it is compared, with the threads and the scheduler that it is given.
    """

    name: str
    before: str
    after: str
    folder: str
    options: DetectOptions

    def to_line(self) -> str:
        """Return the job as a line of JSON."""
        return json.dumps({**asdict(self), "options": self.options.to_dict()})

    @classmethod
    def of_line(cls, line: str) -> Job:
        """Return the job in a line."""
        values: dict[str, Any] = json.loads(line)
        options = values.pop("options")
        options["bands"] = None if options["bands"] is None else tuple(options["bands"])
        return cls(**values, options=DetectOptions(**options))


@dataclass(frozen=True)
class Event:
    """What a worker says of the pair that it runs.

    Parameters
    ----------
    kind
        ``ready`` (for the first pair), ``progress``, ``log``, ``done``, ``failed``, or ``died``: the process ended.
    pair
        Its name; empty where none is run.
    data
        The details.
    """

    kind: str
    pair: str
    data: dict[str, Any]

    def to_line(self) -> str:
        """Return the event as a line of JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def of_line(cls, line: str) -> Event:
        """Return the event in a line.

        Raises
        ------
        ValueError
            There is none.
        """
        values = json.loads(line)
        if not isinstance(values, dict) or values.keys() != {"kind", "pair", "data"}:
            raise ValueError("not an event")
        return cls(**values)
