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
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

import pytest

if os.environ.get("REFLOSS_SITE") != "1":
    pytest.skip("the site is built and looked at with REFLOSS_SITE=1 only", allow_module_level=True)

import yaml
from playwright.sync_api import Page, sync_playwright

import refloss
from refloss.engines import chain
from support.sampled import chosen

ROOT = Path(__file__).parents[1]
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


@pytest.fixture
def visit(browser, address, request):
    """A page in one of the palettes, which may load from the served site only."""
    scheme = getattr(request, "param", "light")
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
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
    page.on("requestfailed", lambda failed: complaints.append(f"failed: {failed.url}"))
    page.on(
        "response",
        lambda response: complaints.append(f"{response.status}: {response.url}") if not response.ok else None,
    )
    yield Visit(page, complaints)
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
