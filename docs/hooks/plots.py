"""MkDocs hook: `![what is to be seen](figure:name)` becomes the drawing of that name in figures.py, inline.

Inline, because only so do its lines and letters take the colours of the palette and its text the fonts of the page.
"""

from __future__ import annotations

import html
import re
from typing import Any

import figures
from mkdocs.exceptions import PluginError

IMAGE = re.compile(r'<p><img alt="([^"]*)" src="figure:([a-z0-9-]+)" ?/?></p>')


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Put the drawings in."""

    def drawn(match: re.Match[str]) -> str:
        alternative, name = match.groups()
        try:
            svg = figures.svg(name)
        except KeyError as error:
            raise PluginError(f"{page.file.src_uri}: no figure is called {name}") from error
        if not alternative:
            raise PluginError(f"{page.file.src_uri}: figure {name} has no alternative text")
        label = f'<svg role="img" aria-label="{html.escape(html.unescape(alternative), quote=True)}" '
        return f'<figure class="plot">{svg.replace("<svg ", label, 1)}</figure>'

    return IMAGE.sub(drawn, content)
