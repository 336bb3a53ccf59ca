"""Scenes before they are paired: footprint, date and place, from headers and file names only."""

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

from geosiam.batch.dates import ACQUISITION_TAGS, FILE_TAGS, SceneDate, date_in, date_of, iso_date, place_in
from geosiam.errors import InputError, OptionError, SceneNotFoundError
from geosiam.files import file_name, is_folder
from geosiam.imagery.grid import apply_affine
from geosiam.imagery.mosaic import find_tiles
from geosiam.imagery.open_scene import open_scene
from geosiam.imagery.scene import Scene, checked_grid, environment

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from rasterio.io import DatasetReader

    from geosiam.imagery.grid import Grid

_OPEN_THREADS = 8
_SUFFIXES = frozenset({".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg", ".webp", ".asc"})
_POINTS_PER_SIDE = 8  # of a footprint, whose sides are curves in another coordinate system


@dataclass(frozen=True)
class SceneEntry:
    """A scene that may become half of a pair.

    Parameters
    ----------
    scene
        Absolute path, or URL.
    place
        Place in its name; empty if the name has none.
    date
        Date of acquisition; None if unknown.
    footprint
        Outline in longitude and latitude (WGS 84); None if unknown.
    shape
        (height, width) in pixels; None if it cannot be opened.
    problem
        Why it cannot be opened.
    label
        Text from which the pair's name may be made; empty: its file name without folder and suffix.
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
        """Text from which the pair's name may be made."""
        return self.label or stem_of(self.scene)


def scenes_in(folder: str | os.PathLike[str], pattern: str | None = None) -> list[SceneEntry]:
    """Return the scenes in a folder, which are its rasters and its folders of tiles, in the order of their names.

    Parameters
    ----------
    folder
        Path of the folder.
    pattern
        Regular expression that file names match, with a group ``place`` and optionally a group ``date``; None: the
        place is the name without its date.

    Raises
    ------
    SceneNotFoundError
        The folder does not exist or has no scenes.
    OptionError
        The pattern is not a regular expression, or lacks the group.
    """
    root = Path(folder).absolute()
    if not is_folder(root):
        raise SceneNotFoundError(folder, "is not a folder", "give a folder of scenes, or a manifest")
    try:
        scenes = list(find_tiles(str(root)) or [])
    except SceneNotFoundError:
        scenes = []
    scenes += [str(path) for path in sorted(root.iterdir()) if _is_tile_folder(path)]
    if not scenes:
        raise SceneNotFoundError(folder, "holds no rasters", "give a folder of scenes, or a manifest")
    return inspect_scenes(sorted(scenes), pattern)


def inspect_scenes(scenes: Iterable[str], pattern: str | None = None) -> list[SceneEntry]:
    """Read the headers of scenes, several at once.

    Parameters
    ----------
    scenes
        Absolute paths, or URLs.
    pattern
        As in :func:`scenes_in`.
    """
    compiled = _compile(pattern)
    with ThreadPoolExecutor(_OPEN_THREADS, "geosiam-scenes") as pool:
        return list(pool.map(lambda scene: _inspect(scene, compiled), scenes))


def shapes_of(scenes: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return (height, width) of scenes in pixels; None for those that cannot be opened, whose pairs will fail."""
    with ThreadPoolExecutor(_OPEN_THREADS, "geosiam-scenes") as pool:
        return list(pool.map(_shape, scenes))


def stem_of(scene: str) -> str:
    """Return the file name of a scene without folder and suffix; for a pattern of tiles, the name of its folder."""
    path = Path(file_name(scene) if "://" in scene or scene.startswith("/vsi") else scene)
    if any(sign in path.name for sign in "*?["):
        path = path.parent
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def place_and_date(scene: str) -> tuple[str, SceneDate | None]:
    """Return the place and the date in the file name of a scene, without opening it."""
    stem = stem_of(scene)
    return place_in(stem), date_in(stem)


def overlap_fraction(first: SceneEntry, second: SceneEntry) -> float:
    """Return the fraction of the smaller footprint that both scenes cover, 0 to 1; 0 if a footprint is unknown.

    Longitudes of the two may differ by 360 degrees.
    """
    if first.footprint is None or second.footprint is None:
        return 0.0
    smaller = min(first.footprint.area, second.footprint.area)
    common = max(first.footprint.intersection(translate(second.footprint, turn)).area for turn in (-360, 0, 360))
    return float(common / smaller) if smaller > 0 else 0.0


def footprint_of(grid: Grid) -> shapely.Polygon | None:
    """Return the outline of a grid in WGS 84; across the antimeridian, longitudes continue beyond 180.

    None if it has no coordinates in WGS 84: on another planet, or outside the domain of its coordinate system.
    """
    t = np.linspace(0, 1, _POINTS_PER_SIDE, endpoint=False)
    zeros, ones = np.zeros(_POINTS_PER_SIDE), np.ones(_POINTS_PER_SIDE)
    cols = np.concatenate([t, ones, 1 - t, zeros]) * grid.width
    rows = np.concatenate([zeros, t, ones, 1 - t]) * grid.height
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


def _is_tile_folder(path: Path) -> bool:
    if not path.is_dir() or path.name.startswith("."):
        return False
    try:
        return bool(find_tiles(str(path)))
    except SceneNotFoundError:
        return False


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        fact = f"is not a regular expression ({error})"
        raise OptionError(f"`pattern` {pattern!r}", fact, "see docs/batch.md") from error
    if "place" not in compiled.groupindex:
        raise OptionError(f"`pattern` {pattern!r}", "has no group (?P<place>...)", "see docs/batch.md")
    return compiled


def _shape(scene: str) -> tuple[int, int] | None:
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


def _inspect(scene: str, pattern: re.Pattern[str] | None) -> SceneEntry:
    stem = stem_of(scene)
    place, date_in_name = place_in(stem), date_in(stem)
    date_is_given = False  # by the pattern, which takes precedence over tags
    if pattern is not None:
        match = pattern.search(stem)
        if match is None:
            return SceneEntry(scene, "", None, problem="its name does not match the pattern")
        place = match["place"] or ""
        date_in_name = _date_of_group(match) if "date" in pattern.groupindex else date_in_name
        date_is_given = date_in_name is not None
    try:
        source = open_scene(scene)
    except InputError as error:
        return SceneEntry(scene, place, date_in_name, problem=str(error))
    try:
        with environment():
            grid = checked_grid(source)
            tags = _tags(source)
            date = date_in_name if date_is_given else date_of(stem, tags)
            return SceneEntry(scene, place, date, footprint_of(grid), grid.shape)
    except (InputError, ValueError) as error:
        return SceneEntry(scene, place, date_in_name, problem=str(error))
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
        return _date_tags(source.handle())
    with rasterio.open(source.tiles[0]) as first:
        return _date_tags(first)


def _date_tags(dataset: DatasetReader) -> dict[tuple[str, str], str]:
    keys = (*ACQUISITION_TAGS, *FILE_TAGS)
    values = {(ns, key): (dataset.tags(ns=ns) if ns else dataset.tags()).get(key) for ns, key in keys}
    return {key: value for key, value in values.items() if value}
