"""The page is one file that nothing in it can break out of, of bounded size, and complete or not there."""

import base64
import hashlib
import json
import re
import shutil
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from report_samples import SIZE, squares, write_scene

from geosiam.errors import OptionError, OutputError
from geosiam.files import locked
from geosiam.polygons.results import read_result
from geosiam.polygons.writer import write_polygons
from geosiam.report import ReportOptions, ReportPair, UnmatchedScene, api, find_pairs, page_digest, write_report
from geosiam.report.page import Page, embedded_json

HOSTILE = "</script><img src=x onerror=alert(1)><!--&amp;\u2028'\""


class Elements(HTMLParser):
    """The text of each element that has an id or is a program or a style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self._open = {}, [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.tags.append((tag, facts))
        self._open = facts.get("id") or ("program" if tag == "script" else tag)
        self.text.setdefault(self._open, "")

    def handle_endtag(self, tag):  # noqa: ARG002
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.text[self._open] += data


def content_of(path):
    return json.loads(Elements(path.read_text(encoding="utf-8")).text["content"])


@given(st.dictionaries(st.text(), st.text() | st.just(HOSTILE) | st.lists(st.text())))
def test_json_comes_out_of_a_page_as_it_went_in(content):
    class File(list):
        write = lambda self, data: self.append(data) or len(data)  # noqa: E731

    file = File()
    page = Page(file)
    page.begin(HOSTILE)
    page.end(content)
    parsed = Elements(b"".join(file).decode())
    assert json.loads(parsed.text["content"]) == content
    assert parsed.text["title"] == HOSTILE
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    assert page.written == sum(map(len, file))


def test_names_from_a_file_system_that_are_no_text_are_survived():
    assert json.loads(embedded_json({"name": b"caf\xe9.tif".decode("utf-8", "surrogateescape")}))


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(village_page):
    parsed = Elements(village_page.read_text(encoding="utf-8"))
    (policy,) = [facts["content"] for _, facts in parsed.tags if facts.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for rule, element in (("script-src", "program"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(parsed.text[element].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert not [facts for _, facts in parsed.tags if (facts.get("src") or facts.get("href") or "data:")[:5] != "data:"]


def test_the_page_says_what_the_geopackage_says(village, village_page):
    content = content_of(village_page)
    result = read_result(village / "anomalies.gpkg")
    (pair,) = content["pairs"]
    assert (pair["name"], pair["run"], pair["count"]) == ("village", result.run, result.count)
    assert content["total"] == len(content["cards"]) == result.count > 5
    assert content["anomalies"]["mean"] == sorted(content["anomalies"]["mean"], reverse=True)
    assert all({"before", "after", "scores", "outline", "meters"} <= set(card) for card in content["cards"])
    assert 13 < content["anomalies"]["at"][0][0] < 14  # east of Berlin


def test_pictures_stand_in_the_page_under_their_names(village_page):
    parsed = Elements(village_page.read_text(encoding="utf-8"))
    content = json.loads(parsed.text["content"])
    named = {card[kind] for card in content["cards"] for kind in ("before", "after", "scores")}
    named.add(content["pairs"][0]["overview"]["picture"])
    assert all(base64.b64decode(parsed.text[name])[:4] in (b"RIFF", b"\x89PNG") for name in named)
    assert named == {facts["id"] for _, facts in parsed.tags if "data-kind" in facts}


def test_a_page_of_nothing_is_a_page(make_pair, tmp_path):
    made = write_report([make_pair("calm", 0, scenes=True)], tmp_path / "page")
    assert (made.pairs, made.failed, made.anomalies, made.cards) == (1, 0, 0, 0)
    assert "overview" in content_of(made.path)["pairs"][0]


def test_what_failed_and_what_is_gone_is_listed(make_pair, tmp_path):
    gone, broken = make_pair("gone"), make_pair("broken")
    broken.anomalies.write_bytes(b"no database, but longer than sixteen bytes")
    failed = ReportPair(
        "failed", "a.tif", "b.tif", None, None, "failed", {"Seconds": 1.5, "Retried": True}, "b.tif: is truncated"
    )
    made = write_report([gone, broken, failed], tmp_path / "page")
    assert (made.pairs, made.failed, made.cards, made.pictures) == (3, 2, 3, 0)
    content = content_of(made.path)
    assert content["cards"][0] == {"note": "before.tif does not exist"}
    pairs = content["pairs"]
    assert "is not a GeoPackage" in pairs[1]["error"]
    assert pairs[2]["error"] == "b.tif: is truncated"
    assert pairs[2]["facts"] == [["Before", "a.tif"], ["After", "b.tif"], ["Seconds", "1.5"], ["Retried", "yes"]]
    assert pairs[0]["plane"] == 0  # on the map all the same, as far as its polygons reach


def test_pairs_off_the_earth_have_maps_of_their_own(make_pair, tmp_path):
    mars = CRS.from_user_input("+proj=eqc +a=3396190 +b=3376200 +units=m +no_defs")
    pairs = [make_pair("mars", scenes=True, crs=mars), make_pair("earth", scenes=True), make_pair("moon", crs=mars)]
    content = content_of(write_report(pairs, tmp_path / "page").path)
    assert [(plane["name"], plane["earth"]) for plane in content["planes"]] == [
        ("Earth", True),
        ("mars", False),
        ("moon", False),
    ]
    assert [pair["plane"] for pair in content["pairs"]] == [1, 0, 2]
    at = dict(zip(content["anomalies"]["pair"], content["anomalies"]["at"], strict=True))
    assert at[0] is None
    assert at[1] is not None


def test_a_scene_that_breaks_while_it_is_read_costs_its_pictures_only(make_pair, tmp_path):
    pair = make_pair("torn", 3, scenes=True)
    write_scene(
        pair.anomalies.parent / "after.tif",
        np.ones((3, SIZE, SIZE), np.uint8),
        tiled=True,
        blockxsize=16,
        blockysize=16,
        compress="deflate",
    )
    data = (pair.anomalies.parent / "after.tif").read_bytes()
    (pair.anomalies.parent / "after.tif").write_bytes(data[: len(data) // 3])
    made = write_report([pair], tmp_path / "page")
    assert made.pictures == 0
    assert all("note" in card for card in content_of(made.path)["cards"])


def test_the_page_stays_within_its_size(make_pair, tmp_path):
    pair = make_pair("a", 90, scenes=True)
    sizes = []
    for limit in (4.0, 20.0):
        made = write_report([pair], tmp_path / "page", options=ReportOptions(max_mb=limit))
        assert made.size == made.path.stat().st_size < limit * 1e6
        assert made.pictures == 90
        sizes.append(made.size)
    assert sizes[0] < 0.8 * sizes[1]  # noise is hard to press: without the limit it would have taken more


def test_cards_and_map_are_as_many_as_asked_for(make_pair, tmp_path):
    made = write_report([make_pair("a", 50)], tmp_path / "page", options=ReportOptions(cards=7, mapped=20))
    content = content_of(made.path)
    assert (made.anomalies, made.mapped, made.cards) == (50, 20, 7)
    assert (content["total"], len(content["anomalies"]["id"]), len(content["cards"])) == (50, 20, 7)


def test_progress_reaches_its_end(make_pair, tmp_path):
    seen = []
    write_report([make_pair("a", 3), make_pair("b", 2)], tmp_path / "page", on_progress=lambda *now: seen.append(now))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_reviews_that_are_there_already_are_on_the_page(tmp_path):
    frame = squares(3)
    frame["review"] = np.array(["confirmed", "whatever", None], object)
    write_polygons(frame, tmp_path / "a.gpkg")
    content = content_of(write_report(find_pairs([tmp_path / "a.gpkg"]), tmp_path / "page").path)
    assert content["anomalies"]["review"] == ["confirmed", None, None]


def test_scenes_without_a_partner_are_listed_and_the_digest_is_found_again(make_pair, tmp_path):
    page = tmp_path / "page" / "index.html"
    assert page_digest(page) is None
    unmatched = [UnmatchedScene("far/away.tif", HOSTILE)]
    write_report([make_pair("a")], page.parent, unmatched=unmatched, digest='a"<b>&')
    assert content_of(page)["unmatched"] == [{"scene": "away.tif", "reason": HOSTILE}]
    assert page_digest(page) == 'a"<b>&'
    write_report([make_pair("b")], page.parent)
    assert (page_digest(page), content_of(page)["unmatched"]) == ("", [])


def test_a_page_has_one_writer_who_clears_up_after_others(make_pair, tmp_path):
    page = tmp_path / "index.html"
    with (
        locked(tmp_path / ".index.html.lock", page),
        pytest.raises(OutputError, match="is being written by another run"),
    ):
        write_report([make_pair("a")], tmp_path)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / ".index.0123abcd.partial.html").write_bytes(b"of a process that was killed")
    write_report([make_pair("b")], tmp_path / "page")
    assert [file.name for file in (tmp_path / "page").iterdir()] == ["index.html"]


def test_a_page_that_fails_leaves_the_old_one(make_pair, tmp_path, monkeypatch):
    pair = make_pair("a")
    made = write_report([pair], tmp_path / "page")
    before = made.path.read_bytes()
    monkeypatch.setattr(api.Page, "end", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report([pair], tmp_path / "page")
    assert made.path.read_bytes() == before
    assert [file.name for file in made.path.parent.iterdir()] == ["index.html"]


def test_a_folder_that_cannot_be_is_refused(make_pair, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report([make_pair("a")], tmp_path / "file" / "page")


@pytest.mark.parametrize(
    "wrong", [{"cards": -1}, {"mapped": -1}, {"chip_px": 1}, {"max_mb": 0.1}, {"max_mb": float("nan")}]
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(OptionError, match=re.escape(next(iter(wrong)))):
        ReportOptions(**wrong)


def test_the_page_is_the_same_wherever_the_results_lie(village, village_page, tmp_path):
    shutil.copytree(village, tmp_path / "village")
    again = content_of(
        write_report(
            find_pairs([tmp_path / "village"]), tmp_path / "page", options=ReportOptions(title="A village")
        ).path
    )
    first = content_of(village_page)
    assert {**again, "created": ""} == {**first, "created": ""}


def test_the_callers_warning_filters_hold_while_and_after_a_page_is_written(make_pair, tmp_path):
    before, meanwhile = list(warnings.filters), []
    pair = make_pair("a", 3, scenes=True)
    write_report([pair], tmp_path / "page", on_progress=lambda *_: meanwhile.append(list(warnings.filters)))
    assert meanwhile == [before] * 3
    assert warnings.filters == before


def test_options_and_results_are_json(make_pair, tmp_path):
    options = ReportOptions(title="A page", cards=2)
    made = write_report([make_pair("a", 3)], tmp_path / "page", options=options)
    assert ReportOptions(**json.loads(json.dumps(options.to_dict()))) == options
    facts = json.loads(json.dumps(made.to_dict()))
    assert (facts["path"], facts["anomalies"], facts["cards"]) == (str(made.path), 3, 2)
