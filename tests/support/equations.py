"""The displayed equations of the pages, in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DISPLAY = re.compile(r"(?<![\\$])\$\$(.+?)\$\$", re.DOTALL)
LABEL = re.compile(r"\\label\{([^}]*)\}")
CODE = re.compile(r"^( *)(```|~~~).*?^\1\2$", re.MULTILINE | re.DOTALL)


class Equation(NamedTuple):
    """A displayed equation of a page."""

    page: str
    label: str
    tex: str

    @property
    def checked(self) -> bool:
        """Whether it is a step of a derivation, and so has to be transcribed."""
        return not self.label.startswith(("def-", "quoted-", "budget-"))


def equations() -> list[Equation]:
    """All of them."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if "node_modules" in page.parts:
            continue
        for tex in DISPLAY.findall(CODE.sub("", page.read_text())):
            label = LABEL.search(tex)
            found.append(Equation(page.relative_to(ROOT).as_posix(), label[1] if label else "", tex))
    return found
