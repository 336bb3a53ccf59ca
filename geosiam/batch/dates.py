"""When a scene was taken, and where, as far as its name and its tags tell."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DAY = re.compile(
    r"(?<!\d)(?P<y>(?:19|20)\d\d)(?P<s>[-_.]?)(?P<m>0[1-9]|1[0-2])(?P=s)(?P<d>0[1-9]|[12]\d|3[01])"
    r"(?:[T_-]?(?P<H>[01]\d|2[0-3])[-:]?(?P<M>[0-5]\d)(?:[-:]?(?P<S>[0-5]\d))?Z?)?(?!\d)"
)
_MONTH = re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)-(?P<m>0[1-9]|1[0-2])(?!\d)")
_YEAR = re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)(?!\d)")
_TAG = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d))?)?")
_PHASES = frozenset({"before", "after", "pre", "post", "old", "new", "t0", "t1", "t2", "earlier", "later"})

TAGS = (
    ("IMAGERY", "ACQUISITIONDATETIME"),
    ("EXIF", "EXIF_DateTimeOriginal"),
    ("", "EXIF_DateTimeOriginal"),
    ("", "ACQUISITIONDATETIME"),
)
"""Tags that say when the picture was taken: GDAL's domain and the key."""

FILE_TAGS = (("", "TIFFTAG_DATETIME"), ("EXIF", "EXIF_DateTime"), ("", "EXIF_DateTime"))
"""Tags that may say no more than when the file was made; what the name says counts before them."""


@dataclass(frozen=True, order=True)
class SceneDate:
    """A moment or day or year.

    Parameters
    ----------
    start
        Its beginning, in UTC; dates are ordered by it.
    text
        ISO 8601, as precise as it is known.
    source
        What says so.
    """

    start: dt.datetime
    text: str = field(compare=False)
    source: str = field(compare=False)


def date_in(name: str) -> SceneDate | None:
    """Return the date that stands in a name: a day if there is any, else a month, else a year; the first of several."""
    for pattern in (_DAY, _MONTH, _YEAR):
        found = [date for date in map(_of_match, pattern.finditer(name)) if date is not None]
        if found:
            source = "name" if len(found) == 1 else f"name, first of {len(found)} dates"
            return SceneDate(*found[0], source)
    return None


def date_of(name: str, tags: Mapping[tuple[str, str], str]) -> SceneDate | None:
    """Return when a scene was taken: by its tags, else by its name, else by when its file was made.

    Parameters
    ----------
    name
        Its name, without folder and suffix.
    tags
        What the scene's tags say, by (domain, key) of :data:`TAGS` and :data:`FILE_TAGS`.
    """
    return _tagged(tags, TAGS) or date_in(name) or _tagged(tags, FILE_TAGS)


def iso_date(text: str, source: str) -> SceneDate:
    """Return a date written in ISO 8601, or just the year.

    Raises
    ------
    ValueError
        It is none.
    """
    plain = text.strip()
    if re.fullmatch(r"\d{4}", plain):
        return SceneDate(dt.datetime(int(plain), 1, 1, tzinfo=dt.UTC), plain, source)
    if re.fullmatch(r"\d{4}-\d\d", plain):
        return SceneDate(dt.datetime(int(plain[:4]), int(plain[5:]), 1, tzinfo=dt.UTC), plain, source)
    moment = dt.datetime.fromisoformat(plain)
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    return SceneDate(moment, _text(moment, whole_day=len(plain) <= len("2017-08-27")), source)


def place_in(name: str) -> str:
    """Return what is left of a name without its dates and words such as 'before': the same for all dates of a place."""
    for pattern in (_DAY, _MONTH, _YEAR):
        name = pattern.sub(" ", name)
    words = [word for word in re.split(r"[\s_.\-]+", name) if word and word.casefold() not in _PHASES]
    return "_".join(words)


def _of_match(match: re.Match[str]) -> tuple[dt.datetime, str] | None:
    parts = match.groupdict()
    numbers = [int(parts.get(key) or first) for key, first in zip("ymdHMS", (0, 1, 1, 0, 0, 0), strict=True)]
    try:
        moment = dt.datetime(*numbers, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]
    except ValueError:  # 31 February
        return None
    if "d" in parts:
        return moment, _text(moment, whole_day=parts["H"] is None)
    return moment, parts["y"] if "m" not in parts else f"{parts['y']}-{parts['m']}"


def _tagged(tags: Mapping[tuple[str, str], str], keys: tuple[tuple[str, str], ...]) -> SceneDate | None:
    for key in keys:
        match = _TAG.match(tags.get(key, ""))
        if match is None:
            continue
        try:
            moment = dt.datetime(*[int(part or 0) for part in match.groups()], tzinfo=dt.UTC)  # type: ignore[misc, arg-type]
        except ValueError:  # some cameras write 0000:00:00
            continue
        return SceneDate(moment, _text(moment, whole_day=match[4] is None), f"tag {key[1]}")
    return None


def _text(moment: dt.datetime, *, whole_day: bool) -> str:
    return moment.date().isoformat() if whole_day else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
