"""What names and tags say of when and where a scene was taken."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosiam.batch.dates import SceneDate, date_in, date_of, iso_date, place_in


@pytest.mark.parametrize(
    ("name", "date", "place"),
    [
        ("m_4709963_se_14_1_20170827", "2017-08-27", "m_4709963_se_14_1"),
        ("1985", "1985", ""),
        ("harbour_2020-05-01_before", "2020-05-01", "harbour"),
        ("2020.05.01 North Field post", "2020-05-01", "North_Field"),
        ("S2A_20200105T101112_tile", "2020-01-05T10:11:12Z", "S2A_tile"),
        ("site7_2019", "2019", "site7"),
        ("site_2020-05", "2020-05", "site"),
        ("site_20200231", None, "site"),  # no such day
        ("block_1234567", None, "block_1234567"),
        ("A", None, "A"),
    ],
)
def test_names_say_when_and_where(name: str, date: str | None, place: str) -> None:
    found = date_in(name)
    assert (found.text if found else None) == date
    assert place_in(name) == place


def test_of_several_dates_the_first_counts_and_is_reported() -> None:
    date = date_in("naip_20170827_20180105")
    assert date is not None
    assert date.text == "2017-08-27"
    assert date.source == "name, first of 2 dates"


@given(st.dates(dt.date(1900, 1, 1), dt.date(2099, 12, 31)), st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%Y_%m_%d"]))
def test_every_day_is_found_in_every_form(day: dt.date, form: str) -> None:
    found = date_in(f"field_{day.strftime(form)}_ortho")
    assert found is not None
    assert found.start.date() == day
    assert place_in(f"field_{day.strftime(form)}_ortho") == "field_ortho"


@given(st.text(max_size=40))
def test_any_name_is_fine(name: str) -> None:
    place_in(name)
    date_in(name)


def test_what_the_camera_says_counts_before_the_name_and_the_file_after_it() -> None:
    exif = {("EXIF", "EXIF_DateTimeOriginal"): "2021:03:04 10:20:30"}
    written = {("", "TIFFTAG_DATETIME"): "2022:01:01 00:00:00"}
    assert date_of("site_20200501", exif | written).text == "2021-03-04T10:20:30Z"
    assert date_of("site_20200501", written).text == "2020-05-01"
    assert date_of("site", written) == SceneDate(dt.datetime(2022, 1, 1, tzinfo=dt.UTC), "", "")
    assert date_of("site", {("EXIF", "EXIF_DateTimeOriginal"): "0000:00:00 00:00:00"}) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2020", "2020"),
        ("2020-05", "2020-05"),
        ("2020-05-01", "2020-05-01"),
        ("2020-05-01T12:00:00+02:00", "2020-05-01T10:00:00Z"),
    ],
)
def test_dates_are_as_precise_as_they_are_known(text: str, shown: str) -> None:
    assert iso_date(text, "manifest").text == shown
