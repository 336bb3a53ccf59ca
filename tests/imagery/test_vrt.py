"""GDAL's names of scenes, against those that rasterio opens them by."""

import tarfile
import zipfile

import pytest
import rasterio

from geosiam.imagery.vrt import gdal_name


def test_names_of_files_and_archives_are_those_that_rasterio_uses(server: str, write, texture, tmp_path) -> None:
    path = write("a.tif", texture())
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(path, "inside/a.tif")
    with tarfile.open(tmp_path / "scenes.tar", "w") as archive:
        archive.add(path, "a.tif")
    names = [
        str(path),
        f"file://{path}",
        f"zip://{tmp_path}/scenes.zip!inside/a.tif",
        f"zip://{tmp_path}/scenes.zip!/inside/a.tif",
        f"zip+file://{tmp_path}/scenes.zip!inside/a.tif",
        f"tar://{tmp_path}/scenes.tar!a.tif",
        f"/vsizip/{tmp_path}/scenes.zip/inside/a.tif",
        f"{server}/a.tif",
        f"{server.replace('http', 'HTTP')}/a.tif",
        f"/vsicurl/{server}/a.tif",
    ]
    for name in names:
        with rasterio.open(name) as dataset:
            assert gdal_name(name) == dataset.files[0], name
        with rasterio.open(gdal_name(name)) as dataset:
            assert dataset.shape == (120, 150)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s3://bucket/a.tif", "/vsis3/bucket/a.tif"),
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("az://container/a.tif", "/vsiaz/container/a.tif"),
        ("https://host:8080/a.tif?token=1&x=2#part", "/vsicurl/https://host:8080/a.tif?token=1&x=2"),
        ("zip+https://host/b.zip!a.tif", "/vsizip/vsicurl/https://host/b.zip/a.tif"),
        ("zip+s3://bucket/b.zip!a.tif", "/vsizip/vsis3/bucket/b.zip/a.tif"),
        ("GTIFF_DIR:1:a.tif", "GTIFF_DIR:1:a.tif"),
        ("vrt://a.tif?bands=1", "vrt://a.tif?bands=1"),
        ('NETCDF:"a.nc":band', 'NETCDF:"a.nc":band'),
        ("C:/scenes/a.tif", "C:/scenes/a.tif"),
        ("a#1.tif", "a#1.tif"),
    ],
)
def test_other_names(name: str, expected: str) -> None:
    assert gdal_name(name) == expected
