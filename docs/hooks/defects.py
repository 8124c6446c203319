"""MkDocs hook: the table of defects, from the data of `refloss.testing.defects`.

::defects setting     the rows of a kind
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

from refloss.testing.defects import KINDS, TABLE

DIRECTIVE = re.compile(r"^(?:(`{3,}|~{3,}).*?^\1`*$|::defects (\S+)$)", re.MULTILINE | re.DOTALL)
VARIABLE = re.compile(r"\{\w+\.(\w+)(?::\w+)?\}")
"""What stands for a setting of the loss."""
MOST = 4
"""Most names that are listed in one line."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace each directive by its table."""

    def show(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        if match[2] not in KINDS:
            raise PluginError(f"{page.file.src_uri}: {match[0]}: expected one of {', '.join(KINDS)}")
        return table(match[2])

    return DIRECTIVE.sub(show, markdown)


def table(kind: str) -> str:
    """Return the rows of a kind as a table, those that say the same in one line."""
    names: dict[str, list[str]] = {}
    for row in TABLE:
        if row.kind == kind:
            said = VARIABLE.sub(r"*\1*", row.sentence if row.whole else f"the gradient of *x* {row.sentence}")
            names.setdefault(said.replace("|", r"\|"), []).append(row.name.replace("|", r"\|"))
    lines = [f"| {_listed(named)} | {said} |" for said, named in names.items()]
    return "\n".join(["| name | what `check` says |", "|---|---|", *lines])


def _listed(names: list[str]) -> str:
    """Return names as code; of many, the first and the last."""
    shown = names if len(names) <= MOST else [names[0], names[-1]]
    listed = (", " if len(names) <= MOST else " … ").join(f"`{name}`" for name in shown)
    return listed if len(names) <= MOST else f"{listed} ({len(names)} rows)"
