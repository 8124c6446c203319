"""MkDocs hook: every figure has a number, a caption and, unless it is a picture's file, its drawing inline.

    ![what is to be seen](figure:name)     the drawing of that name in figures.py; its docstring is the caption
    ![what is to be seen](gallery:2)       panels of embeddings with so many dimensions, as they were recorded
    ![what is to be seen](name.png)        a picture

Text that follows in the same paragraph is the caption; a drawing's docstring then stands back. Drawings are inline,
because only so do their lines and letters take the colours of the palette and their text the fonts of the page.
"""

from __future__ import annotations

import html
import inspect
import re
from typing import Any

import figures
import panels
from mkdocs.exceptions import PluginError

ALONE = re.compile(r"^(!\[[^\]]+\]\(figure:([a-z0-9-]+)\))\n(?=\n|\Z)", re.MULTILINE)
IMAGE = re.compile(r'<p>(<img alt="([^"]*)" src="((?:(figure|gallery):)?([^"]+))" ?/?>)\s*(.*?)</p>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put a drawing's caption below it, where the page has none of its own."""

    def with_caption(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_docstring(match[2], page)}\n"

    return ALONE.sub(with_caption, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Put the drawings in, with numbers and captions."""
    numbers: dict[str, int] = {}

    def drawn(match: re.Match[str]) -> str:
        image, alternative, source, kind, name, caption = match.groups()
        where = f"{page.file.src_uri}: figure {source}"
        if not alternative or not caption:
            raise PluginError(f"{where} has no {'caption' if alternative else 'alternative text'}")
        anchor = "figure-" + re.sub(r"\W", "-", name.rpartition("/")[2].removesuffix(".png"))
        if anchor in numbers:
            raise PluginError(f"{where} is on this page twice")
        number = numbers[anchor] = len(numbers) + 1
        if page.present_anchor_ids is not None:
            page.present_anchor_ids.add(anchor)  # so that MkDocs knows it when it checks links
        if kind == "figure":
            label = f'<svg role="img" aria-label="{html.escape(html.unescape(alternative), quote=True)}" '
            image = _drawing(name, page).replace("<svg ", label, 1)
        elif kind == "gallery":
            image = panels.drawn(int(name))
        below = f'<figcaption><a href="#{anchor}">Figure {number}.</a> {caption}</figcaption>'
        return f'<figure class="plot {kind or "file"}" id="{anchor}">{image}{below}</figure>'

    return IMAGE.sub(drawn, content)


def _drawing(name: str, page: Any) -> str:
    try:
        return figures.svg(name)
    except KeyError as error:
        raise PluginError(f"{page.file.src_uri}: no figure is called {name}") from error


def _docstring(name: str, page: Any) -> str:
    """What the docstring of a drawing's function says, on one line."""
    if name not in figures.FIGURES:
        raise PluginError(f"{page.file.src_uri}: no figure is called {name}")
    return " ".join((inspect.getdoc(figures.FIGURES[name]) or "").split())
