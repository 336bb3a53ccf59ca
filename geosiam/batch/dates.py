"""The date and the place of a scene, from its file name and its tags."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ACQUISITION_TAGS = (
    ("IMAGERY", "ACQUISITIONDATETIME"),
    ("EXIF", "EXIF_DateTimeOriginal"),
    ("", "EXIF_DateTimeOriginal"),
    ("", "ACQUISITIONDATETIME"),
)
"""Tags with the time of acquisition: GDAL's metadata domain and the key."""

FILE_TAGS = (("", "TIFFTAG_DATETIME"), ("EXIF", "EXIF_DateTime"), ("", "EXIF_DateTime"))
"""Tags that may only hold the time when the file was made, so a date in the file name takes precedence."""

_DAY = re.compile(
    r"(?<!\d)(?P<y>(?:19|20)\d\d)(?P<s>[-_.]?)(?P<m>0[1-9]|1[0-2])(?P=s)(?P<d>0[1-9]|[12]\d|3[01])"
    r"(?:[T_-]?(?P<H>[01]\d|2[0-3])[-:]?(?P<M>[0-5]\d)(?:[-:]?(?P<S>[0-5]\d))?Z?)?(?!\d)"
)
_MONTH = re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)-(?P<m>0[1-9]|1[0-2])(?!\d)")
_YEAR = re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)(?!\d)")
_TAG = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d))?)?")
_PHASES = frozenset({"before", "after", "pre", "post", "old", "new", "t0", "t1", "t2", "earlier", "later"})


@dataclass(frozen=True, order=True)
class SceneDate:
    """A year, month, day or moment.

    Parameters
    ----------
    start
        Its start in UTC, by which dates are ordered.
    text
        ISO 8601, as precise as it is known.
    source
        Where it comes from, such as a tag or the file name.
    """

    start: dt.datetime
    text: str = field(compare=False)
    source: str = field(compare=False)


def date_in(name: str) -> SceneDate | None:
    """Return the date in a name: a day if there is one, else a month, else a year; of several, the first."""
    for pattern in (_DAY, _MONTH, _YEAR):
        dates = [date for date in map(_date_of_match, pattern.finditer(name)) if date is not None]
        if dates:
            source = "name" if len(dates) == 1 else f"name, first of {len(dates)} dates"
            return SceneDate(*dates[0], source)
    return None


def date_of(name: str, tags: Mapping[tuple[str, str], str]) -> SceneDate | None:
    """Return the date of a scene: from acquisition tags, else from its name, else from the file's tags.

    Parameters
    ----------
    name
        Its file name without folder and suffix.
    tags
        Its tags by (domain, key), as in :data:`ACQUISITION_TAGS` and :data:`FILE_TAGS`.
    """
    return _date_of_tags(tags, ACQUISITION_TAGS) or date_in(name) or _date_of_tags(tags, FILE_TAGS)


def iso_date(text: str, source: str) -> SceneDate:
    """Parse a date in ISO 8601, or just a year or a month.

    Raises
    ------
    ValueError
        The text is not a date.
    """
    stripped = text.strip()
    if re.fullmatch(r"\d{4}", stripped):
        return SceneDate(dt.datetime(int(stripped), 1, 1, tzinfo=dt.UTC), stripped, source)
    if re.fullmatch(r"\d{4}-\d\d", stripped):
        return SceneDate(dt.datetime(int(stripped[:4]), int(stripped[5:]), 1, tzinfo=dt.UTC), stripped, source)
    moment = dt.datetime.fromisoformat(stripped)
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    return SceneDate(moment, _iso_text(moment, whole_day=len(stripped) <= len("2017-08-27")), source)


def place_in(name: str) -> str:
    """Return a name without dates and words such as 'before', which is the same for all dates of a place."""
    for pattern in (_DAY, _MONTH, _YEAR):
        name = pattern.sub(" ", name)
    words = [word for word in re.split(r"[\s_.\-]+", name) if word and word.casefold() not in _PHASES]
    return "_".join(words)


def _date_of_match(match: re.Match[str]) -> tuple[dt.datetime, str] | None:
    parts = match.groupdict()
    numbers = [int(parts.get(key) or first) for key, first in zip("ymdHMS", (0, 1, 1, 0, 0, 0), strict=True)]
    try:
        moment = dt.datetime(*numbers, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]
    except ValueError:  # such as 31 February
        return None
    if "d" in parts:
        return moment, _iso_text(moment, whole_day=parts["H"] is None)
    return moment, parts["y"] if "m" not in parts else f"{parts['y']}-{parts['m']}"


def _date_of_tags(tags: Mapping[tuple[str, str], str], keys: Sequence[tuple[str, str]]) -> SceneDate | None:
    for key in keys:
        match = _TAG.match(tags.get(key, ""))
        if match is None:
            continue
        try:
            moment = dt.datetime(*[int(part or 0) for part in match.groups()], tzinfo=dt.UTC)  # type: ignore[misc, arg-type]
        except ValueError:  # some cameras write 0000:00:00
            continue
        return SceneDate(moment, _iso_text(moment, whole_day=match[4] is None), f"tag {key[1]}")
    return None


def _iso_text(moment: dt.datetime, *, whole_day: bool) -> str:
    return moment.date().isoformat() if whole_day else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
