"""The built site: links, anchors, sizes, one order of stages; and, in a real browser, that every page can be read.

Runs with REFLOSS_SITE=1 only, as `nox -s site` sets it: it needs node, the extra docs, the group site, and a Chromium.
Whoever asks for it and lacks one of them gets a failure, not a skip.
"""

from __future__ import annotations

import ast
import dataclasses
import fcntl
import functools
import html
import http.server
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

import pytest

if os.environ.get("REFLOSS_SITE") != "1":
    pytest.skip("the site is built and looked at with REFLOSS_SITE=1 only", allow_module_level=True)

import numpy as np
import yaml
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

import refloss
from refloss.cli.loss_names import parse_loss
from refloss.engines import chain
from refloss.losses import LOSSES
from refloss.stages import margin
from refloss.testing import known as implementations
from support.sampled import chosen

ROOT = Path(__file__).parents[1]
PATIENCE = 240_000.0  # milliseconds, in which a page comes on a machine with much else to do
expect.set_options(timeout=PATIENCE)
AXE = ROOT / "docs" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (400, 900, 1600)
SCHEMES = ("light", "dark")
OUTLINE_RULES = [
    *("heading-order", "empty-heading", "page-has-heading-one"),
    *("image-alt", "input-image-alt", "area-alt", "object-alt", "svg-img-alt", "role-img-alt"),
]
REFUSE = """
import socket
def _refuse(self, address, *rest):
    raise OSError(f"the network is refused: {address}")
socket.socket.connect = socket.socket.connect_ex = _refuse
socket.getaddrinfo = lambda host, *rest, **more: _refuse(None, host)
"""
REFUSE_NODE = """
const refuse = () => { throw new Error('the network is refused'); };
require('net').Socket.prototype.connect = refuse;
require('dns').lookup = refuse;
"""


def _nav(entries: Any) -> Iterator[tuple[str, str]]:
    """Titles and sources of the navigation, in its order."""
    for entry in entries:
        for title, target in entry.items():
            if isinstance(target, str):
                yield title, target
            else:
                yield from _nav(target)


CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
SOURCES = [source for _, source in _nav(CONFIG["nav"])]
ADDRESSES = ["" if source == "index.md" else source.removesuffix(".md") + "/" for source in SOURCES]


