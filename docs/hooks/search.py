"""MkDocs hook: what the site's search finds, and in which order.

Text is searched as it is read: a formula inside a sentence counts once, as its characters, and displayed formulas,
their badges and drawings do not count. Topics come before records. The names on the page of other names are tags of the
page or section that they lead to.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import CombinedEvent, event_priority

BOOSTS = {"topics/softmax/": 3.0, "topics/": 2.0, "faq/": 0.3, "records/": 0.1, "changelog/": 0.1, "contributing/": 0.5}
"""How much what stands below an address counts, the first that fits; 1 for all others. Many names contain "softmax"."""
VOID = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
NAMES = "aliases.md"
ROW = re.compile(r"^\| (.+?) \| .*?\]\(([^)#]+)(#[^)]+)?\)", re.MULTILINE)
"""Names, and the page and perhaps the section that they lead to."""

_contents: dict[str, str] = {}
_names: dict[str, list[str]] = {}


class Searchable(HTMLParser):
    """The HTML of a page without what is not searched."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=False)
        self._kept: list[str] = []
        self._inside = 0  # how many open elements belong to one that is left out
        self.feed(content)
        self.close()

    def __str__(self) -> str:
        return "".join(self._kept)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep a tag, or leave out its element."""
        if tag in VOID:
            self.handle_startendtag(tag, attributes)
        elif self._inside or _left_out(tag, dict(attributes)):
            self._inside += 1
        else:
            self._kept.append(self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep a tag that has no end."""
        self._keep(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        """Keep the end of an element, or go on after one that is left out."""
        if self._inside:
            self._inside -= 1
        else:
            self._kept.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        """Keep text; between a function and its argument MathML has a sign that nobody sees."""
        self._keep(data.replace("\u2061", " ").replace("\u200b", ""))

    def handle_entityref(self, name: str) -> None:
        """Keep a reference to a character."""
        self._keep(f"&{name};")

    def handle_charref(self, name: str) -> None:
        """Keep a reference to a character by its number."""
        self._keep(f"&#{name};")

    def _keep(self, text: str) -> None:
        if not self._inside:
            self._kept.append(text)


def _left_out(tag: str, attributes: dict[str, str | None]) -> bool:
    """Whether an element is not searched: KaTeX sets a formula twice, and MathML holds its TeX."""
    classes = (attributes.get("class") or "").split()
    return "data-search-exclude" in attributes or tag in ("svg", "annotation") or "katex-html" in classes


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> None:
    """Read the other names: a row of a table has names, with commas between them, and a link to where they lead."""
    if page.file.src_uri != NAMES:
        return
    _names.clear()
    for names, target, section in ROW.findall(markdown):
        file = files.get_file_from_path(target)
        if file is None:
            raise PluginError(f"{NAMES}: there is no page {target}")
        _names.setdefault(file.url + section, []).extend(names.replace("`", "").split(", "))


@event_priority(100)  # before the search plugin reads the page
def _shorten(context: Any, page: Any, config: Any, nav: Any) -> None:
    _contents[page.url] = page.content
    page.content = str(Searchable(page.content))


@event_priority(-100)
def _restore(context: Any, page: Any, config: Any, nav: Any) -> None:
    page.content = _contents.pop(page.url)


on_page_context = CombinedEvent(_shorten, _restore)


@event_priority(-100)  # after the search plugin has written its index
def on_post_build(config: Any) -> None:
    """Put order and other names into the index."""
    path = Path(config.site_dir) / "search" / "search_index.json"
    index = json.loads(path.read_text())
    entries = {entry["location"]: entry for entry in index["docs"]}
    for location, entry in entries.items():
        entry["boost"] = next((boost for start, boost in BOOSTS.items() if location.startswith(start)), 1.0)
    for location, names in _names.items():
        if location not in entries:
            raise PluginError(f"{NAMES}: nothing that is searched stands at {location}")
        entries[location]["tags"] = names
    path.write_text(json.dumps(index, separators=(",", ":")))
