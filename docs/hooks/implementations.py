"""MkDocs hook: a line `::implementations` becomes what `refloss.testing.known` lists, with a search and filters.

Everything stands on the page. The form for searching is hidden until its script runs, which asks for nothing else.
"""

from __future__ import annotations

import re
from html import escape
from itertools import groupby
from typing import Any

from refloss.losses import LOSSES
from refloss.testing import Implementation, known

DIRECTIVE = re.compile(r"^::implementations$", re.MULTILINE)
KINDS = {
    "run": "run by the tests",
    "read": "read",
    "equal": "equal to a loss",
    "different": "equal to no loss as it stands",
}
SCRIPT = """<script>
(() => {
  const form = document.querySelector("form.implementations");
  const items = [...document.querySelectorAll("ul.implementations > li")];
  const texts = new Map(items.map(item => [item, item.textContent.toLowerCase()]));
  const count = form.querySelector("output");
  const filter = () => {
    const words = form.elements.words.value.toLowerCase().split(/\\s+/).filter(Boolean);
    const chosen = ["loss", "framework", "kind"].map(name => [name, form.elements[name].value]).filter(pair => pair[1]);
    for (const item of items) {
      const fits = chosen.every(([name, value]) => item.dataset[name].split(" ").includes(value));
      item.hidden = !(fits && words.every(word => texts.get(item).includes(word)));
    }
    for (const list of document.querySelectorAll("ul.implementations")) {
      list.hidden = list.previousElementSibling.hidden = [...list.children].every(item => item.hidden);
    }
    count.textContent = `${items.filter(item => !item.hidden).length} of ${items.length}`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  form.hidden = false;
  filter();
})();
</script>"""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the list in."""
    return DIRECTIVE.sub(lambda _: _listed(), markdown)


def _listed() -> str:
    rows = sorted(known(), key=_place)
    parts = [_form(rows)]
    for loss, group in groupby(rows, key=_name):
        items = "\n".join(map(_item, group))
        parts.append(f'## {loss}\n\n<ul class="implementations">\n{items}\n</ul>')
    return "\n\n".join([*parts, SCRIPT])


def _place(row: Implementation) -> tuple[int, bool, str]:
    """Losses in the order of the reference; what the tests run comes first."""
    return LOSSES.index(type(row.loss)), row.status != "run", row.library.lower()


def _name(row: Implementation) -> str:
    return type(row.loss).__name__


def _form(rows: list[Implementation]) -> str:
    losses = {name: name for name in dict.fromkeys(map(_name, rows))}
    frameworks = {name: name for name in dict.fromkeys(row.framework for row in known())}
    fields = [
        '<label>Search <input type="search" name="words" autocomplete="off"></label>',
        _choice("Loss", "loss", losses),
        _choice("Framework", "framework", frameworks),
        _choice("Show", "kind", KINDS),
        '<button type="reset">Reset</button>',
        "<output></output>",
    ]
    return '<form class="implementations" role="search" hidden>\n' + "\n".join(fields) + "\n</form>"


def _choice(label: str, name: str, choices: dict[str, str]) -> str:
    options = "".join(f'<option value="{value}">{said}</option>' for value, said in choices.items())
    return f'<label>{label} <select name="{name}"><option value="">all</option>{options}</select></label>'


def _item(row: Implementation) -> str:
    kind = f"{row.status} {'equal' if row.equal else 'different'}"
    sign, loss = ("=", row.emulated) if row.emulated else ("Nearest:", row.loss)
    lines = [
        f"<p><b>{escape(row.library)}</b> <code>{escape(row.code)}</code></p>",
        f"<p>{sign} <code>{escape(str(loss))}</code></p>",
    ]
    if row.differs:
        lines.append(f"<p>{_text(row.differs)}</p>")
    if row.remarks:
        lines.append(f"<p>{_text(row.remarks)}</p>")
    if row.defaults:
        lines.append(f"<p>Defaults: <code>{escape(row.defaults)}</code></p>")
    lines.append(f"<p>{_source(row)}</p>")
    data = f'data-loss="{_name(row)}" data-framework="{row.framework}" data-kind="{kind}"'
    return f"<li {data}>{''.join(lines)}</li>"


def _source(row: Implementation) -> str:
    """Where the code is, and how it is known."""
    said = [row.framework]
    if row.units:
        said.append(f"margin in {row.units}")
    if row.status == "run":
        said.append(f'run: <a href="{row.url}">{row.package} {row.revision}</a>, {escape(row.path)}')
    else:
        said.append(f'read: <a href="{row.url}">{escape(row.repository)} at {row.revision[:7]}</a>, {escape(row.path)}')
    return " · ".join(said)


def _text(sentences: str) -> str:
    """Text with settings such as boundary='easy' as code."""
    return re.sub(r"\b(\w+=(?:'\w+'|\w+)|\w+\([^()]*\))", r"<code>\1</code>", escape(sentences, quote=False))
