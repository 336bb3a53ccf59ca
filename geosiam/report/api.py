"""Write the page of a report: rank the anomalies, draw their pictures, and write one file, in bounded memory."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from geosiam.errors import GeosiamError, OptionError, OutputError
from geosiam.files import atomic_write, check_writable, exists, locked, remove_partials
from geosiam.polygons.results import read_result
from geosiam.report.content import Card, Content, rank
from geosiam.report.inputs import check_unique_names
from geosiam.report.page import Budget, Page, PageWriter, page_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from geosiam.polygons.results import ResultSummary
    from geosiam.report.inputs import ReportPair, UnmatchedScene

PAGE = "index.html"
"""File name of the page."""

_MINIMUM = {"cards": 0, "mapped": 0, "chip_px": 64, "max_mb": 4.0}


@dataclass(frozen=True)
class ReportOptions:
    """Content of the page, and limits of its size.

    Parameters
    ----------
    title
        Heading of the page; None: the name of its folder.
    cards
        Number of anomalies that are shown in pictures and can be judged: the strongest of each pair, then of all.
    mapped
        Number of anomalies that are drawn on the map, chosen in the same way; those with cards always are.
    chip_px
        Largest side of a card's pictures in pixels.
    max_mb
        Maximum size of the page in megabytes; pictures are compressed to stay below it.

    Raises
    ------
    OptionError
        A number is too small.
    """

    title: str | None = None
    cards: int = 200
    mapped: int = 10_000
    chip_px: int = 384
    max_mb: float = 20.0

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            if not value >= minimum:  # NaN is not either
                raise OptionError(f"`{name}={value:g}`", "is too small", f"give {minimum:g} or more")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ReportResult:
    """The page that `write_report` wrote.

    Parameters
    ----------
    path
        The page.
    pairs, failed
        Number of pairs, and of those without a result.
    anomalies, mapped, cards, pictures
        Number of anomalies: total, on the map, with a card, and with pictures on the card.
    size
        Size of the page in bytes.
    """

    path: Path
    pairs: int
    failed: int
    anomalies: int
    mapped: int
    cards: int
    pictures: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"path": str(self.path)}


def write_report(
    pairs: Sequence[ReportPair],
    folder: str | Path,
    *,
    options: ReportOptions = ReportOptions(),
    unmatched: Sequence[UnmatchedScene] = (),
    digest: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> ReportResult:
    """Write ``index.html`` into a folder: one file that needs no other, and no network.

    Parameters
    ----------
    pairs
        The pairs to show. A pair whose GeoPackage cannot be read is listed as failed; a pair whose scenes cannot be
        read keeps its cards, with a note instead of pictures.
    folder
        Folder of the page; created if it does not exist. An existing page is replaced when the new one is complete.
    options
        What the page shows, and how large it may get.
    unmatched
        Scenes to list as compared with nothing.
    digest
        Text that identifies the content of the page; :func:`~geosiam.report.page.page_digest` reads it again.
    on_progress
        Called with (cards written, total number of cards).

    Raises
    ------
    OptionError
        Two pairs share a name.
    OutputError
        The folder cannot be written to.
    """
    check_unique_names(pairs)
    target = Path(folder) / PAGE
    _check_target(target)
    results = _read_results(pairs)
    files = [(i, pair.anomalies) for i, (pair, _) in enumerate(results) if pair.anomalies is not None]
    ranking = rank(files, max(options.mapped, options.cards), options.cards)
    title = options.title or Path(folder).absolute().name
    budget = Budget.of(options.max_mb * 1e6, len(pairs), ranking.cards)
    content = Content(title, ranking, [Card()] * ranking.cards, corners=budget.corners, unmatched=unmatched)
    with _new_page(target) as file:
        page = Page(file)
        page.begin(title, digest)
        PageWriter(page, content, budget, chip_px=options.chip_px, on_progress=on_progress).write(results)
        page.end(content.to_dict())
    successes = [result for _, result in results if result is not None]
    return ReportResult(
        path=target,
        pairs=len(results),
        failed=len(results) - len(successes),
        anomalies=sum(result.count for result in successes),
        mapped=len(ranking),
        cards=ranking.cards,
        pictures=sum(card.before is not None for card in content.cards),
        size=page.written,
    )


def _check_target(target: Path) -> None:
    """Refuse to replace a file of another kind, such as the first page of a web site."""
    if exists(target) and target.stat().st_size and page_digest(target) is None:
        raise OutputError(target, "is not a page of geosiam and would be overwritten", "choose another folder")


def _read_results(pairs: Sequence[ReportPair]) -> list[tuple[ReportPair, ResultSummary | None]]:
    """Return each pair with the summary of its GeoPackage; a pair whose GeoPackage cannot be read has failed."""
    results: list[tuple[ReportPair, ResultSummary | None]] = []
    for pair in pairs:
        if pair.anomalies is None:
            results.append((pair, None))
            continue
        try:
            results.append((pair, read_result(pair.anomalies)))
        except GeosiamError as error:
            results.append((replace(pair, anomalies=None, status="unreadable", error=str(error)), None))
    return results


@contextlib.contextmanager
def _new_page(target: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces the page when it is complete; nobody else writes the page meanwhile."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_writable(target)
        with _locked(target), atomic_write(target) as partial, partial.open("wb") as file:
            yield file
    except GeosiamError:
        raise
    except OSError as error:
        raise OutputError(target, f"cannot be written ({error})", "choose another folder") from error


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Lock a target against other runs, and remove partial files of runs that were killed."""
    remedy = "wait for it or choose another folder"
    with locked(target.with_name(f".{target.name}.lock"), target, remedy=remedy):
        remove_partials(target)
        yield
