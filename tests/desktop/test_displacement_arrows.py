"""What QGIS itself makes of a displacement in a project: arrows in the right place and direction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from geosiam.imagery.displacement import DisplacementField
from geosiam.imagery.prepare import open_pair
from geosiam.options import PolygonOptions
from geosiam.pipeline import detect, vectorize
from geosiam.polygons.geopackage import displacement_points
from geosiam.polygons.writer import write_polygons
from geosiam.qgis.project import write_project
from geosiam.qml import ARROW_COLORS

if TYPE_CHECKING:
    from pathlib import Path

SIDE, SPACING = 480, 120
NOTHING = [0, 0, 0, 0]


def write(path: Path, transform: Affine) -> Path:
    pixels = np.random.default_rng(3).integers(20, 230, (3, SIDE, SIDE), dtype=np.uint8)
    size = {"count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    crs = CRS.from_epsg(32633)
    with rasterio.open(path, "w", driver="GTiff", photometric="RGB", crs=crs, transform=transform, **size) as file:
        file.write(pixels)
    return path


def project(folder: Path, transform: Affine, right: float, down: float) -> Path:
    """Write the project of a run whose scenes lie apart by the same everywhere, at 4 x 4 nodes."""
    scene = write(folder / "scene.tif", transform)
    detect(scene, scene, folder / "r.gpkg")
    nodes = np.ones((SIDE // SPACING, SIDE // SPACING), np.float32)
    values = np.stack([down * nodes, right * nodes])
    with open_pair(scene, scene) as pair:
        apart = replace(pair, displacement=DisplacementField(SPACING, (0, 0), values, nodes, values))
        points = displacement_points(apart)
        polygons = vectorize(folder / "r.tif", options=PolygonOptions(threshold=0.5))
        write_polygons(polygons, folder / "r.gpkg", provenance={"threshold": 0.5}, displacement=points)
        files = {"scores": folder / "r.tif", "polygons": folder / "r.gpkg"}
        write_project(folder / "r.qgz", before=scene, after=scene, **files, threshold=0.5, report=pair.report)
    return folder / "r.qgz"


@pytest.mark.qgis
@pytest.mark.parametrize("turn", [0, 90])
def test_arrows_point_to_where_the_after_scene_shows_the_ground(turn: int, qgis, tmp_path: Path) -> None:
    """Each of 4 x 4 arrows is as long as the distance between two: 3 px right, 4 px down, so 72 and 96 of 120 px."""
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000) @ Affine.rotation(turn)
    target = project(tmp_path, transform, 3.0, 4.0)
    tail = np.array([1.5 * SPACING, 1.5 * SPACING])
    on = [tail + share * np.array([72, 96]) for share in (0.1, 0.4, 0.7)]
    off = [tail - share * np.array([72, 96]) * [1, -1] for share in (0.1, 0.4)] + [tail + np.array([72, -96]) / 3]
    asked = {"layers": ["displacement"], "width": SIDE, "height": SIDE}
    points = [transform @ tuple(point) for point in (*on, *off)]
    (seen,) = qgis.look({"project": str(target), "pictures": [{**asked, "points": points}]})
    assert (seen["opened"], seen["error"], seen["messages"]) == (True, "", [])
    layers = {layer["name"]: layer for layer in seen["layers"]}
    arrows = layers["displacement"]
    assert (arrows["valid"], arrows["features"], arrows["crs"]) == (True, 16, "EPSG:32633")
    assert (arrows["renderer"], arrows["attribute"], arrows["classes"]) == (
        "graduatedSymbol",
        "length_px",
        len(ARROW_COLORS),
    )
    names = list(layers)
    assert names.index("anomalies") < names.index("displacement") < names.index("anomaly scores")
    assert all("displacement" not in shown for shown in seen["themes"].values())
    (colors,) = seen["colors"]
    assert all(color[3] == 255 for color in colors[:3])
    assert colors[3:] == [NOTHING] * 3


@pytest.mark.qgis
def test_arrows_are_colored_by_length(qgis, tmp_path: Path) -> None:
    """5 px: the class from 4 to 8 px, in the middle of the arrow's head, which is wider than its white outline."""
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)
    target = project(tmp_path, transform, 5.0, 0.0)
    row = 1.5 * SPACING
    points = [transform @ (1.5 * SPACING + SPACING - 1 - step, row + 0.5) for step in range(8)]
    asked = {"layers": ["displacement"], "width": SIDE, "height": SIDE, "points": points}
    (seen,) = qgis.look({"project": str(target), "pictures": [asked]})
    expected = [*bytes.fromhex(ARROW_COLORS[4][1:]), 255]
    assert expected in seen["colors"][0]
