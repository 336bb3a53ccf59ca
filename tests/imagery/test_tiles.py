"""Tiles as one scene, against the scene they were cut from."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from geosiam.errors import SceneNotFoundError, SceneRefusedError, SceneUnreadableError
from geosiam.imagery.grid import Window
from geosiam.imagery.options import PairOptions
from geosiam.imagery.pair import PairBlock
from geosiam.imagery.prepare import open_pair
from geosiam.imagery.scene_info import fingerprint
from geosiam.network.weights import load_model
from geosiam_cli.main import main

UTM = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
PALETTE = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 200, 0, 255)}
KINDS = ["bytes", "nodata", "alpha", "mask", "palette", "measured", "integers"]
Write = Callable[..., Path]


def scene_of(kind: str, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, dict[str, object]]:
    """Return pixels, mask and how they are written."""
    hole = (slice(30, 60), slice(40, 90))
    mask = np.ones(image.shape[1:], bool)
    mask[hole] = False
    if kind == "alpha":
        return np.concatenate([image, 255 * mask[None].astype(np.uint8)]), None, {"colors": RGBA}
    if kind == "mask":
        return image, mask, {}
    if kind == "palette":
        return image[:1] % 3, None, {"photometric": "palette"}
    if kind == "measured":
        return np.where(mask, image, np.nan).astype(np.float32), None, {}
    if kind in ("nodata", "integers"):
        dtype = np.uint8 if kind == "nodata" else np.int32
        return np.where(mask, image, 0).astype(dtype), None, {"nodata": 0}
    return image, None, {}


def cut(write: Write, folder: str, kind: str, image: np.ndarray, windows: list[Window]) -> Path:
    pixels, mask, options = scene_of(kind, image)
    for window in windows:
        rows, cols = window.slices
        place = UTM @ Affine.translation(window.col_start, window.row_start)
        own = {} if mask is None else {"mask": mask[rows, cols]}
        path = Path(folder) / f"{window.row_start}-{window.col_start}.tif"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            made = write(str(path), pixels[:, rows, cols], transform=place, **own, **options)
        if kind == "palette":
            with rasterio.open(made, "r+") as file:
                file.write_colormap(1, PALETTE)
    return made.parent


@pytest.fixture
def folders(tmp_path: Path) -> None:
    for name in ("whole", "tiles", "after"):
        (tmp_path / name).mkdir()


def everything(before: object, after: object) -> PairBlock:
    with open_pair(before, after, options=PairOptions(radiometry="none")) as pair:
        return pair.read(Window(0, pair.grid.height, 0, pair.grid.width))


WHOLE = [Window(0, 120, 0, 150)]
QUARTERS = [Window(r, r + 60, c, c + 75) for r in (0, 60) for c in (0, 75)]
OVERLAPPING = [Window(0, 70, 0, 90), Window(50, 120, 0, 80), Window(0, 80, 70, 150), Window(60, 120, 60, 150)]


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("moved", [0.0, 0.4])
@pytest.mark.parametrize("windows", [QUARTERS, OVERLAPPING], ids=["quarters", "overlapping"])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_read_as_the_whole(kind: str, windows, moved: float, write, texture) -> None:
    image = texture()
    whole, tiles = cut(write, "whole", kind, image, WHOLE), cut(write, "tiles", kind, image, windows)
    before = write("before.tif", texture(seed=1), transform=UTM @ Affine.translation(moved, moved))
    expected, found = everything(before, whole / "0-0.tif"), everything(before, tiles)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.after, expected.after, atol=1e-6)
    assert 0.5 < found.valid.mean() <= 1
    assert (found.valid.mean() == 1) == (kind in ("bytes", "palette"))


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize("kind", KINDS)
def test_what_no_tile_covers_is_not_valid(kind: str, write, texture) -> None:
    tiles = cut(write, "tiles", kind, texture(), [QUARTERS[0], QUARTERS[3]])
    valid = everything(write("before.tif", texture()), tiles).valid
    assert not valid[:60, 75:].any()
    assert not valid[60:, :75].any()
    assert valid[61:, 91:].all()


@pytest.mark.usefixtures("folders")
def test_what_one_tile_does_not_know_another_one_does(write, texture) -> None:
    image = texture().clip(1, 255)
    for name, shown in (("1", slice(0, 80)), ("2", slice(40, 150))):
        part = np.zeros_like(image)
        part[:, :, shown] = image[:, :, shown]
        for kind, options in {"nodata": {"nodata": 0}, "mask": {"mask": part[0] > 0}}.items():
            (write("x.tif", part).parent / kind).mkdir(exist_ok=True)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                folder = write(f"{kind}/{name}.tif", part, **options).parent.parent
    before = write("before.tif", image)
    for kind in ("nodata", "mask"):
        block = everything(before, folder / kind)
        assert block.valid.all()
        np.testing.assert_array_equal(block.before, block.after)


@pytest.mark.usefixtures("folders")
def test_folders_patterns_and_both_scenes(write, texture) -> None:
    tiles = cut(write, "tiles", "bytes", texture(), QUARTERS)
    (tiles / "notes.txt").write_text("no raster")
    (tiles / ".hidden.tif").write_text("half a file")
    with open_pair(str(tiles), f"{tiles}/*-*.tif") as pair, pickle.loads(pickle.dumps(pair)) as copy:
        assert pair.grid.shape == (120, 150)
        assert pair.grid.transform.almost_equals(UTM)
        block, other = pair.read(WHOLE[0]), copy.read(WHOLE[0])
        report = pair.report
    np.testing.assert_array_equal(block.before, other.before)
    np.testing.assert_allclose(block.before, texture() / 255, atol=1e-6)
    assert report.after.tiles == ("0-0.tif", "0-75.tif", "60-0.tif", "60-75.tif")
    assert report.before.name == str(tiles)
    assert report.before.fingerprint == report.after.fingerprint == fingerprint(tiles) != ""


@pytest.mark.usefixtures("folders")
def test_the_fingerprint_covers_every_tile(write, texture) -> None:
    tiles = cut(write, "tiles", "bytes", texture(), QUARTERS)
    first = fingerprint(tiles)
    cut(write, "tiles", "bytes", texture(seed=9), QUARTERS[2:3])
    second = fingerprint(tiles)
    (tiles / "60-75.tif").unlink()
    assert len({first, second, fingerprint(tiles)}) == 3


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"crs": "EPSG:32634"}, "differs from 0-0.tif in its coordinate system"),
        ({"transform": UTM @ Affine.translation(75, 0) @ Affine.scale(2)}, "differs in its pixel size from 0-0.tif"),
        ({"transform": UTM @ Affine.translation(75.5, 0)}, "lies between the pixels of 0-0.tif"),
        ({"transform": UTM @ Affine.translation(75, 0) @ Affine.rotation(5)}, "lies between the pixels of 0-0.tif"),
        ({"nodata": 0}, r"differs from 0-0.tif in its nodata \(0.0 and None\)"),
        ({"dtype": "uint16"}, r"differs from 0-0.tif in its types \(uint16 and uint8\)"),
        ({"count": 1}, r"has 1 bands, 0-0\.tif has 3"),
        ({"crs": None}, "has no coordinate reference system"),
        ({"transform": UTM @ Affine.translation(1e10, 0)}, "span 60 x 1"),
    ],
)
def test_a_tile_that_differs_is_named(options, fact: str, write, texture) -> None:
    tiles = cut(write, "tiles", "bytes", texture(), QUARTERS[:1])
    image = texture(bands=options.pop("count", 3), height=60, width=75).astype(options.pop("dtype", "uint8"))
    write("tiles/odd.tif", image, **({"transform": UTM @ Affine.translation(75, 0)} | options))
    with pytest.raises(SceneRefusedError, match=f"(odd|0-0).tif: .*{fact}.*; ") as caught:
        open_pair(tiles, tiles)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("folders")
def test_tiles_that_are_not_there_or_do_not_open(write, texture, tmp_path) -> None:
    good = write("good.tif", texture())
    for scene, fact in ((tmp_path / "tiles", "is a folder without rasters"), (f"{tmp_path}/*.jp2", "matches no file")):
        with pytest.raises(SceneNotFoundError, match=fact):
            open_pair(good, scene)
    (tmp_path / "tiles" / "a.tif").write_bytes(b"no raster")
    with pytest.raises(SceneUnreadableError, match=r"tiles/a\.tif"):
        open_pair(good, tmp_path / "tiles")


def test_a_name_with_brackets_is_a_file_if_there_is_one(write, texture) -> None:
    path = write("a[1].tif", texture())
    with open_pair(path, path) as pair:
        assert pair.report.before.tiles == ()


@pytest.mark.usefixtures("folders")
def test_no_tile_is_written_over(write, texture, capsys) -> None:
    tiles = cut(write, "tiles", "bytes", texture(), QUARTERS)
    content = (tiles / "0-0.tif").read_bytes()
    assert main(["detect", str(tiles), str(tiles), "-o", str(tiles / "0-0.gpkg")]) == 3
    assert "is an input too" in capsys.readouterr().err
    assert (tiles / "0-0.tif").read_bytes() == content


@pytest.mark.usefixtures("folders")
def test_many_tiles(write, texture) -> None:
    image = texture(bands=1, height=400, width=400)
    windows = [Window(r, r + 20, c, c + 20) for r in range(0, 400, 20) for c in range(0, 400, 20)]
    tiles = cut(write, "tiles", "bytes", image, windows)
    with open_pair(tiles, tiles) as pair:
        block = pair.read(Window(0, 400, 0, 400))
    np.testing.assert_allclose(block.before[0], image[0] / 255, atol=1e-6)


@pytest.mark.data
def test_real_tiles_of_two_systems(data_dir: Path, tmp_path: Path, capsys) -> None:
    joplin = data_dir / "scenes" / "joplin"
    found = tmp_path / "out.gpkg"
    assert main(["detect", str(joplin / "pre" / "*.tif"), str(joplin / "post"), "-o", str(found)]) == 0
    capsys.readouterr()
    with rasterio.open(found.with_suffix(".tif")) as scores, rasterio.open(joplin / "pre" / "tile_337-9136.tif") as pre:
        assert (scores.crs, scores.bounds.left, scores.bounds.top) == (pre.crs, pre.bounds.left, pre.bounds.top)
        assert scores.height * load_model().card.stride == 2048
        assert 0.4 < (scores.read_masks(1) > 0).mean() < 0.6
