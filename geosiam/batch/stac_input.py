"""Scenes that a STAC item collection or a static catalog lists, in files or over HTTP."""

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

if TYPE_CHECKING:
    from pystac import Asset, Item

_KINDS = ("FeatureCollection", "Feature", "Catalog", "Collection")
_SECONDS = 30.0
_RASTER_TYPES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "application/x-geotiff")
_RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_PREFERRED = ("visual", "image", "data", "analytic")


def is_stac(source: str) -> bool:
    """Return whether a source is a STAC document: any URL, or a JSON file of one of its kinds."""
    if source.startswith(("http://", "https://")):
        return True
    if not source.lower().endswith((".json", ".geojson")):
        return False
    try:
        content = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("type") in _KINDS


def read_stac(source: str, asset: str | None = None) -> list[SceneEntry]:
    """Return the scenes of a STAC document, one an item.

    Parameters
    ----------
    source
        Path or URL of an item collection, an item, or a catalog or collection whose items are linked from it.
    asset
        Key of the asset to take of each item; None: the only raster, or the only one that is meant to be looked at.

    Raises
    ------
    OptionError
        pystac is not installed.
    SceneUnreadableError
        The document, or one that it links to, cannot be had.
    """
    try:
        import pystac  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise OptionError(source, "is STAC, which needs pystac", "pip install 'geosiam[survey]'") from error
    try:
        items = _items(source)
    except InputError:
        raise
    except Exception as error:  # pystac raises whatever a document makes it stumble over
        fact = f"cannot be read as STAC ({type(error).__name__}: {error})"
        raise SceneUnreadableError(source, fact, "check the address, and the document with stac-validator") from error
    if not items:
        raise SceneUnreadableError(
            source, "lists no items", "name an item collection, or a catalog that links to items"
        )
    return [_scene(item, source, asset) for item in items]


def _items(source: str) -> list[Item]:
    import pystac  # noqa: PLC0415 - an extra

    io = _reader()
    content = json.loads(io.read_text(source))
    kind = content.get("type")
    if kind == "FeatureCollection":
        return list(pystac.ItemCollection.from_dict(content).items)
    href = source if "://" in source else os.path.abspath(source)  # noqa: PTH100 - what pystac takes
    read = pystac.read_file(href, stac_io=io)
    return [read] if kind == "Feature" else sorted(read.get_items(recursive=True), key=lambda item: str(item.id))


def _reader() -> Any:  # noqa: ANN401 - a class of pystac, which is an extra
    """Return how documents are read: as pystac does it, but a server that goes silent is given up."""
    from pystac.stac_io import DefaultStacIO  # noqa: PLC0415 - an extra

    class Reader(DefaultStacIO):  # type: ignore[misc]
        def read_text_from_href(self, href: str, *_: object, **__: object) -> str:
            """Read a file or URL."""
            if not href.startswith(("http://", "https://")):
                return Path(href).read_text(encoding="utf-8")
            with urlopen(Request(href), timeout=_SECONDS) as answer:  # noqa: S310 - http and https only
                text: str = answer.read().decode()
                return text

    return Reader()


def _scene(item: Item, source: str, key: str | None) -> SceneEntry:
    moment = item.datetime or item.common_metadata.start_datetime
    date = None if moment is None else iso_date(moment.isoformat(), "STAC datetime")
    outline = shapely.from_geojson(json.dumps(item.geometry)) if item.geometry else None
    footprint = outline.convex_hull if isinstance(outline, shapely.Polygon | shapely.MultiPolygon) else None
    place = str(item.properties.get("grid:code", ""))
    try:
        chosen = _asset(item, key)
    except OptionError as error:
        return SceneEntry(item.id, place, None, footprint, problem=str(error), label=item.id)
    shape = chosen.extra_fields.get("proj:shape") or item.properties.get("proj:shape")
    size = (int(shape[0]), int(shape[1])) if shape else None
    return SceneEntry(_href(chosen, item, source), place, date, footprint, size, label=item.id)


def _asset(item: Item, key: str | None) -> Asset:
    if key is not None:
        if key not in item.assets:
            raise OptionError(f"item {item.id}", f"has no asset {key!r}", f"it has {', '.join(item.assets)}")
        return item.assets[key]
    rasters = {name: asset for name, asset in item.assets.items() if _is_raster(asset)}
    for names in (rasters, [n for n, a in rasters.items() if "visual" in (a.roles or [])], _PREFERRED):
        fitting = [name for name in names if name in rasters]
        if len(fitting) == 1:
            return rasters[fitting[0]]
    listed = ", ".join(rasters or item.assets) or "none"
    raise OptionError(f"item {item.id}", f"has no single raster to take (assets: {listed})", "name one with --asset")


def _is_raster(asset: Asset) -> bool:
    kind = (asset.media_type or "").split(";")[0]
    if {"thumbnail", "overview", "metadata"} & set(asset.roles or []):
        return False
    return kind in _RASTER_TYPES or (not kind and asset.href.lower().endswith(_RASTER_SUFFIXES))


def _href(asset: Asset, item: Item, source: str) -> str:
    """Return where an asset is: relative to its item, or to the collection that the item was in."""
    href = str(asset.href)
    if "://" in href or href.startswith("/"):
        return href.removeprefix("file://")
    base = str(item.get_self_href() or source)
    if "://" in base:
        return urljoin(base, href)
    return os.path.abspath(Path(base).parent / href)  # noqa: PTH100 - resolves .. and follows no links
