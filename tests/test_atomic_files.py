"""Results of several files appear together; short blocks that ignore warnings do not disturb one another."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest

from geosiam.files import atomic_write_files, remove_partials
from geosiam.runtime import ignored_warnings


def test_several_files_move_beside_the_target_and_the_target_goes_last(tmp_path: Path, monkeypatch) -> None:
    target = tmp_path / "a.qgz"
    target.write_text("old")
    moved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, other: moved.append(other.name) or replace(self, other))
    with atomic_write_files(target) as partial:
        partial.write_text("new")
        partial.with_name("z.vrt").write_text("beside it")
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["a.qgz"]
    assert moved == ["z.vrt", "a.qgz"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.qgz": "new", "z.vrt": "beside it"}


def test_after_an_error_the_old_file_is_still_there(tmp_path: Path) -> None:
    target = tmp_path / "a.qgz"
    target.write_text("old")

    def fail() -> None:
        with atomic_write_files(target) as partial:
            partial.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.qgz": "old"}


def test_leftovers_of_the_target_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in (".a.0123abcd.partial.gpkg", ".a.b.0123abcd.partial.gpkg", "a.gpkg"):
        (tmp_path / name).touch()
    for name in (".a.gpkg.x1y2z3_4.partial", ".b.gpkg.x1y2z3_4.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    remove_partials(tmp_path / "a.gpkg")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".a.b.0123abcd.partial.gpkg",
        ".b.gpkg.x1y2z3_4.partial",
        "a.gpkg",
    }


def test_threads_that_ignore_warnings_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    failures = []

    def warn() -> None:
        for _ in range(300):
            try:
                with ignored_warnings(UserWarning):
                    warnings.warn("ignored", UserWarning, stacklevel=1)
            except UserWarning as error:
                failures.append(error)

    threads = [threading.Thread(target=warn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warnings.filters == before
