"""What is known of a scene before it is paired: where it lies, when it was taken, what its name says."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import rasterio
import shapely
from shapely.affinity import translate
from shapely.geometry.polygon import orient

from geosiam.batch.dates import FILE_TAGS, TAGS, SceneDate, date_in, date_of, iso_date, place_in
from geosiam.errors import InputError, OptionError, SceneNotFoundError
from geosiam.imagery.grid import apply_affine
from geosiam.imagery.mosaic import find_tiles
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import Scene, checked_grid, environment

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from rasterio.io import DatasetReader

    from geosiam.imagery.grid import Grid

_AT_ONCE = 8
_SUFFIXES = frozenset({".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".webp", ".asc"})
_POINTS = 8  # along a side of a footprint, whose sides are curves in another coordinate system


@dataclass(frozen=True)
class SceneEntry:
    """A scene that may become half of a pair.

    Parameters
    ----------
    scene
        Absolute path, or URL.
    place
        What its name says of where it lies.
    date
        When it was taken; None if nothing says so.
    footprint
        Where it lies: longitudes and latitudes (WGS 84); None if it cannot be opened.
    shape
        (height, width) in pixels; None if it cannot be opened.
    problem
        Why it cannot be opened.
    label
        What names may be made of; empty: its name without folder and suffix.
    """

    scene: str
    place: str
    date: SceneDate | None
    footprint: shapely.Polygon | None = None
    shape: tuple[int, int] | None = None
    problem: str | None = None
    label: str = ""

    @property
    def stem(self) -> str:
        """What names may be made of."""
        return self.label or stem_of(self.scene)


def stem_of(scene: str) -> str:
    """Return the name of a scene without folder and suffix; a pattern of tiles is named by its folder."""
    path = Path(scene.split("?", maxsplit=1)[0].rstrip("/"))
    if any(sign in path.name for sign in "*?["):
        path = path.parent
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def scenes_in(folder: str | os.PathLike[str], pattern: str | None = None) -> list[SceneEntry]:
    """Return the scenes in a folder: its rasters, and its folders of tiles, in the order of their names.

    Parameters
    ----------
    folder
        Where to look.
    pattern
        Regular expression for the names, with a group ``place`` and maybe a group ``date``; None: what is left of a
        name without its date is the place.

    Raises
    ------
    SceneNotFoundError
        There is no such folder, or no scene in it.
    OptionError
        The pattern is no regular expression, or lacks the group.
    """
    root = Path(folder).absolute()
    if not root.is_dir():
        raise SceneNotFoundError(folder, "is no folder", "name a folder of scenes, or a manifest")
    try:
        found = list(find_tiles(str(root)) or [])
    except SceneNotFoundError:
        found = []
    found += [str(entry) for entry in sorted(root.iterdir()) if _holds_tiles(entry)]
    if not found:
        raise SceneNotFoundError(folder, "holds no rasters", "name a folder of scenes, or a manifest")
    return described(sorted(found), pattern)


def described(scenes: Iterable[str], pattern: str | None = None) -> list[SceneEntry]:
    """Return what is known of each scene; several are opened at a time."""
    names = _naming(pattern)
    with ThreadPoolExecutor(_AT_ONCE, "geosiam-scenes") as pool:
        return list(pool.map(lambda scene: _described(scene, names), scenes))


def overlap(one: SceneEntry, other: SceneEntry) -> float:
    """Return the share of the smaller footprint that both scenes cover, 0 to 1; 0 where one is not known."""
    if one.footprint is None or other.footprint is None:
        return 0.0
    return shared_area(one.footprint, other.footprint)


def shared_area(one: shapely.Polygon, other: shapely.Polygon) -> float:
    """Return the share of the smaller polygon that both cover; longitudes may be counted from different ends."""
    least = min(one.area, other.area)
    common = max(one.intersection(translate(other, turn)).area for turn in (-360, 0, 360))
    return float(common / least) if least > 0 else 0.0


def shape_of(scene: str) -> tuple[int, int] | None:
    """Return (height, width) of a scene in pixels; None if it cannot be opened, which is found out when it is run."""
    try:
        source = open_scene(scene)
        try:
            with environment():
                dataset = source.handle()
                return dataset.height, dataset.width
        finally:
            source.close()
    except InputError:
        return None


def shapes_of(scenes: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return :func:`shape_of` of each; several are opened at a time."""
    with ThreadPoolExecutor(_AT_ONCE, "geosiam-scenes") as pool:
        return list(pool.map(shape_of, scenes))


