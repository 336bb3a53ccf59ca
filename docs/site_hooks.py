"""What MkDocs does not do by itself: documents that stand outside of docs/, and links between all of them.

The documents are written to be read as files in the repository, where ``../benchmarks/RESULTS.md`` is a link. Here
such files become pages of the site, links to them are turned, and links to anything else outside of docs/ become text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = ("CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "benchmarks/*.md", "examples/**/*.md")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):<code>~?(?:[\w.]*\.)?(\w+)</code>")
_UNSET = re.compile(r"<code>Sentinel\.UNSET</code>")  # click's word for an option without a default
_HOME = {"README.md": "readme.md"}  # a README would become the index of its folder


def outside() -> list[str]:
    """Return the documents that stand outside of docs/, as paths in the repository."""
    found = [path for pattern in OUTSIDE for path in ROOT.glob(pattern)]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def place_of(path: str) -> str:
    """Return where a document of the repository lies on the site."""
    folder, name = posixpath.split(path)
    if folder == "docs" or folder.startswith("docs/"):
        return path.removeprefix("docs/")
    return posixpath.join(folder, _HOME.get(name, name))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents outside of docs/, and the pictures that they show."""
    for path in outside():
        files.append(File.generated(config, place_of(path), content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links that leave docs/ to where the documents lie on the site."""
    home = page.file.src_uri
    in_repository = {place_of(path): path for path in outside()}.get(home, f"docs/{home}")
    known = {file.src_uri for file in files}

    def turned(match: re.Match[str]) -> str:
        picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), target))
        place = place_of(path)
        if place not in known:
            return text if not picture else f"`{path}`"
        return f"{picture}[{text}]({posixpath.relpath(place, posixpath.dirname(home) or '.')}{anchor})"

    return _LINK.sub(turned, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Show names in docstrings without their Sphinx roles, and nothing where an option has no default."""
    return _UNSET.sub("", _ROLE.sub(r"<code>\1</code>", html))
