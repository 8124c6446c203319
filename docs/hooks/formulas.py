"""MkDocs hook: set every formula while the site is built, and say how each displayed one is checked.

KaTeX gives finished HTML and MathML, so the browser needs no script and no network. A formula it cannot set stops the
build and names its page. A displayed formula gets a number and an anchor: its label, or one made up. `{@label}` in the
text becomes the number of that formula on the same page.
"""

from __future__ import annotations

import hashlib
import html
import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

log = logging.getLogger("mkdocs.hooks.formulas")

ROOT = Path(__file__).parents[2]
KATEX = ROOT / "docs" / "node_modules" / "katex" / "dist"
FORMULA = re.compile(
    r'(\(?)<(span|div) class="arithmatex">\\([\[(])(.*?)\\[\])]</\2>([,.;:?!)]*)', re.DOTALL
)  # with the punctuation around it
SHORT = 30
"""Up to so many characters of TeX a formula inside a sentence stays on one line, with its punctuation."""
LABEL = re.compile(r"\\label\{([^}]*)\}")
REFERENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2|`[^`\n]+`|\{@([a-z0-9-]+)\}", re.MULTILINE | re.DOTALL)
KEPT = re.compile(r'<i class="formula-reference">([a-z0-9-]+)</i>')
IN_SOURCE = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
STEP = re.compile(r'@step\(\s*"([a-z0-9-]+)",\s*"([0-9a-f]{8})"')
STYLED = re.compile(r'<span(?: class="([^"]*)")? style="([^"]*)"')
NAMES: dict[str, str] = {}
"""Names of classes for the styles of the spans of KaTeX: written out thousands of times they were a sixth of a page."""
TYPESET = """
const katex = require(process.argv[1]);
const jobs = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const out = jobs.map(([tex, displayMode]) => {
  try { return katex.renderToString(tex, {displayMode, strict: 'error'}); }
  catch (error) { return {tex, message: error.message}; }
});
process.stdout.write(JSON.stringify(out));
"""

KINDS = {
    "evaluated": "Read from the docstring or the page, evaluated and compared with what the code computes.",
    "docstring": "Stands in a docstring of the code; says what is meant there.",
    "transcribed": "Checked in high precision by a transcription in tests/derivations.",
    "definition": "Says what a symbol means.",
    "quoted": "Quoted from its source; not a statement of refloss.",
}
# tests/test_formulas.py evaluates every formula of the first three
EVALUATED = ("stages/*.py", "losses/*.py", "functions.py")
DOCSTRINGS = dict.fromkeys(EVALUATED, "evaluated") | {"**/*.py": "docstring"}


class Formula(NamedTuple):
    """A formula of a page."""

    tex: str
    display: bool
    label: str
    before: str
    after: str


def on_config(config: Any) -> None:
    """Stop early where KaTeX is missing."""
    NAMES.clear()
    if not KATEX.is_dir():
        raise PluginError("KaTeX is missing: run `npm ci --prefix docs` first")


def on_files(files: Files, config: Any) -> Files:
    """Put KaTeX's style sheet and its woff2 fonts into the site."""
    css = re.sub(r',url\(fonts/[^)]+\.(?:woff|ttf)\) format\("[^"]+"\)', "", (KATEX / "katex.min.css").read_text())
    files.append(File.generated(config, "assets/katex/katex.min.css", content=css))
    for font in sorted(KATEX.glob("fonts/*.woff2")):
        files.append(File.generated(config, f"assets/katex/fonts/{font.name}", abs_src_path=str(font)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Keep references as elements: at the end of a table's cell {...} would be taken for attributes."""

    def kept(match: re.Match[str]) -> str:
        return match[0] if match[3] is None else f'<i class="formula-reference">{match[3]}</i>'

    return REFERENCE.sub(kept, markdown)


def on_page_content(content: str, page: Page, config: Any, files: Files) -> str:
    """Replace each formula of the page by its set form."""
    formulas = [_formula(match) for match in FORMULA.finditer(content)]
    numbers: dict[str, int] = {}
    finished = iter(
        _displayed(formula, body, numbers, page) if formula.display else _inline(formula, body)
        for formula, body in zip(formulas, _typeset(formulas, page.file.src_uri), strict=True)
    )
    content = FORMULA.sub(lambda match: next(finished), content)
    return KEPT.sub(lambda match: _reference(match, numbers, page), content) + _explained(content, page)


def on_post_build(config: Any) -> None:
    """Add the styles that have names to KaTeX's style sheet."""
    with (Path(config.site_dir) / "assets" / "katex" / "katex.min.css").open("a") as sheet:
        sheet.writelines(f".{name}{{{style.replace(';', '!important;')}}}\n" for style, name in NAMES.items())


def digest(tex: str) -> str:
    """Eight hexadecimal digits that stand for a formula, as in tests/derivations."""
    return hashlib.sha256("".join(LABEL.sub("", tex).split()).encode()).hexdigest()[:8]


def _formula(match: re.Match[str]) -> Formula:
    tex = html.unescape(match[4]).strip()
    label = LABEL.search(tex)
    return Formula(LABEL.sub("", tex).strip(), match[3] == "[", label[1] if label else "", match[1], match[5])


def _typeset(formulas: list[Formula], where: str) -> list[str]:
    if not formulas:
        return []
    command = ["node", "-e", TYPESET, str(KATEX / "katex.js")]
    jobs = json.dumps([(formula.tex, formula.display) for formula in formulas])
    answers = json.loads(subprocess.run(command, input=jobs, capture_output=True, text=True, check=True).stdout)
    for answer in answers:
        if isinstance(answer, dict):
            raise PluginError(f"{where}: {answer['message']}\n  in: {answer['tex']}")
    return [_shorter(str(answer)) for answer in answers]


def _shorter(body: str) -> str:
    """Return the set form of a formula with names for styles; in HTML, MathML needs no namespace."""

    def named(match: re.Match[str]) -> str:
        name = NAMES.setdefault(match[2], f"K{len(NAMES)}")
        return f'<span class="{match[1]} {name}"' if match[1] else f'<span class="{name}"'

    return STYLED.sub(named, body.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))


def _inline(formula: Formula, body: str) -> str:
    """A line may end before and after each part of a formula: punctuation must not stand alone on the next one."""
    kind = "formula short" if len(formula.tex) <= SHORT else "formula"
    return f'<span class="{kind}">{formula.before}{body}{formula.after}</span>'


def _displayed(formula: Formula, body: str, numbers: dict[str, int], page: Page) -> str:
    number = len(numbers) + 1
    name = formula.label or f"formula-{number}"
    if name in numbers:
        raise PluginError(f"{page.file.src_uri}: two formulas are called {name}")
    numbers[name] = number
    if page.present_anchor_ids is not None:
        page.present_anchor_ids.add(name)  # so that MkDocs knows it when it checks links
    kind = _kind(formula, page.file.src_uri)
    return (
        f'<div class="equation" id="{name}" data-search-exclude><div class="formula" tabindex="0">{body}</div>'
        f'<button class="kind {kind}" popovertarget="kind-{kind}">{kind}</button>'
        f'<a class="number" href="#{name}" aria-label="Formula {number}">({number})</a></div>'
    )


def _explained(content: str, page: Page) -> str:
    """What each kind of formula of a page means: shown by touch, pointer and keyboard, without a script."""
    more = get_relative_url("checked/", page.url) + "#a-formula"
    return "".join(
        f'<div popover id="kind-{kind}" class="explained" data-search-exclude><p><b>{kind}</b>: {said}</p>'
        f'<p><a href="{more}">How formulas are checked</a></p></div>'
        for kind, said in KINDS.items()
        if f'popovertarget="kind-{kind}"' in content
    )


def _kind(formula: Formula, where: str) -> str:
    """How a displayed formula is checked; what claims a check that does not exist fails the build."""
    for sources, kind in DOCSTRINGS.items():
        if digest(formula.tex) in _in_docstrings(sources):
            return kind
    for prefix, kind in (("def-", "definition"), ("quoted-", "quoted"), ("budget-", "evaluated")):
        if formula.label.startswith(prefix):
            return kind
    if _transcribed().get(formula.label) != digest(formula.tex):
        log.warning("%s: formula %r has no transcription of digest %s", where, formula.label, digest(formula.tex))
    return "transcribed"


def _in_docstrings(sources: str) -> set[str]:
    """Digests of the formulas in the docstrings of some files."""
    return {digest(tex) for source in (ROOT / "refloss").glob(sources) for tex in IN_SOURCE.findall(source.read_text())}


def _transcribed() -> dict[str, str]:
    """Labels and digests of the transcriptions."""
    sources = sorted((ROOT / "tests" / "derivations").glob("*.py"))
    return dict(step for source in sources for step in STEP.findall(source.read_text()))


def _reference(match: re.Match[str], numbers: dict[str, int], page: Page) -> str:
    if match[1] not in numbers:
        raise PluginError(f"{page.file.src_uri}: there is no formula called {match[1]} on this page")
    return f'<a class="reference" href="#{match[1]}">({numbers[match[1]]})</a>'
