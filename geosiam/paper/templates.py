"""Templates: parts of real scenes that no training has used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine

from geosiam.errors import InputError, TrainingDataError
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.prepare import open_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from geosiam.paper.workbench import Workbench

HEIGHT, WIDTH = 720, 1260  # of the paper's templates
_MIN_SIDE = 600  # a smaller scene has no room for 100 objects
_FIGURE_FOLDERS = ("aerial", "naip", "drone")


@dataclass(frozen=True)
class Template:
    """A part of a scene.

    Parameters
    ----------
    name
        Folder and file name of the scene.
    image
        uint8 (3, rows, cols).
    crs, transform
        Georeference of the image.
    """

    name: str
    image: NDArray[np.uint8]
    crs: CRS
    transform: Affine

    def write(self, path: Path, image: NDArray[np.uint8] | None = None) -> Path:
        """Write the template, or another image with its georeference, as a GeoTIFF."""
        pixels = self.image if image is None else image
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "rgb"}
        size = {"height": pixels.shape[1], "width": pixels.shape[2]}
        with rasterio.open(path, "w", crs=self.crs, transform=self.transform, **profile, **size) as file:
            file.write(pixels)
        return path

    @property
    def checksum(self) -> str:
        """Checksum of the pixels."""
        return hashlib.sha256(self.image.tobytes()).hexdigest()


def figure_files(bench: Workbench) -> list[Path]:
    """Return the scenes given by the user, or else those in the folders aerial, naip and drone."""
    return [Path(scene) for scene in bench.options.scenes] or scene_files(bench, *_FIGURE_FOLDERS)


def figure_templates(bench: Workbench) -> list[Template]:
    """Return the middle 1260 x 720 px, or less of a smaller scene, of the scenes of figure 6.

    Raises
    ------
    TrainingDataError
        There are no such scenes.
    """
    templates = [template for file in figure_files(bench) if (template := middle(file)) is not None]
    if not templates:
        fact = f"holds no scenes of {_MIN_SIDE} px or more in folders {', '.join(_FIGURE_FOLDERS)}"
        raise TrainingDataError(bench.options.data, fact, "name some with `scenes`")
    return templates


def scene_files(bench: Workbench, *folders: str) -> list[Path]:
    """Return the GeoTIFFs in folders of these names at any depth of the data."""
    return [
        file
        for name in folders
        for folder in sorted(bench.options.data.rglob(name))
        if folder.is_dir()
        for file in sorted(folder.rglob("*.tif"))
    ]


def middle(path: Path) -> Template | None:
    """Return the middle part of a scene; None if the scene is too small for 100 objects."""
    with rasterio.open(path) as scene:
        height, width = scene.shape
    rows, cols = min(HEIGHT, height), min(WIDTH, width)
    if min(rows, cols) < _MIN_SIDE:
        return None
    return cut(path, _window((height - rows) // 2, (width - cols) // 2, rows, cols))


def squares(path: Path, side: int, max_count: int) -> list[Template]:
    """Cut squares out of a scene, spread over it; none if the scene is too small or is refused."""
    with rasterio.open(path) as scene:
        height, width = scene.shape
    corners = [(row, col) for row in range(0, height - side + 1, side) for col in range(0, width - side + 1, side)]
    selected = corners[:: max(1, -(-len(corners) // max_count))]
    try:
        templates = [cut(path, _window(row, col, side, side)) for row, col in selected]
    except InputError:
        return []
    return [template for template in templates if (template.image.max(axis=0) > 0).mean() > 0.99]  # noqa: PLR2004 - nodata


def cut(path: Path, window: Window) -> Template:
    """Return a window of a scene as the network sees it, with its choice of bands and stretch."""
    with open_pair(path, path, options=PairOptions(radiometry="none")) as pair:
        image = (pair.read(window).before * 255).round().astype(np.uint8)
        transform = pair.grid.transform * Affine.translation(window.col_start, window.row_start)
        return Template(f"{path.parent.name}/{path.stem}", image, pair.grid.crs, transform)


def _window(row: int, col: int, rows: int, cols: int) -> Window:
    return Window(row, row + rows, col, col + cols)
