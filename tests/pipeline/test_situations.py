"""Of any pair: what changed is found at its place on earth and nothing else, or one line says why not.

What a situation consists of is drawn by :mod:`situations`; :mod:`situation_check` says what is wrong with its outcome,
and replays it: ``python tests/pipeline/try_situations.py SEED NUMBER``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from situation_check import check, checked
from situations import LAYOUTS, NODATA, PLACES, REFUSALS, WRAPPERS, Situation, draw
from threadpoolctl import threadpool_limits

from geosiam.imagery import masks, prepare, reader
from geosiam.polygons import areas

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 22
DEFAULT, SLOW, AT_ONCE = 100, 2000, 25
OPEN = {2066: "where a coarse scene in JPEG ends, two cells beside nodata look changed to the small network"}


@pytest.fixture(autouse=True)
def one_thread_of_blas() -> Iterator[None]:
    """Let NumPy compute with one thread, as the program does: blocks have threads of their own."""
    with threadpool_limits(1, user_api="blas"):
        yield


def numbers() -> list[object]:
    """Return the first situation of each test; all but those of the first 100 are slow."""
    marks = {first: () if first < DEFAULT else pytest.mark.slow for first in range(0, DEFAULT + SLOW, AT_ONCE)}
    return [pytest.param(first, marks=mark) for first, mark in marks.items()]


@pytest.mark.parametrize("first", numbers())
def test_situations(first: int) -> None:
    settled = [number for number in range(first, first + AT_ONCE) if number not in OPEN]
    wrong = [text for number in settled if (text := checked(SEED, number))]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.xfail(reason=why)) for n, why in OPEN.items()])
def test_situations_that_are_not_settled(number: int) -> None:
    assert not checked(SEED, number)


def test_the_default_situations_have_some_of_everything() -> None:
    drawn = [draw(SEED, number) for number in range(DEFAULT)]
    scenes = [scene for each in drawn for scene in (each.before, each.after)]
    assert {each.ground.place for each in drawn} == set(PLACES)
    assert {scene.wrapper for scene in scenes} == set(WRAPPERS)
    assert len({scene.layout for scene in scenes}) >= len(LAYOUTS) - 1
    assert len({scene.nodata for scene in scenes}) >= len({kind for kinds in NODATA.values() for kind in kinds}) - 1
    assert len({each.refusal for each in drawn} - {None}) >= len(REFUSALS) // 2
    assert sum(len(each.things) for each in drawn) > DEFAULT
    assert sum(any(each.shift) or each.bend != 0 for each in drawn) > DEFAULT / 20
    assert draw(SEED, 7) == draw(SEED, 7)


def with_faults(situation: Situation, folder: Path) -> str:
    return "; ".join(check(situation, folder))


def usual(**scene: object) -> Situation:
    """Return the first plain situation with a footprint, whose after scene is as given."""
    for number in range(1000):
        situation = draw(SEED, number)
        if situation.after.footprint is None or situation.refusal or len(situation.things) < 2 or situation.farthest:
            continue
        if situation.ground.place == "Alps" and situation.relation == "system":
            plain = {"dtype": "uint8", "order": "rgb", "nodata": "none", "layout": "strips", "wrapper": "plain"}
            before = replace(situation.before, **plain, footprint=None)
            outlined = {} if scene.get("nodata", "none") != "none" else {"footprint": None}
            after = replace(situation.after, **(plain | scene | outlined))
            names = {"folder": "plain", "name": "plain", "suffix": ".gpkg", "options": ()}
            return replace(situation, before=before, after=after, **names)
    raise AssertionError("no such situation")


def test_the_check_notices_a_collar_that_is_taken_for_ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_faults(usual(nodata="collar"), tmp_path / "right") == ""
    monkeypatch.setattr(masks, "_collar", lambda _: (None, 0.0, False))
    wrong = with_faults(usual(nodata="collar"), tmp_path / "wrong")
    assert "no word about collar" in wrong
    assert "cells without data have a score" in wrong


def test_the_check_notices_a_scene_that_is_warped_to_a_wrong_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reader.WarpedVRT

    def warped(*args: object, transform: object, **options: object) -> object:
        return right(*args, transform=transform @ type(transform).translation(12, 0), **options)

    monkeypatch.setattr(reader, "WarpedVRT", warped)
    situation = usual()
    assert "px off" in with_faults(replace(situation, options=("--register", "none")), tmp_path)


def test_the_check_notices_wrong_areas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas.CellAreas, "of", lambda _, batch: np.full(len(batch.cells), 7.0))
    assert "area_m2 is " in with_faults(usual(), tmp_path)


def test_the_check_notices_an_input_that_is_changed_and_a_file_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = prepare.open_scene

    def opened(scene: str) -> object:
        Path(scene).with_name("left.txt").write_text("x")
        return right(scene)

    monkeypatch.setattr(prepare, "open_scene", opened)
    assert "'after/left.txt' was changed, made or deleted" in with_faults(usual(), tmp_path)
