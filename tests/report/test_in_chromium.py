"""The page in a real Chromium: it says what it was given, is worked through with keys, and hands the verdicts out."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
from report_samples import record, squares

from geosiam.polygons.results import read_result
from geosiam.polygons.writer import write_polygons
from geosiam.report import ReportOptions, ReportPair, UnmatchedScene, find_pairs, write_report, write_verdicts

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = "</script><img src=x onerror=alert(1)>&lt;"
PHONE, DESKTOP = {"width": 375, "height": 812}, {"width": 1300, "height": 900}


@pytest.fixture
def visit(browser):
    """Return a function that opens a page in a context of its own; the test fails if the page complains or asks."""
    contexts, complaints = [], []

    def open_page(path, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: note(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    def note(url):
        if not url.startswith(("file:", "data:", "blob:")):
            complaints.append(url)

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory, village):
    """Return pages by name: of nothing, of much, and of names that want to be programs."""
    folder = tmp_path_factory.mktemp("pages")

    def page(name, count, scenes=village, **options):
        (folder / name).mkdir()
        write_polygons(squares(count), folder / name / "anomalies.gpkg", provenance=record(scenes))
        return write_report(find_pairs([folder / name]), folder / name, options=ReportOptions(**options)).path

    hostile = [
        ReportPair(HOSTILE, HOSTILE, HOSTILE, None, None, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
        ReportPair("b", None, None, None, folder / "few" / "anomalies.gpkg", facts={"Flight": HOSTILE}),
    ]
    unmatched = [UnmatchedScene(f"{number}.tif", HOSTILE) for number in range(2)]
    return {
        "nothing": page("nothing", 0),
        "few": page("few", 3),
        "many": page("many", 5000, scenes=folder, cards=300),
        "hostile": write_report(
            hostile, folder / "hostile", options=ReportOptions(title=HOSTILE), unmatched=unmatched
        ).path,
    }


def settle(page):
    """Wait until what was pressed is on the screen: a page draws and runs what follows from it within two frames."""
    page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"
    )


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)
        settle(page)


def read(page, selector):
    settle(page)
    return page.inner_text(selector)


def shown(page):
    return read(page, "#card-heading").split("\n")[0]


def progress(page):
    return read(page, ".progress p >> nth=0")


def test_the_page_says_what_was_found(visit, village, village_page):
    page = visit(village_page)
    found = geopandas.read_file(village / "anomalies.gpkg", layer="anomalies")
    strongest = found.sort_values(["score_mean", "area_m2"], ascending=False).iloc[0]
    assert read(page, "h1") == page.title() == "A village"
    assert f"{len(found)} anomalies covering" in read(page, "header")
    assert shown(page) == f"village #{strongest.id}"
    assert f"{strongest.score_mean:.2f}" in read(page, ".facts")
    assert read(page, ".pairs tbody .count") == str(len(found))
    pictures = page.eval_on_selector_all(".side img", "all => all.map((image) => image.naturalWidth)")
    assert len(pictures) == 4  # before, after, and the scores over the after scene
    assert min(pictures) > 8


def test_a_review_by_keys_goes_all_the_way_into_the_geopackage(visit, village, village_page, tmp_path):
    page = visit(village_page)
    ids = []
    for key in ("c", "r", "u", "ArrowRight", "a"):
        ids.append(int(shown(page).split("#")[1]))
        press(page, key)
    assert progress(page).startswith("Reviewed 4 of")
    press(page, "z")  # takes the last one back, and shows it again
    assert int(shown(page).split("#")[1]) == ids[4]
    press(page, "ArrowLeft")
    press(page, "ArrowLeft")
    press(page, "x")
    assert progress(page).startswith("Reviewed 2 of")
    with page.expect_download() as download:
        page.keyboard.press("e")
    download.value.save_as(tmp_path / "verdicts.json")
    assert download.value.suggested_filename == "verdicts.json"

    copy = tmp_path / "village.gpkg"
    copy.write_bytes((village / "anomalies.gpkg").read_bytes())
    (done,) = write_verdicts(tmp_path / "verdicts.json", [copy])
    frame = geopandas.read_file(copy, layer="anomalies").set_index("id")
    assert frame.review.dropna().to_dict() == {ids[0]: "confirmed", ids[1]: "rejected"}
    assert done.missing == ()


def test_verdicts_are_still_there_after_the_page_was_closed(visit, village_page):
    page = visit(village_page)
    press(page, "c")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert progress(page).startswith("Reviewed 1 of")
    other = page.context.new_page()  # another window follows
    other.goto(village_page.as_uri())
    other.wait_for_selector("html[data-ready]")
    press(page, "ArrowRight")
    press(page, "r")
    other.get_by_text("1 rejected").wait_for()


def test_reviews_of_the_geopackage_are_where_the_page_begins(visit, tmp_path):
    frame = squares(3)
    frame["review"] = np.array(["confirmed", None, "rejected"], object)
    write_polygons(frame, tmp_path / "a.gpkg")
    page = visit(write_report(find_pairs([tmp_path / "a.gpkg"]), tmp_path / "page").path)
    assert progress(page) == "Reviewed 2 of 3"
    assert page.get_attribute(".decision .confirmed", "aria-pressed") == "true"
    assert page.is_disabled("text=Export verdicts")  # nothing is new
    press(page, "Backspace")
    with page.expect_download() as download:
        page.click("text=Export verdicts")
    (pair,) = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["pairs"]
    assert pair == {"name": "a", "run": read_result(tmp_path / "a.gpkg").run, "verdicts": {"1": None}}


def test_filters_and_orders(visit, village, village_page):
    page = visit(village_page)
    found = geopandas.read_file(village / "anomalies.gpkg", layer="anomalies")
    press(page, "c")
    page.get_by_role("combobox", name="Verdict").select_option("unreviewed")
    assert f"of {len(found) - 1}" in read(page, "#card-heading")
    page.get_by_role("combobox", name="Verdict").select_option("rejected")
    assert "No card fits the filters" in read(page, "#review")
    page.click(".empty >> text=Clear filters")
    page.get_by_role("combobox", name="Order").select_option("area")
    for _ in range(len(found)):
        press(page, "ArrowLeft")
    largest = found.sort_values("area_m2", ascending=False).iloc[0]
    assert shown(page) == f"village #{largest.id}"
    page.get_by_role("slider", name="Score from").fill("0.9")
    kept = (found.score_mean.round(4) >= 0.9).sum()
    assert 0 < kept < len(found)
    assert f"of {kept}" in read(page, "#card-heading")


def test_comparisons_show_both_dates(visit, village_page):
    page = visit(village_page, reduced_motion="reduce")
    press(page, "2")
    slider = page.get_by_role("slider", name="Where before ends")
    slider.fill("20")
    assert page.eval_on_selector(".upper", "element => element.style.clipPath") == "inset(0px 0px 0px 20%)"
    slider.press("ArrowRight")
    assert slider.input_value() == "21"  # and the card is still the same
    assert "1 of" in read(page, "#card-heading")
    press(page, "3")
    assert read(page, ".date") == "Before"
    press(page, "Space")
    page.locator(".date", has_text="After").wait_for()
    press(page, "o")
    assert page.locator(".outline").count() == 0
    press(page, "s")
    assert page.locator(".frame img.scores").count() == 2


def test_blinking_begins_by_itself_and_can_be_paused(visit, village_page):
    page = visit(village_page)
    page.get_by_role("radio", name="Blink").check()
    page.locator(".date", has_text="After").wait_for()
    page.locator(".date", has_text="Before").wait_for()
    page.click("text=Pause")
    date = read(page, ".date")
    page.wait_for_timeout(1600)  # two flips, were it not for the pause
    assert read(page, ".date") == date


def test_help_lists_keys_and_can_switch_them_off(visit, village_page):
    page = visit(village_page)
    press(page, "?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    press(page, "c")  # not behind the dialog
    page.get_by_text("Use these keys").click()
    press(page, "Escape")
    press(page, "c")
    assert progress(page).startswith("Reviewed 0 of")
    page.get_by_role("button", name="Confirm").click()
    assert progress(page).startswith("Reviewed 1 of")


def test_the_map_follows_the_cards_and_picks_them(visit, village_page):
    page = visit(village_page, reduced_motion="reduce")

    def drawn():
        page.wait_for_timeout(300)
        return page.locator(".map").screenshot()

    whole = drawn()
    press(page, "ArrowRight")
    assert drawn() != whole
    press(page, "ArrowRight")
    second = shown(page)
    page.wait_for_timeout(300)
    press(page, "ArrowLeft")
    page.wait_for_timeout(300)
    box = page.locator(".map").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # the one that is in the middle
    page.wait_for_timeout(400)
    assert shown(page) != second
    page.click("text=Zoom to all")
    assert drawn() != whole  # another card has the mark


def test_the_map_glides_to_where_it_would_jump_even_if_steps_come_quickly(visit, village_page):
    maps = []
    for motion in ("no-preference", "reduce"):
        page = visit(village_page, reduced_motion=motion)
        steps = "for (let i = 0; i < 6; i++) { step(); await new Promise((next) => setTimeout(next, 90)); }"
        step = "const step = () => dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));"
        page.evaluate(f"(async () => {{ {step} {steps} }})()")
        page.wait_for_timeout(800)
        maps.append(page.locator(".map").screenshot())
    assert maps[0] == maps[1]


def test_the_table_sorts(visit, make_pair, tmp_path):
    pairs = [make_pair("a", 2), make_pair("b", 9), make_pair("c", 5)]
    failed = ReportPair("d", "x.tif", "y.tif", None, None, "failed", error="y.tif: is truncated; copy it again")
    page = visit(write_report([*pairs, failed], tmp_path / "page").path)

    def names():
        settle(page)
        return [text.split("\n")[0] for text in page.locator(".pairs tbody th").all_inner_texts()]

    assert names() == ["a", "b", "c", "d"]
    page.click(".pairs thead >> text=Anomalies")
    assert names() == ["b", "c", "a", "d"]
    assert page.get_attribute(".pairs th.count", "aria-sort") == "descending"
    page.click(".pairs thead >> text=Anomalies")
    assert names() == ["a", "c", "b", "d"]
    assert "y.tif: is truncated" in read(page, ".failures")
    page.get_by_role("button", name="Review b").click()
    assert "of 9" in read(page, "#card-heading")


def test_all_cards_at_once(visit, pages):
    page = visit(pages["many"])
    press(page, "g")
    assert page.locator(".gallery li").count() == 60
    page.click("text=Show more")
    settle(page)
    assert page.locator(".gallery li").count() == 120
    page.locator(".gallery li >> nth=3").get_by_role("button").click()
    assert shown(page) == "many #4"


@pytest.mark.parametrize("name", ["nothing", "few", "many"])
def test_no_anomaly_and_thousands_of_them(visit, pages, name):
    page = visit(pages[name])
    assert {"nothing": "0 anomalies", "few": "3 anomalies", "many": "5,000 anomalies"}[name] in read(page, "header")
    assert ("Nothing was found" in read(page, "#review")) is (name == "nothing")
    if name == "many":
        assert "4,700 weaker ones are in the GeoPackages" in read(page, ".progress")


def test_names_are_text_whatever_they_are(visit, pages):
    page = visit(pages["hostile"])
    assert page.title() == read(page, "h1") == HOSTILE
    page.click(".pairs summary >> nth=0")
    assert read(page, ".pairs tbody").count(HOSTILE) >= 5
    lines = ["2 scenes without a partner", f"0.tif {HOSTILE}", f"1.tif {HOSTILE}"]
    assert read(page, ".unmatched").split("\n") == lines
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("name", ["nothing", "few", "many", "hostile", "village"])
def test_a_phone_need_not_scroll_sideways(visit, pages, village_page, name):
    page = visit(village_page if name == "village" else pages[name], viewport=PHONE)
    views = ("", "1", "2", "3", "g") if name in ("village", "many") else ("",)
    for key in views:
        if key:
            press(page, key)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.fixture
def complaints_of_axe():
    """Return a function that asks axe-core about a page."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --prefix web --no-save")

    def ask(page):
        if not page.evaluate("'axe' in window"):
            page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]

    return ask