class Built(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.equations: list[str] = []
        self.references = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note ids, links, and what the browser would load."""
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.ids.append(values["id"])
        if "equation" in values.get("class", "").split():
            self.equations.append(values.get("id", ""))
        self.references += "reference" in values.get("class", "").split()
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loads += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]
        if tag == "link" and values.get("rel", "") not in ("canonical", "next", "prev", "alternate"):
            self.loads.append(values.get("href", ""))


@pytest.fixture(scope="session")
def refusing(tmp_path_factory):
    """An environment in which Python and node find no network."""
    folder = tmp_path_factory.mktemp("refuse")
    (folder / "sitecustomize.py").write_text(REFUSE)
    (folder / "refuse.js").write_text(REFUSE_NODE)
    return os.environ | {
        "PYTHONPATH": str(folder),
        "NODE_OPTIONS": f"--require {folder / 'refuse.js'}",
        "NO_MKDOCS_2_WARNING": "1",
    }


@pytest.fixture(scope="session")
def site(refusing, tmp_path_factory):
    """The site, built from nothing without a network: once, whichever worker comes first."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, finished = shared / "site", shared / "site-finished"
    with (shared / "site-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
            done = subprocess.run(command, cwd=ROOT, env=refusing, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def pages(site):
    return {address: Built((site / address / "index.html").read_text()) for address in ADDRESSES}


def test_the_network_is_refused_while_the_site_is_built(refusing):
    for program in (
        [sys.executable, "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1/')"],
        ["node", "-e", "fetch('http://127.0.0.1/').catch(e => { console.error(e.cause || e); process.exit(1); })"],
    ):
        done = subprocess.run(program, env=refusing, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "the network is refused" in done.stderr


def test_every_page_is_in_the_navigation(site):
    built = {path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert built == {address.rstrip("/") or "." for address in ADDRESSES}


def test_nothing_is_loaded_from_another_host(site, pages):
    for address, page in pages.items():
        assert [load for load in page.loads if urlsplit(load).netloc] == [], address
    for sheet in site.rglob("*.css"):
        loads = re.findall(r"url\((?!['\"]?data:)[^)]*\)|@import[^;]*", sheet.read_text())
        assert [load for load in loads if "//" in load] == [], sheet


def test_links_and_anchors_resolve(site, pages):
    for address, page in pages.items():
        for link in page.links:
            target = urlsplit(urljoin(f"http://site/{address}", link))
            if target.netloc != "site" or target.scheme != "http":
                assert target.scheme in ("http", "https"), (address, link)
                continue
            path = unquote(target.path).lstrip("/")
            if path in pages:
                assert not target.fragment or unquote(target.fragment) in pages[path].ids, (address, link)
            else:
                assert (site / path).is_file(), (address, link)


def test_anchors_are_unique_and_every_equation_has_one(pages):
    for address, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), (address, [i for i in page.ids if page.ids.count(i) > 1])
        assert all(page.equations), address
        assert {f"#{name}" for name in page.equations} <= set(page.links), address


def test_no_reference_to_an_equation_is_lost(pages):
    for source, page in zip(SOURCES, pages.values(), strict=True):
        text = re.sub(
            r"^( *)(`{3,}).*?^\1\2|`[^`\n]+`", "", (ROOT / "docs" / source).read_text(), flags=re.MULTILINE | re.DOTALL
        )
        assert page.references == len(re.findall(r"\{@[a-z0-9-]+\}", text)), source


def test_pages_are_many_and_light_and_full_of_formulas(site):
    assert len(ADDRESSES) >= 25
    formulas = 0
    for address in ADDRESSES:
        text = (site / address / "index.html").read_text()
        formulas += text.count('<span class="katex">')
        images = [site / address / source for source in re.findall(r'<img[^>]* src="([^":]+)"', text)]
        assert len(text.encode()) + sum(image.stat().st_size for image in images) < 600_000, address
    assert formulas >= 300


CODE = re.compile(r"<pre>.*?</pre>|<code>.*?</code>", re.DOTALL)
NOT_READ = {
    "TeX": re.compile(r"\\[a-zA-Z]{2,}"),
    "badge": re.compile(r"(?:evaluated|transcribed|definition|docstring|quoted)\(\d+\)"),
    "tick labels": re.compile(r"π/4 π/2 3π/4|0\.00 0\.25 0\.50|−1\.0+ −0\.\d"),
}


@pytest.fixture(scope="session")
def searched(site):
    """What the search reads, by address."""
    return {entry["location"]: entry for entry in json.loads((site / "search/search_index.json").read_text())["docs"]}


@pytest.mark.parametrize("what", NOT_READ)
def test_search_reads_neither_formulas_nor_drawings(searched, what):
    found = {where: NOT_READ[what].findall(CODE.sub("", entry["text"])) for where, entry in searched.items()}
    assert {where: found[where] for where in found if found[where]} == {}


def test_search_reads_formulas_as_they_are_read(searched):
    assert "cos (θ+m)" in searched["topics/arcface/"]["text"]


def test_topics_come_before_records(searched):
    boosts = {where.partition("/")[0]: entry["boost"] for where, entry in searched.items()}
    assert boosts["topics"] > boosts["testing"] > boosts["records"] > 0.0


def test_other_names_lead_to_their_page(searched):
    text = (ROOT / "docs" / "aliases.md").read_text()
    names = [name for row in re.findall(r"^\| ([^|]+) \| \[", text, re.MULTILINE) for name in row.split(", ")]
    tags = [name for entry in searched.values() for name in entry.get("tags", [])]
    assert sorted(tags) == sorted(name.replace("`", "") for name in names)
    assert len(names) == len({name.lower() for name in names})


def test_the_file_for_language_models_names_every_page(site):
    text = (site / "llms.txt").read_text()
    assert text.startswith(f"# refloss\n\n> {CONFIG['site_description']}\n\n## Start\n")
    links = re.findall(r"^- \[(.+?)\]\(([^)]+)\)", text, re.MULTILINE)
    assert sorted(link for _, link in links) == sorted({link for _, link in links})
    assert {link.rpartition("index.")[0] for _, link in links} == set(ADDRESSES)
    assert all((site / link).is_file() for _, link in links)
    assert text.index("## Optional") < text.index("records/") > text.index("## Testing other code")
    arcface = (site / "topics/arcface/index.md").read_text()
    assert "L_n = -\\log" in arcface  # out of the docstring
    assert "def detached" in arcface
    assert "<svg" not in arcface


def _stages(names: Any) -> list[str]:
    """Names of stages in the order in which they come first; both normalize stages are one."""
    return list(dict.fromkeys(re.sub(r"_[xw]$", "", name) for name in names))


def test_stages_have_one_order_everywhere():
    x, w = [[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]
    order = _stages(refloss.ArcFace().trace(x, w, [0]))
    nav = [Path(source).stem for source in SOURCES if source.startswith("stages/")]
    assert [name for name in nav if name in order] == order
    assert set(nav) == {path.stem for path in (ROOT / "refloss" / "stages").glob("[a-z]*.py")}
    assert [name for name in nav if name in _stages(refloss.SoftmaxLoss().trace(x, w, [0]))] == [
        *_stages(refloss.SoftmaxLoss().trace(x, w, [0]))
    ]

    calls = [
        node.func.value.id
        for head in (chain._head, chain._margin, chain._sigmoid)
        for node in ast.walk(ast.parse(inspect.getsource(head)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "forward"
        and isinstance(node.func.value, ast.Name)
    ]
    every = set(order)
    for loss in (refloss.MagFace(), refloss.CircleLoss(), refloss.SphereFaceR(version=2), refloss.SphereFace2()):
        own = [name for name in _stages(loss.trace(x, w, [0])) if name != "reduction"]  # which is no stage of its own
        assert [name for name in nav if name in own] == own
        every |= set(own)
    assert set(_stages(calls)) <= every

    readme = (ROOT / "README.md").read_text()
    for text in (readme, chain.__doc__ or ""):
        picture = "".join(line for line in text.splitlines() if "──►" in line)
        drawn = re.findall(r"[a-z_]+(?= ──|──)|(?<=──► )[a-z_]+", picture)
        assert [name for name in dict.fromkeys(drawn) if name in order] == order
    printed = re.findall(r"^(\w+) +", readme[readme.index('if not name.startswith("normalize")') :], re.MULTILINE)
    assert [name for name in dict.fromkeys(printed) if name in order] == [n for n in order if n != "normalize"]


def test_every_public_name_is_in_the_reference(pages):
    known = {name for address, page in pages.items() if address.startswith("reference/") for name in page.ids}
    aliases = {name for name in refloss.__all__ if getattr(refloss, name).__name__ != name}
    missing = [name for name in refloss.__all__ if not any(i.split(".")[-1] == name for i in known)]
    assert set(missing) <= aliases
    text = (ROOT / "docs" / "reference" / "losses.md").read_text()
    assert [name for name in missing if name not in text] == []


def test_the_reference_prints_the_defaults_that_hold(site):
    text = (site / "reference" / "losses" / "index.html").read_text()
    for loss in (refloss.ArcFace, refloss.ASoftmax, refloss.CrossEntropy, refloss.CombinedMargin, refloss.Triplet):
        described = text[text.index(f'id="refloss.{loss.__name__}"') :]
        plain = html.unescape(re.sub(r"<[^>]+>", "", described[: described.index("Raises")]))
        for field in dataclasses.fields(loss):
            assert re.search(rf"\b{field.name}\s+\([^–]*default:\s*{re.escape(repr(field.default))}\s*\)", plain), (
                field.name
            )


# --------------------------------------------------------------------------------------------------------- in a browser


class Visit(NamedTuple):
    """A page of a browser, and what went wrong in it."""

    page: Page
    complaints: list[str]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def _context(browser: Browser, **settings: Any) -> BrowserContext:
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE)
    return context


@pytest.fixture
def visit(browser, address, request):
    """A page in one of the palettes, which may load from the served site only."""
    scheme = getattr(request, "param", "light")
    context = _context(browser, color_scheme=scheme, reduced_motion="reduce")
    complaints: list[str] = []

    def only_the_site(route: Any) -> None:
        if route.request.url.startswith(address):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", only_the_site)
    page = context.new_page()
    page.on(
        "console", lambda message: complaints.append(f"console: {message.text}") if message.type == "error" else None
    )
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "requestfailed",
        # a page that is left before all of it is there is no fault of it
        lambda failed: complaints.append(f"failed: {failed.url}") if failed.failure != "net::ERR_ABORTED" else None,
    )
    page.on(
        "response",
        lambda response: complaints.append(f"{response.status}: {response.url}") if not response.ok else None,
    )
    yield Visit(page, complaints)
    context.unroute_all(behavior="ignoreErrors")  # of what was asked for in the last moment
    context.close()


TEX_LEFT = r"""() => {
  const copy = document.querySelector('article, body').cloneNode(true);
  copy.querySelectorAll('pre, code, script, style, svg, .katex').forEach(element => element.remove());
  const pieces = copy.textContent.match(/\$\$|\\\(|\\\[|\\[a-zA-Z]+ ?\{|\\label|\{@[a-z]/g) || [];
  return pieces.concat([...document.querySelectorAll('.katex-error')].map(element => element.textContent));
}"""
WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
IMAGES = (
    """() => [...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src)"""
)
UNNAMED = """() => [...document.querySelectorAll('article svg')]
  .filter(svg => !svg.closest('.katex'))
  .filter(svg => svg.getBoundingClientRect().width > 64)
  .filter(svg => !svg.getAttribute('aria-label') && !svg.querySelector('title'))
  .map(svg => svg.outerHTML.slice(0, 80))"""
VIOLATIONS = """async rules => {
  const result = await axe.run(document, {runOnly: {type: 'rule', values: rules}});
  return result.violations.flatMap(violation =>
    violation.nodes.slice(0, 5).map(node => `${violation.id}: ${node.target} ${node.failureSummary}`));
}"""

OUTLINE = """() => location.pathname +
  [...document.querySelectorAll('h1, h2, h3, h4, h5, h6, [role], img, input, area, object')]
    .map(element => [element.outerHTML, element.checkVisibility()].join()).join()"""
COLOURS = """() => {
  const layers = new Map([[null, '']]);
  const under = element => {
    if (!layers.has(element)) {
      const style = getComputedStyle(element);
      const clear = style.backgroundColor === 'rgba(0, 0, 0, 0)' && style.backgroundImage === 'none';
      const own = clear ? [] : [style.backgroundColor, style.backgroundImage];
      if (style.opacity !== '1') own.push(style.opacity);
      layers.set(element, under(element.parentElement) + own.join() + ';'.repeat(own.length > 0));
    }
    return layers.get(element);
  };
  const kinds = new Set();
  for (const element of document.querySelectorAll('body, body *')) {
    if (![...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
    const style = getComputedStyle(element);
    const large = parseFloat(style.fontSize) >= (style.fontWeight >= 700 ? 18.66 : 24);
    kinds.add([style.color, style.textShadow, large, under(element)].join(';'));
  }
  return [...kinds];
}"""
"""Kinds of text: their colour, whether large letters need less contrast, and the layers of colour under them."""


def _faults(page: Page, known: set[str] | None = None) -> list[str]:
    """What is wrong with a page as it stands in the browser.

    Formulas and tables are of thousands of elements, and nearly all the time would go into their contrast. `known`
    keeps the kinds of text at which axe has looked, here or on another page, and the outlines of pages: where there is
    nothing else, it does not look again.
    """
    page.evaluate("() => document.fonts.ready.then(() => true)")
    faults = [f"TeX left: {piece}" for piece in page.evaluate(TEX_LEFT)]
    if page.evaluate(WIDE) > 0:
        faults.append(f"scrolls sideways by {page.evaluate(WIDE)} px")
    faults += [f"image not loaded: {image}" for image in page.evaluate(IMAGES)]
    faults += [f"drawing without a name: {drawing}" for drawing in page.evaluate(UNNAMED)]
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(AXE.read_text())
    known = set() if known is None else known
    colours = {*page.evaluate(COLOURS)}
    outline = page.evaluate(OUTLINE)
    rules = ([] if outline in known else OUTLINE_RULES) + ([] if colours <= known else ["color-contrast"])
    known |= colours | {outline}
    return faults + (page.evaluate(VIOLATIONS, rules) if rules else [])


@pytest.fixture(scope="session")
def known() -> set[str]:
    """The kinds of text, and the outlines, that axe has looked at."""
    return set()


DRAWN = [
    (scheme, where, source)
    for scheme in SCHEMES
    for where, source in zip(ADDRESSES, SOURCES, strict=True)
    if chosen(source) == (scheme == SCHEMES[0])
]  # each page in one of both, in the other for another commit


FOUND = {
    "easy_margin": "topics/arcface/",
    "mm": "topics/arcface/",
    "th": "topics/arcface/",
    "sinmm": "topics/arcface/",
    "aam-softmax": "topics/arcface/",
    "characteristic gradient": "topics/arcface/",
    "am-softmax": "topics/cosface/",
    "large-margin cosine": "topics/cosface/",
    "sphereface": "topics/a-softmax/",
    "psi": "stages/margin/",
    "arcface": "topics/arcface/",
    "softmax": "topics/softmax/",
    "cross entropy": "topics/cross-entropy/",
}


def test_search_leads_to_the_page(visit, address):
    """The first result for what people type."""
    page, first = visit.page, {}
    page.goto(address, wait_until="load")
    for query, where in FOUND.items():
        page.locator(".md-search__input").fill(query)
        page.locator(".md-search__input").press("End")  # the search waits for a key
        result = page.locator(f'.md-search-result__item:first-child a[href*="{where}"]').first
        try:
            result.wait_for(state="attached", timeout=PATIENCE / len(FOUND))
        except Error:  # it did not come
            first[query] = page.locator(".md-search-result__item:first-child a").first.get_attribute("href")
    assert first == {}
    assert visit.complaints == []


def test_the_home_page_is_one_screen_and_the_losses_are_open(visit, address):
    page = visit.page
    page.set_viewport_size({"width": 1600, "height": 900})
    page.goto(address, wait_until="load")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    assert page.evaluate("() => document.querySelector('article').getBoundingClientRect().bottom") <= 900
    assert page.locator('.md-sidebar--primary a[href="topics/softmax/"]').is_visible()
    assert not page.locator('.md-sidebar--primary a[href="records/chain/"]').is_visible()
    assert visit.complaints == []


def test_implementations_are_searched_by_keyboard(visit, address):
    """The form is there by its script alone; without it the list stands as a whole."""
    page = visit.page
    page.goto(address + "testing/known/", wait_until="load")
    count = page.locator("form.implementations output")
    everything = f"{len(implementations())} of {len(implementations())}"
    expect(count).to_have_text(everything)
    page.locator("form.implementations input").focus()
    page.keyboard.type("catalyst ARCFACE")
    shown = [row for row in implementations() if row.library == "Catalyst" and "ArcFace" in f"{row.code} {row.loss}"]
    expect(count).to_have_text(f"{len(shown)} of {len(implementations())}")
    assert page.locator("ul.implementations > li:visible").count() == len(shown)
    assert page.locator("article h2:visible").count() == len({type(row.loss) for row in shown})
    page.keyboard.press("Tab")
    page.keyboard.type("ArcFace")
    expect(count).to_have_text(f"1 of {len(implementations())}")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(count).to_have_text(everything)  # after the event, when the form is empty again
    assert visit.complaints == []


LONGEST = """() => {
  let longest = 0;
  for (const text of document.querySelectorAll('article :is(p, li)')) {
    if (text.closest('table, .equation, .explained, form') || !text.checkVisibility()) continue;
    const range = document.createRange();
    const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
    const lines = new Map();
    while (walker.nextNode()) {
      const node = walker.currentNode;
      if (node.parentElement.closest('p, li') !== text || node.parentElement.closest('.katex')) continue;
      for (let i = 0; i < node.length; i++) {
        range.setStart(node, i);
        range.setEnd(node, i + 1);
        const box = range.getBoundingClientRect();
        if (box.width) lines.set(Math.round(box.bottom), (lines.get(Math.round(box.bottom)) || 0) + 1);
      }
    }
    longest = Math.max(longest, ...lines.values());
  }
  return longest;
}"""
CUT_OFF = """() => [...document.querySelectorAll('article table')].filter(table => {
  const right = Math.max(...[...table.querySelectorAll('th, td')].map(cell => cell.getBoundingClientRect().right));
  return right > document.documentElement.clientWidth;
}).map(table => table.textContent.trim().slice(0, 60))"""
PAPER = {"width": 718, "height": 1000}  # A4 with margins of 1 cm, at 96 to the inch


@pytest.mark.parametrize("where", [where for where in ADDRESSES if chosen(where)])
def test_lines_of_text_have_80_characters_at_most(visit, address, where):
    visit.page.set_viewport_size({"width": 1600, "height": 900})
    visit.page.goto(address + where, wait_until="load")
    assert 50 <= visit.page.evaluate(LONGEST) <= 80


@pytest.mark.parametrize("where", [where for where in ADDRESSES if chosen(where)])
def test_no_table_loses_a_column_on_paper(visit, address, where):
    visit.page.set_viewport_size(PAPER)
    visit.page.emulate_media(media="print")
    visit.page.goto(address + where, wait_until="load")
    assert visit.page.evaluate(CUT_OFF) == []


def test_a_badge_explains_itself_by_keyboard(visit, address):
    page = visit.page
    page.goto(address + "topics/arcface/", wait_until="load")
    badge = page.locator("button.kind.transcribed").first
    explained = page.locator("#kind-transcribed")
    assert not explained.is_visible()
    badge.focus()
    page.keyboard.press("Enter")
    expect(explained).to_be_visible()
    assert "in high precision" in explained.inner_text()
    page.keyboard.press("Escape")
    expect(explained).to_be_hidden()


def test_a_badge_explains_itself_by_touch(browser, address):
    context = _context(browser, has_touch=True, java_script_enabled=False, viewport={"width": 400, "height": 900})
    page = context.new_page()
    page.goto(address + "topics/arcface/", wait_until="load")
    page.locator("button.kind.evaluated").first.tap()
    expect(page.locator("#kind-evaluated")).to_be_visible()
    context.close()


def test_implementations_are_there_without_scripts(browser, address):
    context = _context(browser, java_script_enabled=False, viewport={"width": 400, "height": 900})
    page = context.new_page()
    page.goto(address + "testing/known/", wait_until="load")
    assert page.locator("ul.implementations > li:visible").count() == len(implementations())
    assert page.locator("form.implementations:visible").count() == 0
    context.close()


# ------------------------------------------------------------------------------------------------------------ explorer

EXPLORED = """async losses => {
  const explorer = await import('../javascripts/explorer.js');
  return losses.map(([name, settings, scene, angles]) => {
    const loss = explorer.settled(explorer.parsed(name, setting => settings[setting] ?? null));
    return [explorer.expression(loss), angles.map(angle => explorer.at(loss, angle, scene))];
  });
}"""
LEFT_OUT = {"SubCenterArcFace", "InterTopK"}
WRONG = 2.0**10 * 2.0**-53
"""What ψ, η and their slopes may be wrong by, where m1 is 8 at most.

An angle of the explorer is right to 4u, one of the vectors made for refloss to 9u; so φ = m1 θ + m2 is to 72u and the
roundings of 28u, a cosine or a sine of it to 128u in all, and its slope, m1 times that, to 1024u.
"""


def _explored(visit: Visit, address: str, cases: list[Any]) -> list[Any]:
    visit.page.goto(address + "explorer/", wait_until="load")
    return visit.page.evaluate(EXPLORED, cases)


@pytest.fixture
def explored_losses(visit, address) -> dict[str, dict[str, Any]]:
    """The settings of each loss as the explorer has them."""
    visit.page.goto(address + "explorer/", wait_until="load")
    table = visit.page.evaluate("async () => (await import('../javascripts/explorer.js')).LOSSES")
    return {name: {each["name"]: each for each in row["settings"]} for name, row in table.items()}


def test_the_explorer_has_every_loss_with_a_curve_and_its_defaults(visit, address, explored_losses):
    assert set(explored_losses) == {each.__name__ for each in LOSSES if hasattr(each, "target_logit")} - LEFT_OUT
    for (said, _), name in zip(
        _explored(visit, address, [[name, {}, {}, []] for name in explored_losses]), explored_losses, strict=True
    ):
        assert said == repr(getattr(refloss, name)())
    for name, settings in explored_losses.items():
        fields = {each.name for each in dataclasses.fields(getattr(refloss, name))}
        common = {each.name for each in dataclasses.fields(refloss.ModifiedSoftmax)}
        assert set(settings) == fields - common
    rules = {name: row["boundary"]["options"] for name, row in explored_losses.items() if "boundary" in row}
    for name, offered in rules.items():
        for rule in margin.RULES:
            if rule not in offered:
                with pytest.raises(ValueError, match="boundary must be"):
                    getattr(refloss, name)(boundary=rule)


def _settings(row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Each rule and other choice with the ends and a middle of each slider; and detached."""
    choices = {name: each["options"] for name, each in row.items() if "options" in each}
    sliders = [
        {name: str(value)}
        for name, each in row.items()
        if "step" in each
        for value in (each["low"], round(0.7 * each["low"] + 0.3 * each["high"], 1), each["high"])
    ]
    sliders += [{"s": text} for text in ("None", "16") if "s" in row]
    for picked in itertools.product(*choices.values()):
        for moved in ({}, {"gradient": "detached"}, *sliders):
            yield dict(zip(choices, picked, strict=True)) | moved


SCENES = [
    {"between": 1.57, "classes": 2, "norm": 20.0},
    {"between": 0.7, "classes": 3, "norm": 1.0},
    {"between": 2.6, "classes": 10, "norm": 60.0},
    {"between": 0.31, "classes": 5, "norm": 115.0},
]


def test_the_explorer_computes_what_refloss_does(visit, address, explored_losses):
    random = np.random.default_rng(22)
    ends = 1.5e-3, np.pi - 1.5e-3  # just outside of AdaFace's ε
    cases = [
        [name, settings, SCENES[number % len(SCENES)], [0.0, *ends, *random.uniform(0.0, np.pi, 10).tolist(), np.pi]]
        for name, row in explored_losses.items()
        for number, settings in enumerate(_settings(row))
    ]
    assert len(cases) > 500
    for (said, values), (_, _, scene, angles) in zip(_explored(visit, address, cases), cases, strict=True):
        loss = parse_loss(said)
        assert repr(loss) == said
        _compare(
            loss, scene, np.array(angles), {key: np.array([each[key] for each in values]) for key in NUMBERS}, said
        )


NUMBERS = ("psi", "slope", "p", "loss", "gradient")


def _compare(loss: Any, scene: dict[str, Any], theta: Any, found: dict[str, Any], said: str) -> None:
    """Compare what the explorer says at some angles, 0 and π the first and last, with refloss.

    Logits are wrong by s WRONG, their differences by twice that, and so are, relative to themselves, p, q = 1 - p and
    the other probabilities. Each part of the gradient is a sum of s q over ‖x‖ times slopes, or q times values, or
    s q ∂ψ/∂v (below 1).
    """
    length = {"length": scene["norm"]} if isinstance(loss, refloss.AdaFace | refloss.MagFace) else {}
    psi, slope = loss.target_logit(theta, **length), loss.target_slope(theta, **length)
    assert np.abs(found["psi"] - psi).max() <= WRONG, said
    assert np.abs(found["slope"] - slope).max() <= WRONG, said

    classes, between, norm = scene["classes"], scene["between"], scene["norm"]
    theta, psi, slope = theta[1:-1], psi[1:-1], slope[1:-1]  # where there is a tangent
    found = {name: values[1:-1] for name, values in found.items()}
    w = np.eye(classes)
    w[1, :2] = np.cos(between), np.sin(between)
    x = np.zeros((len(theta), classes))
    x[:, 0], x[:, 1] = norm * np.cos(theta), norm * np.sin(theta)
    y = np.zeros(len(theta), int)
    value, grad = dataclasses.replace(loss, reduction="none").value_and_grad(x, w, y)
    log_p = loss.trace(x, w, y)["log_softmax"].output[:, 0]
    p, q = np.exp(log_p), -np.expm1(log_p)
    s = norm if getattr(loss, "s", None) is None else loss.s
    relative = WRONG * (2.0 * s + 1.0)
    subnormal = 2.0 * 2.0**-1074  # both are rounded to that spacing
    assert (np.abs(found["p"] - p) <= relative * p * q + WRONG * p * (1.0 - log_p) + subnormal).all(), said
    assert (np.abs(found["loss"] - value) <= relative * q + WRONG * value).all(), said
    terms = s * q * (np.abs(slope) + 3.0) / norm + q * (np.abs(psi) + 3.0 + s)
    size = np.linalg.norm(grad.x, axis=1)
    assert (np.abs(found["gradient"] - size) <= relative * terms + WRONG * (size + 1.0)).all(), said


def test_the_explorer_finds_the_borders_that_are_derived(visit, address):
    """By halving until nothing changes: as right as the curves, over how steeply two of them cross."""
    visit.page.goto(address + "explorer/", wait_until="load")
    between = 1.3
    borders = {
        "NormFace": between / 2.0,
        "ASoftmax": between / 5.0,
        "CosFace": between / 2.0 - np.arcsin(0.35 / (2.0 * np.sin(between / 2.0))),
        "ArcFace": (between - 0.5) / 2.0,
    }
    found = visit.page.evaluate(
        """async ([names, scene]) => {
          const {arcs, borderOf, parsed} = await import('../javascripts/explorer.js');
          return names.map(name => borderOf(arcs(parsed(name), scene)));
        }""",
        [list(borders), {"between": between, "classes": 2, "norm": 20}],
    )
    assert np.abs(np.array(found) - list(borders.values())).max() <= 8.0 * WRONG


class Explorer:
    """The explorer as somebody sees and uses it."""

    def __init__(self, visit: Visit, address: str, query: str = "") -> None:
        self.page, self.address = visit.page, address
        self.page.goto(f"{address}explorer/{query}", wait_until="load")

    def says(self, name: str) -> str:
        """What an output says."""
        return self.page.locator(f"form.explorer output[name={name}]").inner_text()

    def value(self, name: str) -> str:
        """The value of an input."""
        return self.page.locator(f"form.explorer [name={name}]").input_value()

    def row(self, name: str) -> list[str]:
        """The numbers of a row of the table."""
        return self.page.locator(f"tr[data-row={name}] td").all_inner_texts()

    def curve(self, which: str, chart: str = "psi") -> str:
        """The line of a loss in a chart."""
        return self.page.locator(f"svg[data-chart={chart}] path.{which}").get_attribute("d") or ""

    def wait_for(self, holds: Callable[[dict[str, str]], bool]) -> None:
        """Wait until the query of the address, written a moment after a change, is as expected."""
        self.page.wait_for_url(lambda url: holds(dict(parse_qsl(urlsplit(url).query))))

    def press(self, name: str, *keys: str) -> None:
        """Press keys in an input."""
        self.page.locator(f"form.explorer [name={name}]").focus()
        for key in keys:
            self.page.keyboard.press(key)


def test_the_explorer_follows_a_link(visit, address):
    link = "?loss=CosFace&m=0.2&s=30&pin=ArcFace&pin-gradient=detached&pin-boundary=hard&theta=1&between=1.2&norm=7"
    seen = Explorer(visit, address, link)
    assert seen.says("expression") == "CosFace(s=30.0, m=0.2, boundary='none')"
    assert seen.says("pinned") == "ArcFace(gradient='detached', s=64.0, m=0.5, boundary='hard')"
    first, second = map(parse_loss, (seen.says("expression"), seen.says("pinned")))
    assert seen.row("psi") == [f"{each.target_logit(1.0):.4f}".replace("-", "−") for each in (first, second)]
    assert seen.row("slope") == [f"{each.target_slope(1.0):.4f}".replace("-", "−") for each in (first, second)]
    assert [seen.value(name) for name in ("theta", "between", "norm", "classes")] == ["1", "1.2", "7", "2"]
    assert seen.curve("second")
    seen.press("classes", "1")
    written = {"boundary": "none", "gradient": "exact", "pin-s": "64", "pin-m": "0.5"}
    written |= dict(parse_qsl(link[1:])) | {"classes": seen.value("classes")}
    seen.wait_for(lambda query: query == written)
    again = seen.page.url.removeprefix(f"{address}explorer/")
    said = seen.says("expression"), seen.says("pinned"), seen.row("gradient")
    seen = Explorer(visit, address, again)
    assert (seen.says("expression"), seen.says("pinned"), seen.row("gradient")) == said
    assert visit.complaints == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?loss=Nothing&pin=toString&m=abc&s=&theta=NaN&classes=7", "ArcFace(s=64.0, m=0.5, boundary='none')"),
        ("?loss=ArcFace&m=99&s=-5&boundary=conditional", "ArcFace(s=1.0, m=3.14, boundary='none')"),
        ("?loss=ASoftmax&s=None&m=2.04", "ASoftmax(s=None, m=2.0, annealing=0.0, boundary='monotone')"),
        ("?loss=SphereFaceR&version=2&m=0", "SphereFaceR(s=30.0, m=1.0, version=2)"),
        (
            "?loss=MagFace&l_m=1&u_m=0.5",
            "MagFace(s=64.0, l_a=10.0, u_a=110.0, l_m=1.0, u_m=1.0, regularizer=35.0, boundary='easy')",
        ),
    ],
)
def test_the_explorer_holds_a_link_within_what_there_is(visit, address, query, expected):
    seen = Explorer(visit, address, query)
    assert seen.says("expression") == expected == repr(parse_loss(expected))
    assert seen.value("classes") == "2"
    assert visit.complaints == []


def test_the_explorer_is_used_by_keyboard(visit, address):
    seen = Explorer(visit, address)
    before = seen.curve("first"), seen.curve("first", "gradient"), seen.row("psi")[0]
    seen.press("m", "ArrowRight", "ArrowRight")
    assert seen.says("expression") == "ArcFace(s=64.0, m=0.52, boundary='none')"
    after = seen.curve("first"), seen.curve("first", "gradient"), seen.row("psi")[0]
    assert not set(before) & set(after)
    seen.press("boundary", "h")
    seen.press("gradient", "d")
    assert seen.says("expression") == "ArcFace(gradient='detached', s=64.0, m=0.52, boundary='hard')"
    seen.press("pin", "Enter")
    assert seen.says("pinned") == seen.says("expression")
    seen.press("loss", "C", "o", "s")
    assert seen.says("expression") == "CosFace(s=64.0, m=0.35, boundary='none')"
    seen.press("s-none", "Space")
    assert seen.says("expression") == "CosFace(s=None, m=0.35, boundary='none')"
    assert seen.page.locator("[name=s]").is_disabled()
    seen.press("theta", "End")
    assert seen.row("psi")[0] == f"{np.cos(3.14) - 0.35:.4f}".replace("-", "−")
    seen.wait_for(lambda query: query.get("pin-m") == "0.52")
    seen.press("unpin", "Enter")
    assert seen.says("pinned") == "nothing"
    assert seen.curve("second") == ""
    seen.wait_for(lambda query: "pin" not in query)
    assert visit.complaints == []


def test_the_explorer_names_a_rule_that_cannot_act(visit, address):
    seen = Explorer(visit, address, "?loss=ArcFace&boundary=hard&m=0.01")
    assert seen.says("remark") == ""
    seen.press("m", "ArrowLeft")
    assert seen.says("expression") == "ArcFace(s=64.0, m=0.0, boundary='none')"
    assert '"hard"' in seen.says("remark")
    seen.press("m", "ArrowRight")
    assert seen.says("expression") == "ArcFace(s=64.0, m=0.01, boundary='hard')"


def test_the_explorer_is_used_by_mouse_and_copies_what_refloss_reads(visit, address):
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
    seen = Explorer(visit, address, "?between=2")
    seen.page.set_viewport_size({"width": 1600, "height": 1000})
    chart = seen.page.locator("svg[data-chart=p]").bounding_box()
    middle = chart["y"] + chart["height"] / 2
    seen.page.mouse.move(chart["x"] + 0.4 * chart["width"], middle)
    assert seen.value("theta") == "0.55"  # nothing is held down
    seen.page.mouse.down()
    left = float(seen.value("theta"))
    seen.page.mouse.move(chart["x"] + 0.8 * chart["width"], middle, steps=4)
    right = float(seen.value("theta"))
    seen.page.mouse.up()
    seen.page.mouse.move(chart["x"], middle)
    assert float(seen.value("theta")) == right
    # the axis of angles is 272 of 320 units long
    assert abs(right - left - 0.4 * np.pi * 320.0 / 272.0) < 0.03

    circle = seen.page.locator("svg[data-circle]").bounding_box()
    seen.page.mouse.click(circle["x"] + circle["width"] / 2, circle["y"] + 0.1 * circle["height"])
    assert abs(float(seen.value("theta")) - 1.0) < 0.03  # the top of the circle is in the middle
    theta = seen.value("theta")
    seen.wait_for(lambda query: query.get("theta") == theta)

    seen.page.locator("button[name=copy]").click()
    seen.page.wait_for_function("document.querySelector('.explorer [name=remark]').textContent")
    assert seen.says("remark") == "Copied."
    text = seen.page.evaluate("() => navigator.clipboard.readText()")
    assert text == seen.says("expression") == repr(parse_loss(text))
    assert visit.complaints == []


def test_the_explorer_is_used_by_touch_in_a_narrow_window(browser, address):
    context = _context(browser, has_touch=True, viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.goto(address + "explorer/", wait_until="load")
    chart = page.locator("svg[data-chart=gradient]")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 1, box["y"] + 50)
    expect(page.locator("[name=theta]")).to_have_value("3.14")
    assert page.evaluate(WIDE) == 0
    context.close()


@pytest.mark.parametrize("visit", SCHEMES, indirect=True)
def test_the_explorer_has_no_violation(visit, address):
    """Of any rule that axe has, with every loss that has inputs of its own kind."""
    for query in ("?loss=ASoftmax&pin=ArcFace", "?loss=MagFace", "?loss=SphereFaceR"):
        seen = Explorer(visit, address, query)
        for width in WIDTHS:
            seen.page.set_viewport_size({"width": width, "height": 900})
            assert _faults(seen.page) == []
            found = seen.page.evaluate(
                """async () => (await axe.run('form.explorer')).violations.flatMap(each =>
                  each.nodes.map(node => `${each.id}: ${node.target} ${node.failureSummary}`))"""
            )
            assert found == [], (query, width)
    assert visit.complaints == []


def test_the_explorer_says_that_it_needs_scripts(browser, address):
    context = _context(browser, java_script_enabled=False)
    page = context.new_page()
    page.goto(address + "explorer/", wait_until="load")
    assert page.locator("form.explorer:visible").count() == 0
    assert "scripts are switched off" in page.locator("article").inner_text()
    context.close()


@pytest.mark.parametrize(
    ("visit", "where"),
    [each[:2] for each in DRAWN],
    ids=[f"{source}-{scheme}" for scheme, _, source in DRAWN],
    indirect=["visit"],
)
def test_a_page_is_fit_to_be_read(visit, address, where, known):
    visit.page.goto(address + where, wait_until="load")
    for width in WIDTHS:
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert _faults(visit.page, known) == [], width
    assert visit.complaints == []


GOOD = """<!doctype html><html lang="en"><title>t</title><body style="background: white; color: black"><article>
<h1>One</h1><p>Text.</p>INSERTED</article></body></html>"""
FAULTS = {
    "TeX left": r"<p>so that \frac{1}{2}</p>",
    "scrolls sideways": '<div style="width: 3000px">wide</div>',
    "image not loaded": '<img alt="nothing" src="nothing.png">',
    "drawing without a name": '<svg width="100" height="100"></svg>',
    "color-contrast": '<p style="color: #ccc">faint</p>',
    "heading-order": "<h4>four</h4>",
    "empty-heading": "<h2></h2>",
    "image-alt": '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">',
    "svg-img-alt": '<svg role="img" width="9" height="9"></svg>',
}


def _show(visit: Visit, address: str, body: str) -> None:
    visit.page.route("**/made-up", lambda route: route.fulfill(body=body, content_type="text/html"))
    visit.page.goto(address + "made-up", wait_until="load")


def test_a_page_without_faults_has_none(visit, address):
    _show(visit, address, GOOD.replace("INSERTED", ""))
    assert _faults(visit.page) == []
    assert visit.complaints == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(visit, address, fault):
    _show(visit, address, GOOD.replace("INSERTED", FAULTS[fault]))
    assert any(each.startswith(fault) for each in _faults(visit.page))


FAINT_ONCE_WIDE = {
    "itself": "@media (min-width: 800px) { .katex { color: #ccc } }",
    "inside": "@media (min-width: 800px) { .katex span { color: #ccc } }",
    "under": "@media (min-width: 800px) { p { background: #222 } }",
}


@pytest.mark.parametrize("where", FAINT_ONCE_WIDE)
def test_contrast_is_looked_at_again_where_colours_change(visit, address, where):
    formula = f'<style>{FAINT_ONCE_WIDE[where]}</style><p><span class="katex"><span>x + y</span></span></p>'
    _show(visit, address, GOOD.replace("INSERTED", formula))
    known: set[str] = set()
    for width in WIDTHS:
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert any(each.startswith("color-contrast: .katex") for each in _faults(visit.page, known)) == (width == 900)
        assert len(known) == (3 if width == 400 else 4)  # a heading, text, an outline


@pytest.mark.parametrize(
    "script",
    ["console.error('bad')", "throw new Error('bad')", "fetch('https://example.org/')", "fetch('/no-such-file')"],
)
def test_a_complaint_of_the_browser_is_heard(visit, address, script):
    _show(visit, address, GOOD.replace("INSERTED", f"<script>{script}</script>"))
    visit.page.wait_for_load_state("networkidle")
    assert visit.complaints
