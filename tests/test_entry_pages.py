"""Pages by which readers come in: home, questions, other names; and what search and programs read of the site."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import refloss

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FAQ = (DOCS / "faq.md").read_text()
ENTRY = re.compile(
    r"^### (.+?) \{ #([a-z0-9-]+) \}\n\n(.+?)\n\nMore: (.+?)\.\nAsked: (.+?)\.?$(?=\n\n|\Z)", re.MULTILINE | re.DOTALL
)
ENTRIES = ENTRY.findall(FAQ)
SENTENCE_END = re.compile(r"[.?!](?= |$)")


def plain(text: str) -> str:
    """Running text whose formulas and code are one letter each."""
    return " ".join(re.sub(r"`[^`]*`|\$[^$]*\$", "X", text).split())


def test_every_question_is_matched():
    assert len(ENTRIES) == FAQ.count("\n### ") >= 30
    assert len({anchor for _, anchor, *_ in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize(("question", "anchor", "answer", "more", "asked"), ENTRIES, ids=[e[1] for e in ENTRIES])
def test_an_answer_has_three_sentences_a_page_and_a_thread(question, anchor, answer, more, asked):
    assert len(SENTENCE_END.findall(plain(answer))) == 3, plain(answer)
    pages = re.findall(r"\]\(([^):]+\.md)(?:#[^)]+)?\)", more)
    assert pages
    assert all((DOCS / page).is_file() for page in pages)
    assert re.search(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", asked)


def test_answers_of_the_home_page():
    """The numbers in its list, of the logits that stand beside them."""
    home = " ".join((DOCS / "index.md").read_text().split())
    rows = re.findall(r"logits \(([^)]*)\)[^?]*\? \[(.+?)\]\(faq\.md", home)
    assert len(rows) == 2
    for logits, answer in rows:
        value, grad = refloss.CrossEntropy().value_and_grad([[float(z) for z in logits.split(", ")]], [0])
        expected = float(answer.rsplit("= ", 1)[-1].replace("−", "-"))
        assert np.isclose(expected, grad.z[0, 0] if expected < 0 else value, rtol=1e-15, atol=0.0)


def test_the_slope_of_a_clamp_at_its_bound(torch):
    """What the answer on clamps says of PyTorch 2.13; for 2.14 a thread reports 0."""
    at = torch.tensor([1.0], requires_grad=True)
    at.clamp(-1.0, 1.0).backward()
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    assert at.grad.item() == (1.0 if version < (2, 14) else 0.0)
    inside = torch.tensor([1.0], requires_grad=True)
    inside.clamp(-1.0 + 1e-7, 1.0 - 1e-7).acos().backward()
    assert inside.grad.item() == 0.0


# -------------------------------------------------------------------------------------------------------------- hooks

pytest.importorskip("mkdocs", reason="the hooks are mkdocs's, which the docs extra has")
sys.path.insert(0, str(DOCS / "hooks"))
import formulas  # noqa: E402
import llms  # noqa: E402
import navigation  # noqa: E402
import search  # noqa: E402

FORMULA = (
    '<span class="formula"><span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>cos</mi><mo>\u2061'
    '</mo><mi>θ</mi></mrow><annotation encoding="application/x-tex">\\cos\\theta</annotation></semantics></math></span>'
    '<span class="katex-html" aria-hidden="true"><span class="mop">cos</span></span></span></span>'
)
DISPLAYED = (
    '<div class="equation" data-search-exclude><div class="formula">x</div><span class="kind">evaluated</span></div>'
)
DRAWING = '<figure class="plot"><svg viewBox="0 0 1 1"><path d="M0 0"/><g><text>0.25</text></g></svg></figure>'


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("<p>a &amp; b&#8211;<br>c</p>", "<p>a &amp; b&#8211;<br>c</p>"),
        (f"<p>the {FORMULA} of x</p>", "<p>the cos θ of x</p>"),
        (f"<p>a</p>{DISPLAYED}<p>b</p>", "<p>a</p><p>b</p>"),
        (f"<p>a</p>{DRAWING}<p>b</p>", "<p>a</p><p>b</p>"),
        ('<p>a <img alt="x" src="y"> b</p>', '<p>a <img alt="x" src="y"> b</p>'),
        ('<div data-search-exclude><img src="y">a &amp; b&#33;<div>c</div>d</div>e', "e"),
    ],
)
def test_what_of_a_page_is_searched(content, kept):
    text = str(search.Searchable(content))
    assert re.sub(r"</?(?:span|math|semantics|m[a-z]+|figure)(?: [^>]*)?>", "", text) == kept


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (r'(<span class="arithmatex">\(x\)</span>), and', '<span class="formula short">(X),</span> and'),
        (r'<span class="arithmatex">\(x\)</span> and', '<span class="formula short">X</span> and'),
        (rf'<span class="arithmatex">\({"x + " * 9}x\)</span>.', '<span class="formula">X.</span>'),
    ],
)
def test_punctuation_stays_on_the_line_of_its_formula(html, expected):
    assert formulas.FORMULA.sub(lambda match: formulas._inline(formulas._formula(match), "X"), html) == expected


def test_a_name_that_leads_nowhere_stops_the_build(tmp_path):
    from mkdocs.exceptions import PluginError

    page = SimpleNamespace(file=SimpleNamespace(src_uri="aliases.md"))
    files = SimpleNamespace(get_file_from_path={"a.md": SimpleNamespace(url="a/")}.get)
    with pytest.raises(PluginError, match=r"there is no page b\.md"):
        search.on_page_markdown("| x, `y` | [b](b.md#c) | z |", page, None, files)
    search.on_page_markdown("| name | here | what |\n|---|---|---|\n| x, `y` | [a](a.md#c) | z |", page, None, files)
    assert search._names == {"a/#c": ["x", "y"]}
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search_index.json").write_text('{"docs": [{"location": "a/"}]}')
    with pytest.raises(PluginError, match="nothing that is searched stands at a/#c"):
        search.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    search._names.clear()


def test_without_the_section_of_losses_the_build_stops():
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match="no section 'The losses'"):
        navigation.on_nav(SimpleNamespace(items=[SimpleNamespace(title="Home")]), None, None)


@pytest.mark.parametrize(
    ("markdown", "sentence"),
    [
        ("# Title\n\nOne [link](a.md)\nhere. Two.", "One link here."),
        (
            '# Title\n\n!!! summary "In one minute"\n    - First,\n      and more. Then.\n    - Second.',
            "First, and more.",
        ),
        ("# Title\n\n| a |\n|---|", ""),
        ("# Title\n\nNo end", "No end"),
    ],
)
def test_the_first_sentence_of_a_page(markdown, sentence):
    assert llms.first_sentence(markdown) == sentence
