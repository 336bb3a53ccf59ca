"""STAC documents, in files and from a real HTTP server; and the items that a batch writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import shapely
from made import ORIGIN, changed, ground, record, write

from geosiam.batch.api import plan_batch
from geosiam.batch.events import PairResult
from geosiam.batch.stac_input import is_stac
from geosiam.batch.stac_output import item_collection
from geosiam.errors import SceneUnreadableError
from geosiam.network.weights import load_model
from geosiam.provenance import ModelReference

pystac = pytest.importorskip("pystac")

YEARS = (2018, 2019, 2020)


def item(site: str, year: int, href: str | None = None) -> dict:
    square = shapely.box(15.1, 52.3, 15.2, 52.4) if site == "north" else shapely.box(15.22, 52.3, 15.32, 52.4)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"{site}-{year}",
        "geometry": shapely.geometry.mapping(square),
        "bbox": list(square.bounds),
        "properties": {"datetime": f"{year}-06-01T10:00:00Z"},
        "links": [],
        "assets": {
            "thumbnail": {"href": "small.png", "type": "image/png", "roles": ["thumbnail"]},
            "visual": {
                "href": href or f"{site}-{year}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["visual"],
            },
        },
    }


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a static catalog: a folder an item, links relative; and all items in one collection beside it."""
    root = tmp_path_factory.mktemp("stac")
    items = []
    made = pystac.Catalog("surveys", "Flights over two sites")
    for site, seed in (("north", 1), ("south", 2)):
        image = ground(seed, 96, 96)
        for year in YEARS[: 3 if site == "north" else 1]:
            path = root / "catalog" / f"{site}-{year}" / f"{site}-{year}.tif"
            write(path, changed(image, year), origin=(ORIGIN[0] + 9000 * seed, ORIGIN[1]))
            content = item(site, year)
            made.add_item(pystac.Item.from_dict(content))
            content = item(site, year, href=f"catalog/{site}-{year}/{site}-{year}.tif")
            items.append(content)
    made.normalize_and_save(str(root / "catalog"), pystac.CatalogType.SELF_CONTAINED)
    (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return root


@pytest.fixture(scope="module")
def server(catalog: Path):
    # A process of its own: rasterio opens files without letting other threads of this one run.
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", catalog]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        port = re.search(r"port (\d+)", process.stdout.readline())
        yield f"http://127.0.0.1:{port[1]}"
        process.kill()


def check(plan, home: str) -> None:
    assert [(pair.before_date, pair.date) for pair in plan.pairs] == [
        ("2018-06-01T10:00:00Z", "2019-06-01T10:00:00Z"),
        ("2019-06-01T10:00:00Z", "2020-06-01T10:00:00Z"),
    ]
    assert [pair.name for pair in plan.pairs] == ["north-2018_north-2019", "north-2019_north-2020"]
    assert plan.pairs[0].before == f"{home}/catalog/north-2018/north-2018.tif"
    assert [scene.reason for scene in plan.unmatched] == ["is the only dated scene of its place"]


def test_item_collections_and_static_catalogs_in_files(catalog: Path) -> None:
    check(plan_batch(catalog / "items.json"), str(catalog))
    plan = plan_batch(catalog / "catalog" / "catalog.json")
    check(plan, str(catalog))
    assert plan.pairs[0].shape == (96, 96)


def test_static_catalogs_over_http(server: str) -> None:
    plan = plan_batch(f"{server}/catalog/catalog.json", asset="visual")
    check(plan, server)
    check(plan_batch(f"{server}/items.json"), server)


def test_one_template_for_a_catalog(catalog: Path) -> None:
    before = catalog / "catalog" / "north-2018" / "north-2018.tif"
    plan = plan_batch(catalog / "items.json", before=before)
    assert [Path(pair.after).stem for pair in plan.pairs] == ["north-2019", "north-2020"]
    assert [Path(scene.scene).stem for scene in plan.unmatched] == ["south-2018"]


def test_what_is_no_stac_is_refused(tmp_path: Path, server: str) -> None:
    with pytest.raises(SceneUnreadableError, match="cannot be read as STAC"):
        plan_batch(f"{server}/nothing.json")
    (tmp_path / "empty.json").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(SceneUnreadableError, match="lists no items"):
        plan_batch(tmp_path / "empty.json")
    point = {"type": "Polygon", "coordinates": [[[0, 0], [1], [1, 1], [0, 0]]]}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "a", "bbox": [0, 0, 1, 1], "links": [], "geometry": point}
    item |= {"properties": {"datetime": "2020-01-01T00:00:00Z"}, "assets": {}}
    (tmp_path / "point.json").write_text(json.dumps(item))
    with pytest.raises(SceneUnreadableError, match="cannot be read as STAC"):
        plan_batch(tmp_path / "point.json")
    (tmp_path / "deep.json").write_text("[" * 9999)
    assert not is_stac(str(tmp_path / "deep.json"))
    (tmp_path / "broken.json").write_text('{"type": "Catalog"}')
    with pytest.raises(SceneUnreadableError, match="cannot be read as STAC"):
        plan_batch(tmp_path / "broken.json")


