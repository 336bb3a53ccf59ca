"""The bundle in the package is made of the sources in web/, and of nothing that may not be passed on."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEB, BUNDLE = ROOT / "web", ROOT / "geosiam" / "report" / "bundle"
MANIFEST = json.loads((BUNDLE / "manifest.json").read_text(encoding="utf-8"))


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_the_bundle_is_of_these_sources():
    sources = {path.relative_to(WEB).as_posix() for path in (WEB / "src").rglob("*") if path.is_file()}
    named = {"build.mjs", "package.json", "package-lock.json", "tsconfig.json"}
    assert set(MANIFEST["sources"]) == sources | named, "run make page"
    assert digests(WEB, list(MANIFEST["sources"])) == MANIFEST["sources"], "run make page"
    assert digests(BUNDLE, list(MANIFEST["bundle"])) == MANIFEST["bundle"], "run make page"
    assert {path.name for path in BUNDLE.iterdir()} == {*MANIFEST["bundle"], "manifest.json"}


def test_every_work_inside_is_named_with_a_license_that_allows_it():
    text = (BUNDLE / "THIRD_PARTY.txt").read_text(encoding="utf-8")
    named = dict(re.findall(r"^(\S+) [\d.]+ \((\S+)\)$", text, re.MULTILINE))
    direct = json.loads((WEB / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert set(direct) <= set(named)
    assert set(named.values()) <= {"MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Apache-2.0"}
    assert text.count("Copyright") >= len(named)


def test_the_lock_file_names_no_host():
    assert "://" not in re.sub(r'"url": "[^"]*"', "", (WEB / "package-lock.json").read_text(encoding="utf-8"))


def test_nothing_in_the_bundle_asks_for_anything():
    style = (BUNDLE / "page.css").read_text(encoding="utf-8")
    assert "@import" not in style
    assert "url(" not in style


@pytest.mark.slow
def test_building_again_gives_the_same_bundle(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not here")
    if not (WEB / "node_modules" / "esbuild").is_dir():
        pytest.skip("the web packages are not installed: npm install --prefix web --no-save")
    subprocess.run(["node", str(WEB / "build.mjs"), str(tmp_path)], check=True)
    assert digests(tmp_path, list(MANIFEST["bundle"])) == MANIFEST["bundle"]
    subprocess.run(["npm", "run", "--silent", "check"], cwd=WEB, check=True)
