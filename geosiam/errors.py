"""The errors geosiam raises on purpose; anything else that escapes is a bug of ours.

    GeosiamError                      everything below
    +-- InputError                    something the user gave was refused; the command line exits with 3
    |   +-- SceneNotFoundError        no such file or URL                        (also FileNotFoundError)
    |   +-- SceneUnreadableError      GDAL cannot open or decode it              (also OSError)
    |   +-- SceneRefusedError         readable, but nothing geosiam can compare  (also ValueError)
    |   +-- OptionError               an option has an invalid value             (also ValueError)
    |   +-- WeightsError              weights missing, corrupt, or not fitting   (also ValueError)
    |   +-- TrainingDataError         no usable training data at the path        (also ValueError)
    |   +-- OutputError               the target cannot be written               (also OSError)
    |   +-- ClusterError              the Dask cluster is not there, or fails    (also ConnectionError)
    +-- IncompleteRunError            finished, but some pairs or blocks failed; the command line exits with 4

Each message is one line of three parts: what it is about (a file), the fact, and the remedy.
"""

from __future__ import annotations


class GeosiamError(Exception):
    """Base of every error geosiam raises on purpose.

    Parameters
    ----------
    subject
        What the error is about, as the user knows it: mostly the path of a file.
    fact
        What is wrong with it.
    remedy
        What the user can do about it.
    """

    def __init__(self, subject: object, fact: str, remedy: str) -> None:
        self.subject = str(subject)
        self.fact = fact
        self.remedy = remedy
        super().__init__(" ".join(f"{self.subject}: {fact}; {remedy}".split()))

    def __reduce__(self) -> tuple[type[GeosiamError], tuple[str, str, str]]:
        # What goes wrong on a worker of a cluster is sent to the client.
        return type(self), (self.subject, self.fact, self.remedy)

    def __str__(self) -> str:
        # Errors that also inherit OSError would otherwise print their arguments in its own format.
        return str(self.args[0])


class InputError(GeosiamError):
    """Something the user gave was refused before or while it was used."""


class SceneNotFoundError(InputError, FileNotFoundError):
    """A scene does not exist."""


class SceneUnreadableError(InputError, OSError):
    """A scene exists but GDAL cannot open or decode it."""


class SceneRefusedError(InputError, ValueError):
    """A scene can be read but not compared: no CRS, complex values, no overlap, no valid pixel."""


class OptionError(InputError, ValueError):
    """An option has an invalid value, in general or for these scenes."""


class WeightsError(InputError, ValueError):
    """Weights are missing or corrupt, or do not fit the architecture."""


class TrainingDataError(InputError, ValueError):
    """The data named for training holds no usable chips."""


class OutputError(InputError, OSError):
    """The output cannot be written to its path."""


class ClusterError(InputError, ConnectionError):
    """The Dask cluster cannot be reached, is lost, or lacks what the work needs."""


class IncompleteRunError(GeosiamError):
    """The run finished, but some pairs or blocks could not be processed."""