@pytest.mark.parametrize(("colors", "viewport"), [("light", PHONE), ("dark", DESKTOP)], ids=["phone", "desktop"])
def test_axe_finds_nothing_to_complain_of(visit, complaints_of_axe, village_page, colors, viewport):
    page = visit(village_page, color_scheme=colors, viewport=viewport, reduced_motion="reduce")
    for key in ("c", "1", "2", "3", "g", "?"):
        press(page, key)
        assert complaints_of_axe(page) == [], f"after {key}"
    press(page, "Escape")
    page.get_by_role("button", name="Switch to").click()
    assert complaints_of_axe(page) == []


@pytest.mark.parametrize("name", ["nothing", "hostile"])
def test_axe_has_no_complaint_of_odd_pages_either(visit, complaints_of_axe, pages, name):
    assert complaints_of_axe(visit(pages[name])) == []


def test_the_theme_can_be_switched_and_is_remembered(visit, village_page):
    page = visit(village_page, color_scheme="light")
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.get_by_role("button", name="Switch to dark colors").click()
    settle(page)
    assert page.evaluate(color) != light
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(color) != light


def test_it_can_be_printed(visit, village_page):
    page = visit(village_page)
    press(page, "g")
    assert page.pdf()[:5] == b"%PDF-"
    page.emulate_media(media="print")
    assert not page.is_visible("text=Export verdicts")
    assert page.is_visible(".gallery")
