"""Pair scenes by name, footprint and date; ambiguous scenes are reported, not guessed."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from geosiam.batch.inventory import overlap_fraction
from geosiam.batch.plan import BatchPair, BatchPlan, checked_plan
from geosiam.report.inputs import UnmatchedScene

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from geosiam.batch.inventory import SceneEntry

SAME_PLACE_OVERLAP = 0.5
"""Minimum overlap, as a fraction of the smaller footprint, of scenes with different names that show the same place."""


def pair_folders(befores: Sequence[SceneEntry], afters: Sequence[SceneEntry]) -> BatchPlan:
    """Pair each after scene with the before scene of its place.

    The place of a scene is the one in its name. If no before scene has the same, the place is that of the footprints
    that overlap by at least :data:`SAME_PLACE_OVERLAP`. Of several before scenes, the latest that is older than the
    after scene is used, and the plan notes it; if a date is missing, the after scene stays unmatched.
    """
    scene_pairs: list[tuple[SceneEntry, SceneEntry]] = []
    unmatched: list[UnmatchedScene] = []
    notes: list[str] = []
    used_befores: set[str] = set()  # or named in a reason
    for after in afters:
        candidates = _same_place(after, befores)
        before, remark = _choose_before(after, candidates)
        if before is None:
            unmatched.append(UnmatchedScene(after.scene, remark))
            used_befores |= {scene.scene for scene in candidates}
            continue
        if remark:
            notes.append(remark)
        used_befores.add(before.scene)
        scene_pairs.append((before, after))
    unmatched += [_without_after(scene, afters) for scene in befores if scene.scene not in used_befores]
    return checked_plan(name_pairs(scene_pairs), unmatched=unmatched, notes=notes)


def pair_with_template(template: SceneEntry, afters: Sequence[SceneEntry]) -> BatchPlan:
    """Pair one before scene with every other scene, whatever its name, unless their footprints do not overlap."""
    scene_pairs, unmatched = [], []
    for after in afters:
        if after.scene == template.scene:
            continue
        is_known = after.footprint is not None and template.footprint is not None
        if is_known and overlap_fraction(template, after) == 0:
            unmatched.append(UnmatchedScene(after.scene, f"does not overlap {template.scene}"))
        else:
            scene_pairs.append((template, after))
    return checked_plan(name_pairs(scene_pairs), unmatched=unmatched)


def pair_series(scenes: Sequence[SceneEntry]) -> BatchPlan:
    """Pair each scene with the next one in time of the same place."""
    scene_pairs: list[tuple[SceneEntry, SceneEntry]] = []
    unmatched: list[UnmatchedScene] = []
    for group in _group_by_place(scenes):
        undated = [scene for scene in group if scene.date is None]
        unmatched += [UnmatchedScene(scene.scene, scene.problem or "its date is unknown") for scene in undated]
        dates = Counter(scene.date for scene in group)
        dated = sorted((scene for scene in group if scene.date is not None), key=_start)
        duplicates = [scene for scene in dated if dates[scene.date] > 1]
        unmatched += [UnmatchedScene(scene.scene, _same_date_reason(scene, duplicates)) for scene in duplicates]
        series = [scene for scene in dated if dates[scene.date] == 1]
        scene_pairs += pairwise(series)
        if len(series) == 1 and not duplicates:
            unmatched.append(UnmatchedScene(series[0].scene, "is the only dated scene of its place"))
    return checked_plan(name_pairs(scene_pairs), unmatched=unmatched)


def name_pairs(scene_pairs: Iterable[tuple[SceneEntry, SceneEntry]]) -> list[BatchPair]:
    """Name pairs by place and later date, if that is ambiguous by both dates, and else by both files.

    A name is never shortened because it is unique at the moment, so a pair keeps its name, and its results, when more
    scenes arrive. Pairs that even their files do not tell apart share a name, and are refused later.
    """
    listed = list(scene_pairs)
    sites = [after.place or before.place for before, after in listed]
    names = [""] * len(listed)
    for form in (_name_by_date, _name_by_dates, _name_by_files):
        candidates = [name or form(site, *scenes) for name, site, scenes in zip(names, sites, listed, strict=True)]
        count = Counter(candidate.casefold() for candidate in candidates)
        names = [name if name and count[name.casefold()] == 1 else "" for name in candidates]
    return [
        BatchPair(
            name or _name_by_files(site, before, after),
            before.scene,
            after.scene,
            site=site,
            before_date=before.date.text if before.date else "",
            date=after.date.text if after.date else "",
            shape=before.shape,
        )
        for name, site, (before, after) in zip(names, sites, listed, strict=True)
    ]


def _same_place(after: SceneEntry, befores: Sequence[SceneEntry]) -> list[SceneEntry]:
    if after.problem and not after.place:
        return []
    same_name = [scene for scene in befores if scene.place.casefold() == after.place.casefold()]
    if same_name and (after.place or all(overlap_fraction(scene, after) > 0 for scene in same_name)):
        return same_name
    return [scene for scene in befores if overlap_fraction(scene, after) >= SAME_PLACE_OVERLAP]


def _choose_before(after: SceneEntry, candidates: list[SceneEntry]) -> tuple[SceneEntry | None, str]:
    """Return the before scene and a remark; if there is no before scene, the remark is the reason."""
    if not candidates:
        return None, after.problem or "no before scene has its name or covers the same ground"
    if len(candidates) == 1:
        return candidates[0], _date_remark(candidates[0], after)
    names = ", ".join(Path(scene.scene).name for scene in candidates)
    if after.date is None or any(scene.date is None for scene in candidates):
        return None, f"is ambiguous: {names} show the same place, and a date that could decide is missing"
    earlier = sorted((scene for scene in candidates if scene.date < after.date), key=_start)  # type: ignore[operator]
    if not earlier:
        return None, f"is not later than any before scene of its place: {names}"
    if len(earlier) > 1 and earlier[-1].date == earlier[-2].date:
        names = f"{Path(earlier[-1].scene).name} and {Path(earlier[-2].scene).name}"
        return None, f"is ambiguous: {names} have the same date"
    latest = earlier[-1]
    return latest, f"{after.scene}: {Path(latest.scene).name} is used, the latest of the earlier ones among {names}"


def _date_remark(before: SceneEntry, after: SceneEntry) -> str:
    """Return a remark if the dates contradict the order of the scenes."""
    if before.date is None or after.date is None or before.date < after.date:
        return ""
    if before.date == after.date:
        return f"{after.scene}: both scenes are dated {after.date.text} ({after.date.source})"
    dates = f"{before.date.text} ({before.date.source}) and {after.date.text} ({after.date.source})"
    return f"{after.scene}: by their dates, {dates}, the before scene is the later one"


def _without_after(scene: SceneEntry, afters: Sequence[SceneEntry]) -> UnmatchedScene:
    same_place = [after for after in afters if overlap_fraction(scene, after) >= SAME_PLACE_OVERLAP]
    if same_place:
        names = ", ".join(Path(after.scene).name for after in same_place)
        return UnmatchedScene(scene.scene, f"another before scene is compared with {names}")
    return UnmatchedScene(scene.scene, scene.problem or "no after scene has its name or covers the same ground")


def _group_by_place(scenes: Sequence[SceneEntry]) -> list[list[SceneEntry]]:
    """Group scenes by the place in their names; scenes without one join the group whose footprints they overlap."""
    by_name: dict[str, list[SceneEntry]] = defaultdict(list)
    for scene in scenes:
        by_name[scene.place.casefold()].append(scene)
    nameless = by_name.pop("", [])
    groups = list(by_name.values())
    for scene in nameless:
        near = [
            group for group in groups if any(overlap_fraction(scene, member) >= SAME_PLACE_OVERLAP for member in group)
        ]
        if len(near) == 1:
            near[0].append(scene)
        else:
            groups.append([scene])
    return groups


def _same_date_reason(scene: SceneEntry, duplicates: list[SceneEntry]) -> str:
    assert scene.date is not None
    names = [Path(o.scene).name for o in duplicates if o.date == scene.date and o.scene != scene.scene]
    return f"is ambiguous: {', '.join(names)} shows the same place at the same date, {scene.date.text}"


def _name_by_date(site: str, _before: SceneEntry, after: SceneEntry) -> str:
    return _safe_name("_".join(filter(None, [site, _compact_date(after)]))) if site else ""


def _name_by_dates(site: str, before: SceneEntry, after: SceneEntry) -> str:
    dates = [_compact_date(before), _compact_date(after)]
    return _safe_name("_".join([site, *dates])) if site and all(dates) else ""


def _name_by_files(_site: str, before: SceneEntry, after: SceneEntry) -> str:
    return _safe_name(before.stem if before.stem == after.stem else f"{before.stem}_{after.stem}")


def _start(scene: SceneEntry) -> dt.datetime:
    assert scene.date is not None
    return scene.date.start


def _compact_date(scene: SceneEntry) -> str:
    return "" if scene.date is None else scene.date.text.replace("-", "").replace(":", "")


def _safe_name(text: str) -> str:
    """Return a text as a file name: other characters than letters, digits and a few signs become underscores."""
    return "".join(sign if sign.isalnum() or sign in "._-+" else "_" for sign in text).lstrip(".")
