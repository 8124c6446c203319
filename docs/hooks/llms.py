"""MkDocs hook: `llms.txt`, the pages of the site for a language model, and the Markdown of each page.

The format is that of llmstxt.org: a title, a summary, and by section the pages, each with its first sentence. Records
stand under "Optional". The Markdown of a page stands beside its HTML as `index.md`, with code and formulas put in.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DRAWN = re.compile(r"^::picture$|^!\[[^\]]*\]\(figure:[^)]*\)$|</?div[^>]*>", re.MULTILINE)
INCLUDED = "--8<--"
NO_PROSE = tuple("#!|<`:$")
FIRST = re.compile(r".*?[.?](?=\s|$)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")

_nav: list[Any] = []
"""The navigation, once it is known."""
_pages: dict[str, str] = {}
"""The Markdown of each page."""


def on_nav(nav: Any, config: Any, files: Any) -> None:
    """Keep the navigation: its sections are those of the file."""
    _nav[:] = [nav]
    _pages.clear()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> None:
    """Keep what stands on a page, code and formulas included, drawings not."""
    _pages[page.file.src_uri] = DRAWN.sub("", markdown)


def on_post_build(config: Any) -> None:
    """Write the file, and the Markdown of the pages."""
    site, (nav,) = Path(config.site_dir), _nav
    for page in nav.pages:
        if _has_text(page):
            (site / _address(page)).write_text(_pages[page.file.src_uri].strip() + "\n")
    sections = {"Start": [item for item in nav.items if item.is_page]}
    for item in nav.items:
        if item.is_section:
            inside = [page for page in nav.pages if item in page.ancestors]
            sections[item.title] = [page for page in inside if not _is_record(page)]
    sections["Optional"] = [page for page in nav.pages if _is_record(page)]
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for title, pages in sections.items():
        lines += ["", f"## {title}", "", *map(_line, pages)]
    (site / "llms.txt").write_text("\n".join(lines) + "\n")


def _line(page: Any) -> str:
    said = first_sentence(_pages[page.file.src_uri]) if _has_text(page) else ""
    return f"- [{page.title}]({_address(page)})" + (f": {said}" if said else "")


def _is_record(page: Any) -> bool:
    return bool(page.file.src_uri.startswith("records/"))


def _has_text(page: Any) -> bool:
    """Whether the Markdown of a page holds its text; where it includes another file, only its HTML does."""
    return INCLUDED not in _pages[page.file.src_uri]


def _address(page: Any) -> str:
    return f"{page.url.removesuffix('/') or '.'}/index.{'md' if _has_text(page) else 'html'}".removeprefix("./")


def first_sentence(markdown: str) -> str:
    """The first sentence of running text or of a list, without its links."""
    lines: list[str] = []
    for line in map(str.strip, markdown.splitlines()):
        if lines and (not line or line.startswith("- ")):
            break
        if line and not line.startswith(NO_PROSE):
            lines.append(line.removeprefix("- "))
    text = LINK.sub(r"\1", " ".join(lines))
    sentence = FIRST.match(text)
    return sentence[0] if sentence else text
