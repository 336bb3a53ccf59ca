"""Read scenes from a STAC item collection or a static catalog, in files or over HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import shapely

from geosiam.batch.dates import iso_date
from geosiam.batch.inventory import SceneEntry
from geosiam.errors import InputError, OptionError, SceneUnreadableError
from geosiam.files import parse_json

if TYPE_CHECKING:
    from pystac import Asset, Item

_KINDS = ("FeatureCollection", "Feature", "Catalog", "Collection")
_TIMEOUT_SECONDS = 30.0  # of one document
_RASTER_TYPES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "application/x-geotiff")
_RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_PREFERRED_ASSETS = ("visual", "image", "data", "analytic")


def is_stac(source: str) -> bool:
    """Return whether a source is a STAC document: any URL, or a JSON file of a STAC type."""
    if source.startswith(("http://", "https://")):
        return True
    if not source.lower().endswith((".json", ".geojson")):
        return False
    try:
        content = parse_json(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("type") in _KINDS


def read_stac(source: str, asset: str | None = None) -> list[SceneEntry]:
    """Return the scenes of a STAC document, one per item.

    Parameters
    ----------
    source
        Path or URL of an item collection, an item, or a catalog or collection whose items are linked from it.
    asset
        Key of the asset of each item; None: its only raster, or the only one with the role ``visual``.

    Raises
    ------
    OptionError
        pystac is not installed.
    SceneUnreadableError
        The document, or one that it links to, cannot be read.
    """
    try:
        import pystac  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise OptionError(source, "is a STAC document, which needs pystac", "pip install 'geosiam[survey]'") from error
    try:
        items = _items(source)
        scenes = [_scene(item, source, asset) for item in items]
    except InputError:
        raise
    except Exception as error:  # pystac raises all kinds of errors for invalid documents
        fact = f"cannot be read as STAC ({type(error).__name__}: {error})"
        raise SceneUnreadableError(source, fact, "check the address, and the document with stac-validator") from error
    if not items:
        raise SceneUnreadableError(
            source, "lists no items", "give an item collection, or a catalog that links to items"
        )
    return scenes


def _items(source: str) -> list[Item]:
    import pystac  # noqa: PLC0415 - an extra

    stac_io = _stac_io()
    content = json.loads(stac_io.read_text(source))
    kind = content.get("type")
    if kind == "FeatureCollection":
        return list(pystac.ItemCollection.from_dict(content).items)
    href = source if "://" in source else os.path.abspath(source)  # noqa: PTH100 - pystac takes text
    document = pystac.read_file(href, stac_io=stac_io)
    return [document] if kind == "Feature" else sorted(document.get_items(recursive=True), key=lambda i: str(i.id))


def _stac_io() -> Any:  # noqa: ANN401 - a class of pystac, which is an extra
    """Return pystac's reader of documents, with a time limit."""
    from pystac.stac_io import DefaultStacIO  # noqa: PLC0415 - an extra

    class TimeLimitedStacIO(DefaultStacIO):  # type: ignore[misc]
        def read_text_from_href(self, href: str, *_: object, **__: object) -> str:
            """Read a file or URL."""
            if not href.startswith(("http://", "https://")):
                return Path(href).read_text(encoding="utf-8")
            with urlopen(Request(href), timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - http and https only
                text: str = response.read().decode()
                return text

    return TimeLimitedStacIO()


def _scene(item: Item, source: str, key: str | None) -> SceneEntry:
    time = item.datetime or item.common_metadata.start_datetime
    date = None if time is None else iso_date(time.isoformat(), "STAC datetime")
    outline = shapely.from_geojson(json.dumps(item.geometry)) if item.geometry else None
    footprint = outline.convex_hull if isinstance(outline, shapely.Polygon | shapely.MultiPolygon) else None
    place = str(item.properties.get("grid:code", ""))
    try:
        asset = _choose_asset(item, key)
    except OptionError as error:
        return SceneEntry(item.id, place, None, footprint, problem=str(error), label=item.id)
    shape = asset.extra_fields.get("proj:shape") or item.properties.get("proj:shape")
    size = (int(shape[0]), int(shape[1])) if shape else None
    return SceneEntry(_href(asset, item, source), place, date, footprint, size, label=item.id)


def _choose_asset(item: Item, key: str | None) -> Asset:
    if key is not None:
        if key not in item.assets:
            raise OptionError(f"item {item.id}", f"has no asset {key!r}", f"choose from {', '.join(item.assets)}")
        return item.assets[key]
    rasters = {name: asset for name, asset in item.assets.items() if _is_raster(asset)}
    visual = [name for name, asset in rasters.items() if "visual" in (asset.roles or [])]
    for names in (rasters, visual, _PREFERRED_ASSETS):
        candidates = [name for name in names if name in rasters]
        if len(candidates) == 1:
            return rasters[candidates[0]]
    listed = ", ".join(rasters or item.assets) or "none"
    raise OptionError(f"item {item.id}", f"has several rasters or none (assets: {listed})", "name one with `asset`")


def _is_raster(asset: Asset) -> bool:
    kind = (asset.media_type or "").split(";")[0]
    if {"thumbnail", "overview", "metadata"} & set(asset.roles or []):
        return False
    return kind in _RASTER_TYPES or (not kind and asset.href.lower().endswith(_RASTER_SUFFIXES))


def _href(asset: Asset, item: Item, source: str) -> str:
    """Return the location of an asset, which may be relative to its item or to the collection with the item."""
    href = str(asset.href)
    if "://" in href or href.startswith("/"):
        return href.removeprefix("file://")
    base = str(item.get_self_href() or source)
    if "://" in base:
        return urljoin(base, href)
    return os.path.abspath(Path(base).parent / href)  # noqa: PTH100 - resolves .. but follows no links
