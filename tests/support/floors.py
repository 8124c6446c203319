"""The imports of a package's modules, read from their source: which run upwards, and which go in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Floors = Sequence[Sequence[str]]  # top to bottom; a floor has modules and packages by their names in the root package


def modules(root: Path) -> dict[str, Path]:
    """The source of each module of the package in `root`, by its full name."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return sources


def imports(name: str, sources: Mapping[str, Path]) -> set[str]:
    """Modules of the package that a module imports anywhere in it: in functions and for type checkers too.

    Where a package has no module of the imported name, the package itself is imported.
    """
    source = sources[name]
    package = name if source.name == "__init__.py" else name.rpartition(".")[0]
    imported = set(imported_names(source, package))
    return {_module_of(it, sources) for it in imported if it.partition(".")[0] == name.partition(".")[0]}


def imported_names(source: Path, package: str = "") -> Iterator[str]:
    """Full names of the modules, and of what is in them, that a file in the package imports."""
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names, level):
                above = package.split(".")[: 1 - level or None] if level else []
                yield from (".".join([*above, *filter(None, [module]), alias.name]) for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module


def _module_of(imported: str, sources: Mapping[str, Path]) -> str:
    while imported not in sources:
        imported, dot, _ = imported.rpartition(".")
        assert dot, f"{imported} is not a module of {', '.join(sources)}"
    return imported


def upward(root: Path, floors: Floors) -> list[str]:
    """Imports from a floor above, and modules that no floor has.

    The root module loads public names from any floor. `floors` has its name too: no module below that imports it.
    """
    sources = modules(root)
    height = {name: -depth for depth, floor in enumerate(floors) for name in floor}
    faults = []
    for name in sources:
        if name == root.name:
            continue
        if _floor_name(name) not in height:
            faults.append(f"{name} is on no floor")
            continue
        for other in sorted(imports(name, sources)):
            if height.get(_floor_name(other), 1) > height[_floor_name(name)]:
                faults.append(f"{name} imports {other}")
    return faults


def _floor_name(module: str) -> str:
    """The module or package directly in the root package, or the root's own name."""
    return (*module.split("."), module)[1]


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle, with those that import them; none where there is no circle."""
    sources = modules(root)
    waiting = {name: imports(name, sources) - {name} for name in sources if name != root.name}
    while free := {name for name, others in waiting.items() if not others & waiting.keys()}:
        waiting = {name: others for name, others in waiting.items() if name not in free}
    return sorted(waiting)
