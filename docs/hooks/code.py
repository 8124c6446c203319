"""MkDocs hook: show code as it stands in the tree, its docstring set above its body.

    ::pair refloss.stages.margin              forward and backward side by side
    ::source refloss.stages.margin.folded     one function or class
    ::formula refloss.losses.margin.ArcFace   the displayed formulas of a docstring; a number after it picks one
    ::about refloss.stages.margin             a module's docstring

Each directive is a line of its own; fenced code is left alone. A docstring that is not there stops the build.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from griffe import Docstring, Parser
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
DIRECTIVE = re.compile(
    r"^(?:(`{3,}|~{3,}).*?^\1`*$|::(pair|source|formula|about) (\S+)(?: (\d+))?$)", re.MULTILINE | re.DOTALL
)
DISPLAY = re.compile(r"\$\$.+?\$\$", re.DOTALL)
Definition: TypeAlias = ast.FunctionDef | ast.ClassDef


class Source(NamedTuple):
    """A module or a definition, and the file that has it."""

    path: str
    text: str
    node: ast.Module | Definition


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace each directive by what it asks for."""
    level = 2 if page.file.src_uri.startswith("stages/") else 3

    def show(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        try:
            return SHOWN[match[2]](match[3], int(match[4] or 0), level)
        except LookupError as error:
            raise PluginError(f"{page.file.src_uri}: {match[0]}: {error}") from error

    return DIRECTIVE.sub(show, markdown)


def _pair(name: str, _: int, level: int) -> str:
    halves = (
        f'<div markdown="1">\n\n{"#" * level} {half.capitalize()}\n\n{_shown(_find(f"{name}.{half}"))}\n\n</div>\n'
        for half in ("forward", "backward")
    )
    return f'<div class="pair" markdown="1">\n{"".join(halves)}</div>\n'


def _source(name: str, _: int, level: int) -> str:
    return f'<div class="source" markdown="1">\n\n{_shown(_find(name))}\n\n</div>\n'


def _formulas(name: str, which: int, level: int) -> str:
    formulas = DISPLAY.findall(_docstring(_find(name)))
    chosen = formulas[which - 1 : which] if which else formulas
    if not chosen:
        raise LookupError("no such formula")
    return "\n\n".join(chosen)


def _about(name: str, _: int, level: int) -> str:
    return _docstring(_find(name))


SHOWN: dict[str, Callable[[str, int, int], str]] = {
    "pair": _pair,
    "source": _source,
    "formula": _formulas,
    "about": _about,
}


def _find(name: str) -> Source:
    """Look a dotted name up in the tree: as much of it as is a file, and the rest in that file."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = Path(*parts[:count]).with_suffix(".py")
        if (ROOT / path).is_file():
            text = (ROOT / path).read_text()
            node: ast.Module | Definition = ast.parse(text)
            for part in parts[count:]:
                inner = [n for n in node.body if isinstance(n, Definition) and n.name == part]
                if not inner:
                    raise LookupError(f"{path} has no {part}")
                node = inner[0]
            return Source(path.as_posix(), text, node)
    raise LookupError("no such module")


def _docstring(source: Source) -> str:
    text = ast.get_docstring(source.node)
    if not text:
        raise LookupError("no docstring")
    return text


def _shown(source: Source) -> str:
    """A docstring, and the body below it with its line numbers."""
    assert not isinstance(source.node, ast.Module)
    lines = source.text.splitlines()
    if isinstance(source.node, ast.ClassDef):
        first, body = source.node.lineno, lines[source.node.lineno - 1 : source.node.end_lineno]
        text = ""
    else:
        signature = lines[source.node.lineno - 1 : source.node.body[0].lineno - 1]
        text = _sections(ast.get_docstring(source.node) or "")
        first = _body_line(source.node, lines)
        body = lines[first - 1 : source.node.end_lineno]
        text += "\n\n" + _fence("\n".join(signature), "")
    indent = min(len(line) - len(line.lstrip()) for line in body if line)
    return (
        text + "\n\n" + _fence("\n".join(line[indent:] for line in body), f' title="{source.path}" linenums="{first}"')
    )


def _body_line(node: Definition, lines: list[str]) -> int:
    """Where the body begins below its docstring, comments above its first statement included."""
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return first.lineno
    line = (first.end_lineno or first.lineno) + 1
    while not lines[line - 1].strip():
        line += 1
    return line


def _fence(code: str, options: str) -> str:
    return f"```{{.python{options}}}\n{code}\n```"


def _sections(text: str) -> str:
    """Set numpydoc's sections as lists; what stands before them stays as it is."""
    out = []
    for section in Docstring(text).parse(Parser.numpy, warnings=False):
        if section.kind.value == "text":
            out.append(section.value)
            continue
        out.append(f"**{section.title or section.kind.value.capitalize()}**")
        out.append("\n".join(f"- {_item(item)}" for item in section.value))
    return "\n\n".join(out)


def _item(item: Any) -> str:
    name = getattr(item, "name", "") or str(item.annotation or "")
    described = " ".join(item.description.split())
    return f"`{name}`: {described}" if name else described