def place_and_date(scene: str) -> tuple[str, SceneDate | None]:
    """Return what the name of a scene alone says."""
    stem = stem_of(scene)
    return place_in(stem), date_in(stem)


def footprint_of(grid: Grid) -> shapely.Polygon | None:
    """Return the outline of a grid in longitude and latitude; across the dateline longitudes go on beyond 180.

    None where nothing leads there: on another planet, or outside of where the coordinate system is defined.
    """
    t = np.linspace(0, 1, _POINTS, endpoint=False)
    o, e = np.zeros(_POINTS), np.ones(_POINTS)
    cols = np.concatenate([t, e, 1 - t, o]) * grid.width
    rows = np.concatenate([o, t, e, 1 - t]) * grid.height
    x, y = apply_affine(grid.transform, cols, rows)
    crs = pyproj.CRS.from_wkt(grid.crs.to_wkt())
    try:
        lon, lat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    except pyproj.exceptions.ProjError:
        return None
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    lon = np.degrees(np.unwrap(np.radians(lon)))
    outline = shapely.Polygon(np.column_stack([lon, lat]).round(7))
    return orient(outline if outline.is_valid else outline.convex_hull)


def _holds_tiles(entry: Path) -> bool:
    if not entry.is_dir() or entry.name.startswith("."):
        return False
    try:
        return bool(find_tiles(str(entry)))
    except SceneNotFoundError:
        return False


def _naming(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionError(f"pattern {pattern!r}", f"is no regular expression ({error})", "see docs/batch.md") from error
    if "place" not in compiled.groupindex:
        raise OptionError(f"pattern {pattern!r}", "has no group (?P<place>...)", "see docs/batch.md")
    return compiled


def _described(scene: str, names: re.Pattern[str] | None) -> SceneEntry:
    stem = stem_of(scene)
    place, date = place_in(stem), date_in(stem)
    if names is not None:
        match = names.search(stem)
        if match is None:
            return SceneEntry(scene, "", None, problem="its name does not match the pattern")
        place = match["place"] or ""
        date = _date_of_group(match) if "date" in names.groupindex else date
    try:
        source = open_scene(scene)
    except InputError as error:
        return SceneEntry(scene, place, date, problem=str(error))
    try:
        with environment():
            grid = checked_grid(source)
            tags = _tags(source)
            told = date if names is not None and date is not None else date_of(stem, tags)
            return SceneEntry(scene, place, told, footprint_of(grid), grid.shape)
    except (InputError, ValueError) as error:
        return SceneEntry(scene, place, date, problem=str(error))
    finally:
        source.close()


def _date_of_group(match: re.Match[str]) -> SceneDate | None:
    text = match["date"] or ""
    try:
        return date_in(text) or iso_date(text, "name")
    except ValueError:
        return None


def _tags(source: Scene) -> dict[tuple[str, str], str]:
    if not source.tiles:
        return _tags_of(source.handle())
    with rasterio.open(source.tiles[0]) as first:
        return _tags_of(first)


def _tags_of(dataset: DatasetReader) -> dict[tuple[str, str], str]:
    values = {(ns, key): (dataset.tags(ns=ns) if ns else dataset.tags()).get(key) for ns, key in (*TAGS, *FILE_TAGS)}
    return {place: value for place, value in values.items() if value}
