"""From pairs to the page, in one go and in bounded memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from geosiam.errors import GeosiamError, OptionError, OutputError
from geosiam.files import check_writable, locked
from geosiam.report.content import Card, Content, rank
from geosiam.report.encoding import Budget
from geosiam.report.inputs import check_names, read_result
from geosiam.report.page import Author, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from geosiam.report.inputs import ReportPair, Result, UnmatchedScene

PAGE = "index.html"
_LEAST_MB, _LEAST_PX = 4.0, 64


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows, and how large it may get.

    Parameters
    ----------
    title
        Heading of the page; None: the folder's name.
    cards
        How many anomalies are shown in pictures and can be judged: the strongest of each pair, and then of all.
    mapped
        How many anomalies are drawn on the map, chosen likewise; those with cards always are.
    chip_px
        Largest side of a picture in pixels.
    max_mb
        How large the page may get, in megabytes: pictures give way.
    """

    title: str | None = None
    cards: int = 200
    mapped: int = 10_000
    chip_px: int = 384
    max_mb: float = 20.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("cards", self.cards, 0),
            ("mapped", self.mapped, 0),
            ("chip_px", self.chip_px, _LEAST_PX),
            ("max_mb", self.max_mb, _LEAST_MB),
        ):
            if not value >= least:
                raise OptionError(f"{name} {value:g}", "is too small", f"give {least:g} or more")


@dataclass(frozen=True)
class ReportResult:
    """What `write_report` left behind.

    Parameters
    ----------
    path
        The page.
    pairs, failed
        Number of pairs, and of these without a result.
    anomalies, mapped, cards, pictures
        Number of anomalies in all, on the map, with a card, and with pictures on it.
    size
        Of the page in bytes.
    """

    path: Path
    pairs: int
    failed: int
    anomalies: int
    mapped: int
    cards: int
    pictures: int
    size: int


def write_report(
    pairs: Sequence[ReportPair],
    folder: str | Path,
    *,
    options: ReportOptions = ReportOptions(),
    unpaired: Sequence[UnmatchedScene] = (),
    mark: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> ReportResult:
    """Write ``index.html`` into a folder: one file that needs no other, and no network.

    Parameters
    ----------
    pairs
        What was compared. A pair whose GeoPackage cannot be read is listed as failed; one whose scenes cannot, keeps
        its cards, which say why they have no picture.
    folder
        Where the page goes; made if it is absent. An existing page is replaced when the new one is complete.
    options
        See :class:`ReportOptions`.
    unpaired
        Scenes that are listed as compared with nothing.
    mark
        What the caller wants to know the page by; :func:`~geosiam.report.page.mark_of` finds it in the file.
    on_progress
        Called with (cards written, cards in all).

    Raises
    ------
    OptionError
        Two pairs share a name.
    OutputError
        The folder cannot be written to.
    """
    check_names(pairs)
    target = Path(folder) / PAGE
    results = _results(pairs)
    known = [result for _, result in results if result is not None]
    files = [(i, pair.anomalies) for i, (pair, _) in enumerate(results) if pair.anomalies is not None]
    ranking = rank(files, max(options.mapped, options.cards), options.cards)
    title = options.title or Path(folder).absolute().name
    budget = Budget.of(options.max_mb * 1e6, len(pairs), ranking.cards)
    content = Content(title, ranking, [Card()] * ranking.cards, corners=budget.corners, unpaired=unpaired)
    with _replacing(target) as file:
        page = Page(file)
        page.begin(title, mark)
        author = Author(page, content, budget, chip_px=options.chip_px, on_progress=on_progress)
        author.add(results)
        page.end(content.to_dict())
    return ReportResult(
        path=target,
        pairs=len(results),
        failed=len(results) - len(known),
        anomalies=sum(result.count for result in known),
        mapped=len(ranking),
        cards=ranking.cards,
        pictures=sum(card.before is not None for card in content.cards),
        size=page.written,
    )


def _results(pairs: Sequence[ReportPair]) -> list[tuple[ReportPair, Result | None]]:
    """Read what the GeoPackages say; a pair whose GeoPackage cannot be read has failed."""
    read: list[tuple[ReportPair, Result | None]] = []
    for pair in pairs:
        if pair.anomalies is None:
            read.append((pair, None))
            continue
        try:
            read.append((pair, read_result(pair.anomalies)))
        except GeosiamError as error:
            read.append((replace(pair, anomalies=None, status="unreadable", error=str(error)), None))
    return read


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the target's place when it is complete, and leaves nothing otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_writable(target)
        lock, remedy = target.with_name(f".{target.name}.lock"), "wait for it or choose another folder"
        with locked(lock, target, remedy=remedy), _partial(target) as file:
            yield file
    except GeosiamError:
        raise
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "choose another folder") from error


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[BinaryIO]:
    partial = target.with_name(f".{target.name}.partial")  # one name: what a killed process left is overwritten
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
