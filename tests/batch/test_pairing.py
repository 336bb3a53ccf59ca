"""Which scenes belong together, and that nothing ambiguous is guessed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import shapely
from made import CRS, ORIGIN, ground, make_pair, write
from rasterio.warp import transform_bounds

from geosiam.batch.api import plan_batch
from geosiam.batch.dates import date_in, place_in
from geosiam.batch.inventory import SceneEntry, overlap_fraction, scenes_in, stem_of
from geosiam.batch.pairing import name_pairs, pair_folders, pair_series, pair_with_template
from geosiam.errors import OptionError, SceneNotFoundError, SceneRefusedError

SQUARE = shapely.box(10, 50, 11, 51)
BESIDE = shapely.box(20, 50, 21, 51)


def scene(path: str, footprint: shapely.Polygon | None = SQUARE, problem: str | None = None) -> SceneEntry:
    stem = stem_of(path)
    return SceneEntry(path, place_in(stem), date_in(stem), footprint, (10, 10), problem)


def couples(plan) -> list[tuple[str, str]]:
    return [(pair.before, pair.after) for pair in plan.pairs]


def test_scenes_of_the_same_name_belong_together() -> None:
    plan = pair_folders([scene("a/x_2019.tif"), scene("a/y_2019.tif")], [scene("b/y_2020.tif"), scene("b/x_2020.tif")])
    assert couples(plan) == [("a/y_2019.tif", "b/y_2020.tif"), ("a/x_2019.tif", "b/x_2020.tif")]
    assert [pair.name for pair in plan.pairs] == ["y_2020", "x_2020"]
    assert (plan.unmatched, plan.faults, plan.notes) == ((), (), ())


def test_other_names_are_paired_by_where_they_lie() -> None:
    plan = pair_folders(
        [scene("a/DJI_1.tif"), scene("a/DJI_2.tif", BESIDE)], [scene("b/P4_7.tif", shapely.box(20.1, 50, 21.1, 51))]
    )
    assert couples(plan) == [("a/DJI_2.tif", "b/P4_7.tif")]
    assert plan.pairs[0].name == "P4_7"
    assert [scene.scene for scene in plan.unmatched] == ["a/DJI_1.tif"]


def test_of_several_dates_the_latest_before_counts_and_is_noted() -> None:
    befores = [scene(f"a/x_{year}.tif") for year in (2015, 2018, 2019, 2021)]
    plan = pair_folders(befores, [scene("b/x_2020.tif")])
    assert couples(plan) == [("a/x_2019.tif", "b/x_2020.tif")]
    assert "x_2019.tif" in plan.notes[0]
    assert {Path(scene.scene).name for scene in plan.unmatched} == {"x_2015.tif", "x_2018.tif", "x_2021.tif"}


def test_ambiguous_scenes_are_left_out_and_reported() -> None:
    plan = pair_folders([scene("a/one.tif"), scene("a/two.tif")], [scene("b/three.tif")])
    assert plan.pairs == ()
    assert plan.unmatched[0].scene == "b/three.tif"
    assert "is ambiguous: one.tif, two.tif" in plan.unmatched[0].reason
    plan = pair_folders([scene("a/x_2019.tif"), scene("a/old_x_2019.tif")], [scene("b/x_2020.tif")])
    assert "have the same date" in plan.unmatched[0].reason


def test_a_scene_that_cannot_be_opened_is_still_paired_by_name() -> None:
    plan = pair_folders([scene("a/x.tif")], [scene("b/x.tif", None, "cannot be opened"), scene("b/z.tif", None, "no")])
    assert couples(plan) == [("a/x.tif", "b/x.tif")]
    assert [(scene.scene, scene.reason) for scene in plan.unmatched] == [("b/z.tif", "no")]


def test_dates_in_the_wrong_order_are_noted() -> None:
    plan = pair_folders([scene("a/x_2021.tif")], [scene("b/x_2020.tif")])
    assert couples(plan) == [("a/x_2021.tif", "b/x_2020.tif")]
    assert "the before scene is the later one" in plan.notes[0]


def test_a_series_goes_from_date_to_date() -> None:
    plan = pair_series(
        [scene(f"s/{name}.tif") for name in ("x_2020", "x_2018", "y_2018", "x_2019", "y_2021", "z_2020")]
    )
    assert [pair.name for pair in plan.pairs] == ["x_2019", "x_2020", "y_2021"]
    assert [pair.before_date for pair in plan.pairs] == ["2018", "2019", "2018"]
    assert [(scene.scene, scene.reason) for scene in plan.unmatched] == [
        ("s/z_2020.tif", "is the only dated scene of its place")
    ]


def test_a_series_without_dates_or_with_one_date_twice_is_not_guessed() -> None:
    plan = pair_series([scene("s/x_2018.tif"), scene("s/old_x_2018.tif"), scene("s/x_2019.tif"), scene("s/x.tif")])
    assert plan.pairs == ()
    reasons = {Path(scene.scene).name: scene.reason for scene in plan.unmatched}
    assert reasons["x.tif"] == "its date is unknown"
    assert reasons["x_2018.tif"] == "is ambiguous: old_x_2018.tif shows the same place at the same date, 2018"
    assert set(reasons) == {"x.tif", "x_2018.tif", "old_x_2018.tif"}


def test_one_template_for_many_dates() -> None:
    template = scene("t/ground.tif")
    plan = pair_with_template(template, [template, scene("s/2018.tif"), scene("s/2019.tif"), scene("s/x.tif", BESIDE)])
    assert couples(plan) == [("t/ground.tif", "s/2018.tif"), ("t/ground.tif", "s/2019.tif")]
    assert [pair.name for pair in plan.pairs] == ["ground_2018", "ground_2019"]
    assert plan.unmatched[0].reason == "does not overlap t/ground.tif"


def test_a_pair_keeps_its_name_when_others_arrive() -> None:
    early = name_pairs([(scene("a/x_2018.tif"), scene("a/x_2019.tif"))])
    later = name_pairs([(scene("a/x_2018.tif"), scene("a/x_2019.tif")), (scene("a/x_2019.tif"), scene("a/x_2020.tif"))])
    assert early[0].name == later[0].name == "x_2019"


def test_overlap_is_that_of_the_smaller_and_crosses_the_dateline() -> None:
    wide, narrow = scene("a.tif", shapely.box(0, 0, 4, 4)), scene("b.tif", shapely.box(3, 0, 5, 4))
    assert overlap_fraction(wide, narrow) == pytest.approx(0.5)
    east, west = scene("a.tif", shapely.box(179, 0, 181, 1)), scene("b.tif", shapely.box(-181, 0, -179, 1))
    assert overlap_fraction(east, west) == pytest.approx(1)
    assert overlap_fraction(east, scene("c.tif", None)) == 0


# --- with files -----------------------------------------------------------------------------------------------------


def test_folders_of_files_and_of_tiles(tmp_path: Path) -> None:
    make_pair(tmp_path / "a" / "x.tif", tmp_path / "b" / "x.tif", 0, 96)
    image = ground(0, 64, 64)
    for col in range(2):
        for date in ("a", "b"):
            write(tmp_path / date / "y" / f"{col}.tif", image, origin=(ORIGIN[0] + 9000 + 12.8 * col, ORIGIN[1]))
    (tmp_path / "a" / "notes.txt").write_text("no raster")
    (tmp_path / "a" / "empty").mkdir()
    plan = plan_batch(tmp_path / "a", tmp_path / "b")
    assert [(pair.name, pair.shape) for pair in plan.pairs] == [("x", (96, 96)), ("y", (64, 128))]
    assert plan.unmatched == ()


def test_dates_come_from_tags_too(tmp_path: Path) -> None:
    image = ground(0, 64, 64)
    write(tmp_path / "s" / "first.tif", image, tags={"TIFFTAG_DATETIME": "2020:05:01 12:00:00"})
    write(tmp_path / "s" / "second.tif", image, tags={"TIFFTAG_DATETIME": "2019:05:01 12:00:00"})
    with pytest.raises(SceneRefusedError, match="is the only dated scene of its place"):
        plan_batch(tmp_path / "s")  # their names say two places
    plan = plan_batch(tmp_path / "s", pattern="(?P<place>)(first|second)")
    assert couples(plan) == [(str(tmp_path / "s" / "second.tif"), str(tmp_path / "s" / "first.tif"))]
    assert plan.pairs[0].date == "2020-05-01T12:00:00Z"


def test_a_pattern_says_place_and_date(tmp_path: Path) -> None:
    image = ground(0, 64, 64)
    for name in ("flight-07.north.20190501", "flight-09.north.20200501", "readme"):
        write(tmp_path / "s" / f"{name}.tif", image)
    plan = plan_batch(tmp_path / "s", pattern=r"flight-\d+\.(?P<place>\w+)\.(?P<date>\d+)")
    assert [(pair.name, pair.before_date) for pair in plan.pairs] == [("north_20200501", "2019-05-01")]
    assert [scene.reason for scene in plan.unmatched] == ["its name does not match the pattern"]
    with pytest.raises(OptionError, match="is not a regular expression"):
        plan_batch(tmp_path / "s", pattern="(")
    with pytest.raises(OptionError, match="has no group"):
        plan_batch(tmp_path / "s", pattern="(.*)")


def test_footprints_of_real_grids(tmp_path: Path) -> None:
    write(tmp_path / "s" / "x.tif", np.zeros((3, 100, 50), np.uint8))
    (found,) = scenes_in(tmp_path / "s")
    box = transform_bounds(CRS, "EPSG:4326", ORIGIN[0], ORIGIN[1] - 20, ORIGIN[0] + 10, ORIGIN[1])
    assert found.footprint.bounds == pytest.approx(box, abs=1e-6)
    assert found.footprint.exterior.is_ccw
    os.truncate(tmp_path / "s" / "x.tif", 100)
    write(tmp_path / "mars" / "x_2020.tif", np.zeros((3, 100, 50), np.uint8), crs="+proj=eqc +a=3396190 +b=3376200")
    (elsewhere,) = scenes_in(tmp_path / "mars")
    assert (elsewhere.footprint, elsewhere.problem, elsewhere.shape) == (None, None, (100, 50))
    assert elsewhere.date.text == "2020"
    (broken,) = scenes_in(tmp_path / "s")
    assert broken.footprint is None
    assert "cannot be opened" in broken.problem


def test_nothing_to_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneNotFoundError, match="does not exist"):
        plan_batch(tmp_path / "no.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneNotFoundError, match="holds no rasters"):
        plan_batch(tmp_path / "empty")
    write(tmp_path / "one" / "x.tif", ground(0, 32, 32))
    with pytest.raises(SceneRefusedError, match="has no two scenes that can be paired"):
        plan_batch(tmp_path / "one")
    with pytest.raises(OptionError, match="leave out"):
        plan_batch(tmp_path / "one", tmp_path / "one", before=tmp_path / "one" / "x.tif")
    with pytest.raises(SceneNotFoundError, match="is not a folder"):
        plan_batch(tmp_path / "one", tmp_path / "none")


@pytest.mark.data
def test_real_series(data_dir: Path) -> None:
    plan = plan_batch(data_dir / "scenes" / "landsat")
    assert [pair.name for pair in plan.pairs] == ["1985_2000", "2000_2015"]
    plan = plan_batch(data_dir / "scenes" / "naip")
    assert [(pair.before_date, pair.date) for pair in plan.pairs] == [
        ("2009-08-18", "2012-07-31"),
        ("2012-07-31", "2014-07-20"),
        ("2014-07-20", "2017-08-27"),
    ]
    plan = plan_batch(data_dir / "scenes" / "planet_float32" / "A", data_dir / "scenes" / "planet_float32" / "B")
    assert len(plan.pairs) == 5
    assert plan.unmatched == ()