def test_items_with_several_rasters_want_a_choice(tmp_path: Path) -> None:
    items = []
    for year in YEARS:
        content = item("north", year)
        content["assets"]["dem"] = {"href": "dem.tif", "type": "image/tiff; application=geotiff", "roles": ["visual"]}
        content["assets"]["photo"] = {**content["assets"].pop("visual")}
        items.append(content)
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    plan = plan_batch(tmp_path / "items.json", asset="photo")
    assert len(plan.pairs) == 2
    with pytest.raises(Exception, match=r"has several rasters or none \(assets: dem, photo\); name one with `asset`"):
        plan_batch(tmp_path / "items.json")


# --- what is written ------------------------------------------------------------------------------------------------


def done(folder: Path, name: str, *, on_earth: bool = True, **more: str) -> PairResult:
    model = load_model()
    metadata = record(
        footprint=shapely.geometry.mapping(shapely.box(15, 52, 15.1, 52.1)) if on_earth else None,
        model=ModelReference(model.source, model.card.name, model.card.checksum),
    )
    results = {"scores": folder / name / "scores.tif", "anomalies": folder / name / "anomalies.gpkg"}
    return PairResult(name, "/a/x.tif", "https://host/y.tif", "done", record=metadata, **results, **more)


def test_items_are_valid_and_say_which_model(tmp_path: Path) -> None:
    pairs = [
        done(tmp_path, "one", before_date="2018", date="2020-05-01"),
        done(tmp_path, "two"),
        done(tmp_path, "mars", on_earth=False),
        PairResult("three", "a", "b", "failed", error="no"),
    ]
    collection = item_collection(pairs, tmp_path)
    (tmp_path / "items.json").write_text(json.dumps(collection))
    items = list(pystac.ItemCollection.from_file(str(tmp_path / "items.json")).items)
    assert [made.id for made in items[1:]] == ["one", "two", "mars"]
    model, one, two, mars = items
    assert (mars.geometry, mars.bbox) == (None, None)
    core = {made.id: made.to_dict(include_self_link=False) | {"stac_extensions": []} for made in items}
    for content in core.values():
        pystac.Item.from_dict(content).validate()  # against the schemas of STAC 1.1 that pystac brings along
    assert one.assets["scores"].href == "./one/scores.tif"
    assert (one.common_metadata.start_datetime.year, one.common_metadata.end_datetime.year) == (2018, 2020)
    assert two.datetime.year == 2026
    assert any(link.rel == "derived_from" and link.target == f"#{model.id}" for link in one.links)

    mlm = pytest.importorskip("pystac.extensions.mlm")
    described = mlm.MLMExtension(model) if hasattr(mlm, "ItemMLMExtension") is False else mlm.ItemMLMExtension(model)
    assert described.mlm_name == "survey"
    assert described.total_parameters == sum(p.numel() for p in load_model().network.parameters())
    assert [source.name for source in described.input] == ["before", "after"]
    assert described.output[0].result.data_type == "float32"
    assert "mlm:model" in model.assets["weights"].roles
    assert model.assets["weights"].extra_fields["mlm:artifact_type"] == "safetensors.torch.save_file"
