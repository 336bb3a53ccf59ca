"""Build the plugin's zip, which QGIS installs with Plugins > Manage and Install Plugins > Install from ZIP.

Usage: python examples/qgis_plugin/build.py [FOLDER]. The same sources always give the same bytes.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = "geosiam_processing"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
KINDS = {".py", ".txt", ".svg"}


def build(folder: Path) -> Path:
    """Write ``geosiam_processing.zip`` into a folder, which is created if necessary; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PACKAGE}.zip"
    sources = sorted(path for path in (HERE / PACKAGE).rglob("*") if path.suffix in KINDS)
    files = {path.relative_to(HERE).as_posix(): path for path in sources}
    files[f"{PACKAGE}/LICENSE"] = HERE.parents[1] / "LICENSE"
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, wherever it is built
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
