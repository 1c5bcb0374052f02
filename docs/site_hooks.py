"""MkDocs hooks: pages of the repository's top folder become pages of the site, and links to them follow.

On the forge, `docs/x.md` links to `../SECURITY.md`, and README.md to `docs/x.md`. On the site all pages
lie in one folder, README.md is `start.md`, and a link to any other file is shown without its target.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Page of the top folder -> its name on the site
TOP = {
    "README.md": "start.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top folder."""
    for name, page in TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Rewrite the links of a page from the repository's folders to those of the site."""
    folder = ROOT if page.file.src_uri in TOP.values() else ROOT / "docs"

    def link(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        path = (folder / target).resolve()
        if path.parent == ROOT and path.name in TOP:
            return f"{mark}[{text}]({TOP[path.name]}{anchor or ''})"
        if path.is_relative_to(ROOT / "docs"):
            return f"{mark}[{text}]({path.relative_to(ROOT / 'docs').as_posix()}{anchor or ''})"
        return text

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)
