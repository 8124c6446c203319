"""Papers, repositories, commits and issues that pages and docstrings name are links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"node_modules", "records"} & set(page.parts)),
]  # records name commits of refloss
SOURCES = sorted((ROOT / "refloss").rglob("*.py"))

KEPT = r"^ *```.*?^ *```|^#[^\n]*$|^::[^\n]*$|!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)|<a .*?</a>|\$\$.*?\$\$|https://\S+"
AUTHORS = r"(?!September|December)[A-Z]\w+(?:,? (?:[A-Z]\w+|and|den|van|et al\.))*"
CITATION = rf"\({AUTHORS},? (?:19|20)\d\d\)|{AUTHORS} \((?:19|20)\d\d\)"
NAMED = {
    "paper": rf"arXiv:?\s*\d{{4}}\.\d{{4,5}}|\bdoi:?\s*10\.\d{{4}}|{CITATION}",
    "repository": r"`[A-Z]?[A-Za-z0-9_-]+/[A-Za-z0-9_.-]+`",
    "commit": r"(?<![\w/.`=#-])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7,8}(?![\w/`-])",
    "issue": r"\b[Ii]ssue \d+|(?<=\s)#\d{2,}",
}
OURS = re.compile(r"`(?:refloss|tests|docs|benchmarks|examples|losses|engines|stages|testing|cli|\.ci|\.github)/")
FILES = re.compile(r"\.(?:py|cpp|cu|h|md|txt|yml|tp)`$")


def named(text: str) -> list[str]:
    """What a Markdown text names without a link to it."""
    bare = re.sub(KEPT, " ", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for kind, pattern in NAMED.items():
        for match in re.findall(pattern, bare):
            if kind != "repository" or not (OURS.match(match) or FILES.search(match) or match in FOLDERS):
                found.append(f"{kind} {match}")
    return found


FOLDERS = {"`recognition/arcface_torch`"}  # of a repository that is a link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_a_link(page):
    assert named(page.read_text()) == []


def test_what_is_said_of_public_code_has_a_date():
    dated = r"## (?:In public code|Conventions, side by side)\n\n(?=As read in [A-Z][a-z]+ 20\d\d)"
    text = "".join(page.read_text() for page in PAGES)
    headings = re.findall(r"^## (?:In public code|Conventions, side by side)$", text, re.MULTILINE)
    assert len(re.findall(dated, text)) == len(headings) > 20


def test_a_paper_in_a_docstring_has_its_address():
    bare = []
    for source in SOURCES:
        if source.parent.name not in ("stages", "losses"):
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                text = " ".join((ast.get_docstring(node) or "").split())
                for match in re.finditer(CITATION, text):
                    if "https://" not in text[match.end() : match.end() + 80]:
                        bare.append((source.name, node.name, match[0]))
    assert bare == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ArcFace (Deng et al. 2019), eq. 3", "paper (Deng et al. 2019)"),
        ("FaceNet (Schroff, Kalenichenko and Philbin 2015)", "paper (Schroff, Kalenichenko and Philbin 2015)"),
        ("Bridle (1990) gave", "paper Bridle (1990)"),
        ("2019, arXiv\n1801.07698", "paper arXiv\n1801.07698"),
        ("`deepinsight/insightface` has", "repository `deepinsight/insightface`"),
        ("since 657ae30", "commit 657ae30"),
        ("in its issue 6", "issue issue 6"),
        ("see #1329", "issue #1329"),
    ],
)
def test_what_is_no_link_is_seen(text, what):
    assert named(text) == [what]
    assert named(f"[{text}](https://example.org)") == []
