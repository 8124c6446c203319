"""Notation: every letter of a displayed formula stands on the page of symbols, for all pages or for its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from support.equations import DISPLAY, equations

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"\\label\{[^}]*\}|\\(?:operatorname|text|mathrm|begin|end)\{[^}]*\}")
SYMBOL = re.compile(
    r"\\(?P<accent>bar|tilde|mathcal)\s*\{?(?P<under>[A-Za-z])|\\(?P<greek>[A-Za-z]+)|(?P<latin>[A-Za-z])"
)
GREEK = {
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta"),
    *("vartheta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "varphi", "phi"),
    *("chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega"),
}
CONVENTIONS = {"d", "e"}  # of a derivative, and Euler's number
DOCSTRINGS = ("stages", "losses")


def symbols(tex: str) -> set[str]:
    """The letters of a formula, Greek ones by name and accents kept; a hat and a subscript change no letter."""
    found = set()
    for match in SYMBOL.finditer(WORDS.sub(" ", tex)):
        if match["accent"]:
            found.add(f"{match['accent']} {match['under']}")
        elif match["greek"] in GREEK or match["latin"]:
            found.add(match["greek"] or match["latin"])
    return found


def _listed() -> dict[str, set[str]]:
    """What the page of symbols lists: by the page a row is about, and under "" for all pages."""
    listed: dict[str, set[str]] = {"": set(CONVENTIONS)}
    text = (ROOT / "docs" / "notation.md").read_text()
    everywhere, _, here = text.partition("## On one page")
    for part in (everywhere, here.partition("\n## ")[0]):
        for row in re.findall(r"^\| (\$.*) \|$", part, re.MULTILINE):
            cells = row.split(" | ")
            link = re.search(r"\]\((\S+\.md)\)", cells[-1]) if part is not everywhere else None
            listed.setdefault(f"docs/{link[1]}" if link else "", set()).update(symbols(cells[0]))
        if part is everywhere:  # sentences of the conventions name some too
            listed[""].update(*map(symbols, re.findall(r"\$([^$]+)\$", part.partition("## Conventions")[2])))
    return listed


LISTED = _listed()
CHECKED = [each for each in equations() if not each.label.startswith(("budget-", "quoted-"))]


@pytest.mark.parametrize("page", sorted({equation.page for equation in CHECKED}))
def test_letters_of_a_page_stand_in_notation(page):
    known = LISTED[""] | LISTED.get(page, set())
    missing = {each.label: symbols(each.tex) - known for each in CHECKED if each.page == page}
    assert {label: letters for label, letters in missing.items() if letters} == {}


def test_letters_of_docstrings_stand_in_notation():
    missing = {}
    for source in (path for folder in DOCSTRINGS for path in (ROOT / "refloss" / folder).glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                for tex in DISPLAY.findall(ast.get_docstring(node) or ""):
                    missing[source.name, tex] = symbols(tex) - LISTED[""]
    assert {place: letters for place, letters in missing.items() if letters} == {}


def test_every_letter_of_one_page_is_used_there():
    used = {page: set[str]() for page in LISTED}
    for equation in CHECKED:
        used.get(equation.page, set()).update(symbols(equation.tex))
    text = {
        page: set().union(*map(symbols, re.findall(r"\$([^$]+)\$", (ROOT / page).read_text()))) for page in used if page
    }
    assert {
        page: LISTED[page] - used[page] - text[page] for page in text if LISTED[page] - used[page] - text[page]
    } == {}


def test_a_letter_that_is_not_listed_is_seen():
    assert symbols(r"\label{a-b} \hat w_k\cdot\bar c + \operatorname{lse}\,e^{\theta_{12}}") == {
        *("w", "k", "bar c", "e", "theta")
    }
    assert symbols(r"\zeta") - LISTED[""] == {"zeta"}
