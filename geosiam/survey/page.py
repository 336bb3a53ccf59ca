"""The page of a survey: made when its results are there, and again when they have changed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from geosiam.report import LonelyScene, ReportOptions, ReportPair, mark_of, write_report
from geosiam.report.api import PAGE
from geosiam.survey.collect import state_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from geosiam.report.pairs import Fact
    from geosiam.survey.pairs import SurveyPlan
    from geosiam.survey.results import PairResult

FOLDER = "report"
"""Name of the page's folder in that of the survey."""

_log = logging.getLogger(__name__)


def renewed_page(plan: SurveyPlan, pairs: Sequence[PairResult], root: Path) -> tuple[Path | None, str | None]:
    """Write the page of a survey, unless it is there already for just these results.

    Whatever goes wrong, the results of the survey stand.

    Returns
    -------
    page
        Where it is; None if it could not be made.
    remark
        Why it could not; None otherwise.
    """
    page = root / FOLDER / PAGE
    mark = state_of(plan, pairs)
    if mark_of(page) == mark:
        return page, None
    unpaired = [LonelyScene(lonely.scene, lonely.reason) for lonely in plan.unpaired]
    options = ReportOptions(title=root.name)
    try:
        made = write_report(report_pairs(pairs), page.parent, options=options, unpaired=unpaired, mark=mark)
    except Exception as error:  # noqa: BLE001 - the night's work must not end with a page that cannot be drawn
        _log.debug("the page could not be made", exc_info=True)
        return None, f"there is no new page of the survey: {error}"
    return made.path, None


def report_pairs(pairs: Sequence[PairResult]) -> list[ReportPair]:
    """Return the pairs as the page takes them, under names of which no two are the same."""
    taken = {pair.name for pair in pairs if pair.done}
    shown = []
    for pair in pairs:
        name = pair.name if pair.done else _free_name(pair.name, taken)
        taken.add(name)
        error = None if pair.done else pair.error
        shown.append(
            ReportPair(name, pair.before, pair.after, pair.scores, pair.anomalies, pair.status, _facts(pair), error)
        )
    return shown


def _free_name(name: str, taken: set[str]) -> str:
    """Return the name, numbered if it is taken: pairs may have failed because they share one."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def _facts(pair: PairResult) -> dict[str, Fact]:
    told: dict[str, Fact] = {"Site": pair.site, "Date before": pair.before_date, "Date after": pair.date}
    if pair.done:
        overlap = pair.facts["overlap_fraction"]
        told |= {
            "Size": f"{pair.facts['pixels'] / 1e6:.3g} Mpx",
            "Overlap": None if overlap is None else f"{overlap:.0%}",
            "Took": f"{pair.facts['seconds']:.3g} s",
        }
    return {label: value for label, value in told.items() if value not in ("", None)}
