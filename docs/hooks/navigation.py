"""MkDocs hook: the list of losses in the navigation is open on every page."""

from __future__ import annotations

from typing import Any

from mkdocs.exceptions import PluginError

OPEN = "The losses"
TOGGLE = '<input class="md-nav__toggle md-toggle {}" type="checkbox" id="{}" >'

_toggles: list[str] = []


def on_nav(nav: Any, config: Any, files: Any) -> None:
    """Find the section; the theme counts sections from 1."""
    _toggles[:] = [f"__nav_{place}" for place, item in enumerate(nav.items, 1) if item.title == OPEN]
    if not _toggles:
        raise PluginError(f"the navigation has no section {OPEN!r}")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Open it where it is not: on its own pages it is. As with `navigation.expand`, a narrow window shows it closed."""
    return output.replace(TOGGLE.format("", *_toggles), TOGGLE.format("md-toggle--indeterminate", *_toggles))
