"""Which scenes belong together: by name, by where they lie, and by when they were taken; never by a silent guess."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.batch.inventory import overlap
from geosiam.batch.plan import BatchPair, BatchPlan, checked_plan
from geosiam.report.inputs import UnmatchedScene

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from geosiam.batch.inventory import SceneEntry

SAME_PLACE = 0.5
"""Share of the smaller of two footprints from which on scenes with different names show the same place."""


def pair_folders(befores: Sequence[SceneEntry], afters: Sequence[SceneEntry]) -> BatchPlan:
    """Pair each after-scene with the before-scene of its place.

    A scene's place is what its name says; where no before-scene says the same, it is where the footprints overlap by
    at least :data:`SAME_PLACE`. Of several before-scenes the latest that is older than the after-scene counts, if all
    are dated, and the plan notes it; otherwise the scene stays unpaired.
    """
    taken: set[str] = set()
    found: list[tuple[SceneEntry, SceneEntry]] = []
    unpaired: list[UnmatchedScene] = []
    notes: list[str] = []
    for after in afters:
        candidates = _of_same_place(after, befores)
        chosen, remark = _latest_before(after, candidates)
        if chosen is None:
            unpaired.append(UnmatchedScene(after.scene, remark))
            taken |= {scene.scene for scene in candidates}  # these are spoken of already
            continue
        notes += [remark] if remark else []
        taken.add(chosen.scene)
        found.append((chosen, after))
    unpaired += [_without_after(scene, afters) for scene in befores if scene.scene not in taken]
    return checked_plan(named(found), unpaired=unpaired, notes=notes)


def pair_with_template(template: SceneEntry, afters: Sequence[SceneEntry]) -> BatchPlan:
    """Pair one before-scene with every other scene, whatever their names; scenes that surely lie elsewhere are left."""
    found, unpaired = [], []
    for after in afters:
        if after.scene == template.scene:
            continue
        if after.footprint is not None and template.footprint is not None and overlap(template, after) == 0:
            unpaired.append(UnmatchedScene(after.scene, f"does not overlap {template.scene}"))
        else:
            found.append((template, after))
    return checked_plan(named(found), unpaired=unpaired)


def pair_series(scenes: Sequence[SceneEntry]) -> BatchPlan:
    """Pair each scene with the next one in time of the same place."""
    found: list[tuple[SceneEntry, SceneEntry]] = []
    unpaired: list[UnmatchedScene] = []
    for group in _places(scenes):
        undated = [scene for scene in group if scene.date is None]
        unpaired += [
            UnmatchedScene(scene.scene, scene.problem or "nothing says when it was taken") for scene in undated
        ]
        times = Counter(scene.date for scene in group)
        series = sorted((scene for scene in group if scene.date is not None), key=_start)
        doubled = [scene for scene in series if times[scene.date] > 1]
        unpaired += [UnmatchedScene(scene.scene, _same_date(scene, doubled)) for scene in doubled]
        series = [scene for scene in series if times[scene.date] == 1]
        found += pairwise(series)
        if len(series) == 1 and not doubled:
            unpaired.append(UnmatchedScene(series[0].scene, "is the only dated scene of its place"))
    return checked_plan(named(found), unpaired=unpaired)


def named(found: Iterable[tuple[SceneEntry, SceneEntry]]) -> list[BatchPair]:
    """Name pairs by their place and later date, or by both dates, or else by both files.

    What is told apart by less has no shorter name: so a pair keeps its name, and its results, when more scenes arrive.
    """
    couples = list(found)
    sites = [_site(before, after) for before, after in couples]
    names = ["" for _ in couples]
    for form in (_by_date, _by_dates, _by_files):
        ways = [name or form(site, *couple) for name, site, couple in zip(names, sites, couples, strict=True)]
        count = Counter(way.casefold() for way in ways)
        names = [way if way and count[way.casefold()] == 1 else "" for way in ways]
    last = [
        name or _by_files(site, *couple) for name, site, couple in zip(names, sites, couples, strict=True)
    ]  # what cannot be told apart is refused later, by that name
    return [
        BatchPair(
            name,
            before.scene,
            after.scene,
            site=site,
            before_date=before.date.text if before.date else "",
            date=after.date.text if after.date else "",
            shape=before.shape,
        )
        for name, site, (before, after) in zip(last, sites, couples, strict=True)
    ]


def _of_same_place(after: SceneEntry, befores: Sequence[SceneEntry]) -> list[SceneEntry]:
    if after.problem and not after.place:
        return []
    same_name = [scene for scene in befores if scene.place.casefold() == after.place.casefold()]
    if same_name and (after.place or all(overlap(scene, after) > 0 for scene in same_name)):
        return same_name
    return [scene for scene in befores if overlap(scene, after) >= SAME_PLACE]


def _latest_before(after: SceneEntry, candidates: list[SceneEntry]) -> tuple[SceneEntry | None, str]:
    """Return the before-scene to take, and a remark; without a scene, the remark says why."""
    if not candidates:
        return None, after.problem or "no before-scene has its name or lies where it lies"
    if len(candidates) == 1:
        return _unless_later(after, candidates[0])
    listed = ", ".join(Path(scene.scene).name for scene in candidates)
    if after.date is None or any(scene.date is None for scene in candidates):
        return None, f"is ambiguous: {listed} show its place, and dates that could decide are missing"
    earlier = sorted((scene for scene in candidates if scene.date < after.date), key=_start)  # type: ignore[operator]
    if not earlier:
        return None, f"is not later than any before-scene of its place: {listed}"
    if len(earlier) > 1 and earlier[-1].date == earlier[-2].date:
        return None, f"is ambiguous: {Path(earlier[-1].scene).name} and {Path(earlier[-2].scene).name} have one date"
    return earlier[-1], f"{after.scene}: of {listed} the latest one before it counts, {Path(earlier[-1].scene).name}"


def _unless_later(after: SceneEntry, before: SceneEntry) -> tuple[SceneEntry | None, str]:
    if before.date is None or after.date is None or before.date < after.date:
        return before, ""
    if before.date == after.date:
        return before, f"{after.scene}: both scenes are dated {after.date.text} ({after.date.source})"
    dates = f"{before.date.text} ({before.date.source}) and {after.date.text} ({after.date.source})"
    return before, f"{after.scene}: by their dates, {dates}, the before-scene is the later one"


def _without_after(scene: SceneEntry, afters: Sequence[SceneEntry]) -> UnmatchedScene:
    same = [after for after in afters if overlap(scene, after) >= SAME_PLACE]
    if same:
        return UnmatchedScene(scene.scene, f"another before-scene serves {', '.join(Path(a.scene).name for a in same)}")
    return UnmatchedScene(scene.scene, scene.problem or "no after-scene has its name or lies where it lies")


def _places(scenes: Sequence[SceneEntry]) -> list[list[SceneEntry]]:
    """Group scenes by the place that their names say, and those whose names say nothing by where they lie."""
    groups: dict[str, list[SceneEntry]] = defaultdict(list)
    for scene in scenes:
        groups[scene.place.casefold()].append(scene)
    nameless = groups.pop("", [])
    made = list(groups.values())
    for scene in nameless:
        near = [group for group in made if any(overlap(scene, other) >= SAME_PLACE for other in group)]
        if len(near) == 1:
            near[0].append(scene)
        else:
            made.append([scene])
    return made


def _same_date(scene: SceneEntry, doubled: list[SceneEntry]) -> str:
    others = [Path(o.scene).name for o in doubled if o.date == scene.date and o.scene != scene.scene]
    return f"is ambiguous: {', '.join(others)} shows the same place at the same date, {scene.date.text}"  # type: ignore[union-attr]


def _site(before: SceneEntry, after: SceneEntry) -> str:
    return after.place or before.place


def _by_date(site: str, _before: SceneEntry, after: SceneEntry) -> str:
    return _safe("_".join(filter(None, [site, _compact(after)]))) if site else ""


def _by_dates(site: str, before: SceneEntry, after: SceneEntry) -> str:
    dates = [_compact(before), _compact(after)]
    return _safe("_".join(filter(None, [site, *dates]))) if site and all(dates) else ""


def _by_files(_site: str, before: SceneEntry, after: SceneEntry) -> str:
    return _safe(before.stem if before.stem == after.stem else f"{before.stem}_{after.stem}")


def _start(scene: SceneEntry) -> dt.datetime:
    assert scene.date is not None
    return scene.date.start


def _compact(scene: SceneEntry) -> str:
    return "" if scene.date is None else scene.date.text.replace("-", "").replace(":", "")


def _safe(text: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "._-+" else "_" for sign in text).lstrip(".")
