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

Each message is one line of three parts: what it is about (a file), the fact, and the remedy. No message holds a secret
of a URL: :func:`redacted` takes them out, here and wherever a name or a message leaves the process.
"""

from __future__ import annotations

import re
import typing
from urllib.parse import unquote

_T = typing.TypeVar("_T")  # imported as a module, so that the classes here are errors

_HIDDEN = "..."

_URL = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|/vsi[a-z0-9_]+(?=[/?]))[^\s'\"<>!]*", re.IGNORECASE)
"""A URL, or one of GDAL's names of files that are not local, in any text."""

_USER = re.compile(r"(?<=://)(?:[^/\s?#]*@|[^/\s:@]*:(?!\d*(?:[/?#]|$))[^\s?#]*@)")
"""User and password in a URL, also a password with a slash, which is not a port."""

_USER_ALONE = re.compile(r"(?<![^\s:/@'\"(<])[^\s:/@'\"(<]+:[^\s/@]+@(?=[\w.-]+:\d)")
"""User and password before a host with a port, as other libraries quote a URL without its scheme."""

_SEPARATORS = re.compile(r"(&amp;|&|;(?=[\w.~%-]+=)|#)")

_PUBLIC_PARAMETERS = frozenset(
    """
    service request version layer layers style styles coverage coverageid identifier map format crs srs bbox width
    height item items asset assets collection collections id ids name file filename path url date datetime time year
    band bands bidx tile tilematrix tilematrixset x y z resolution versionid generation
    """.split()  # noqa: SIM905 - as a list, a line each
)
"""Parameters of a URL that say which resource it is. The values of all others are hidden: any may be a signature."""

_SETTING = re.compile(
    r"(?<![\w.-])([\w.-]*(?:password|passwd|pwd|secret|token|api_?key|access_?key|signature|credential)[\w.-]*=)"
    r"('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\"&]+", re.IGNORECASE)


def redacted(value: _T) -> _T:
    """Return a text without the secrets of the URLs and connections in it; of a list or dict, all texts in it.

    User and password of a URL are left out, and so are the values of its parameters but those that say which resource
    it is; also in GDAL's names, such as ``/vsicurl?header.Authorization=...&url=...``.
    """
    if isinstance(value, str):
        return _without_secrets(value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(map(redacted, value))
    return value


def _without_secrets(text: str) -> str:
    if "://" in text or "/vsi" in text:
        text = _URL.sub(lambda match: _redacted_url(match[0]), text)
    if "@" in text:
        text = _USER_ALONE.sub("", text)
    if "=" in text:
        text = _SETTING.sub(rf"\g<1>{_HIDDEN}", text)
    return _HEADER.sub(rf"\g<1>{_HIDDEN}", text) if "uthorization" in text else text


def _redacted_url(url: str) -> str:
    if url.lower().startswith("file://"):
        return url
    address, mark, query = _USER.sub("", url).partition("?")
    if not mark:
        return address
    parameters = re.sub(r"(?:[;:,)\]}]|(?<!\.\.)\.)*$", "", query)  # punctuation after the address
    parts = _SEPARATORS.split(parameters)  # every second one is a separator
    parts[::2] = map(_redacted_parameter, parts[::2])
    return f"{address}?{''.join(parts)}{query[len(parameters) :]}"


def _redacted_parameter(part: str) -> str:
    name, mark, value = part.partition("=")
    if name.lower() in _PUBLIC_PARAMETERS:
        nested = unquote(value)
        return name + mark + (_without_secrets(nested) if "://" in nested else value)
    _, brace, member = part.partition("}")  # the end of an archive's name in GDAL's braces
    return (f"{name}={_HIDDEN}" if mark else _HIDDEN if part else "") + brace + member


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
        self.subject = redacted(str(subject))
        self.fact = redacted(fact)
        self.remedy = remedy
        super().__init__(" ".join(f"{self.subject}: {self.fact}; {remedy}".split()))

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
