"""What mutants of refloss.testing the tests notice: mutmut changes one thing in one function at a time.

Beside what mutmut changes by itself, each term of a sum is made a hundred times as large: whether a budget is too wide
nothing else tells. Properties are mutated as other methods are. Where a verdict is made (`VERDICT`) every mutant is
tried, of the rest a sample. The tests, and the files that are mutated, are named in pyproject.toml, under tool.mutmut.
"""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SEED = 16
SAMPLE = 150
"""How many mutants are tried of functions that are not in `VERDICT`."""
VERDICT = """
conformance: compare _complaint _shares _finite _twice _tried _groups _own _Expected
conformance: wanted_gradients writable_inputs takes_bias
conformance: _Judge assert_close assert_conforms conforms
report: refused Quantity Result Report Conformance
budgets: bounds ladder arithmetic as_loss _reduced _put_back _stored
hard_cases: cases sizes counts_nothing
adapters.results: separate_gradients parts changed upstream_for finish _of_mapping _by_name read as_array
adapters: call _module ready
"""
EXPLAINED = ROOT / "benchmarks" / "survivors.md"
"""Why a mutant survives, a row each: function, the line, what it became, and the reason."""


def measured(seed: int) -> list[dict[str, Any]]:
    """Try mutants in a copy of the tree: one row each, with the lines that differ where none of the tests failed."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("refloss", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(folder) / part)
        command = [sys.executable, __file__, "--seed", str(seed)]
        subprocess.run(command, cwd=folder, check=True)
        rows: list[dict[str, Any]] = json.loads((Path(folder) / "rows.json").read_text())
    return rows


def write(measured: Any, commit: str, out: Path) -> None:
    """Write docs/records/mutants.md: counts by file, and each survivor with its reason."""
    import facts

    rows = measured.rows
    counts = []
    for file in sorted({row["file"] for row in rows}):
        of_file = [row["status"] for row in rows if row["file"] == file]
        survived = sum(status in ("survived", "no tests") for status in of_file)
        counts.append((f"`{file}`", str(len(of_file)), str(len(of_file) - survived), str(survived)))
    reasons = dict(_reasons())
    survivors = []
    for row in rows:
        if row["status"] in ("survived", "no tests"):
            key = (row["function"], row["was"], row["now"])
            cells = (f"`{entry}`" if entry else "" for entry in map(_cell, key))
            survivors.append((*cells, reasons.get(tuple(map(_cell, key)), "not explained yet")))
    (out / "mutants.md").write_text(
        f"""\
# Mutants of refloss.testing

{__doc__.partition(": ")[2]}
{facts.lines(measured, commit, ("mutmut", "numpy", "pytest"))}

{facts.table(("file", "mutants", "killed", "survived"), counts)}

## Survivors

{facts.table(("function", "line", "became", "why no test fails"), survivors, words=4)}
"""
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _reasons() -> Iterator[tuple[tuple[str, ...], str]]:
    for line in EXPLAINED.read_text().splitlines() if EXPLAINED.exists() else ():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            yield tuple(cell.strip("`") for cell in cells[:3]), cells[3]


# ----------------------------------------------------------------------------------------------------- inside the copy


def plain(source: str) -> str:
    """Turn each ``@property`` into a method and an assignment, since mutmut leaves decorated functions alone."""
    lines = source.splitlines()
    for cls in [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)][::-1]:
        for node in cls.body[::-1]:
            decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", ())]
            if isinstance(node, ast.FunctionDef) and decorators == ["property"]:
                lines.insert(node.end_lineno or 0, f"    {node.name} = property({node.name})")
                del lines[node.decorator_list[0].lineno - 1]
    return "\n".join(lines) + "\n"


def hundredfold(node: Any) -> Iterator[Any]:
    """Make each term of a sum a hundred times as large."""
    import libcst as cst

    def more(term: Any) -> Any:
        grouped = term.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        return cst.BinaryOperation(cst.Float("100.0"), cst.Multiply(), grouped)

    if isinstance(node, cst.AugAssign):
        if isinstance(node.operator, cst.AddAssign | cst.SubtractAssign):
            yield node.with_changes(value=more(node.value))
    elif isinstance(node.operator, cst.Add | cst.Subtract):
        yield node.with_changes(right=more(node.right))
        left = node.left
        if not (isinstance(left, cst.BinaryOperation) and isinstance(left.operator, cst.Add | cst.Subtract)):
            yield node.with_changes(left=more(left))


def chosen(names: list[str], seed: int) -> list[str]:
    """All mutants of functions that make a verdict, and a sample of the others."""
    whole = set()
    for line in VERDICT.strip().splitlines():
        module, _, functions = line.partition(": ")
        whole |= {(f"refloss.testing.{module}", function) for function in functions.split()}

    def place(name: str) -> tuple[str, str]:
        module, _, function = name.rpartition(".")
        function = function.partition("__mutmut")[0]
        return module, function.split("ǁ")[1] if "ǁ" in function else function.removeprefix("x_")

    rest = [name for name in names if place(name) not in whole]
    some = set(random.Random(seed).sample(rest, min(SAMPLE, len(rest))))
    return [name for name in names if name in some or place(name) in whole]


def row(name: str, path: str, status: str) -> dict[str, Any]:
    """Describe a mutant: where it is and, if it survived, what it changed."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    was = now = ""
    if status != "killed":
        changes = get_diff_for_mutant(name).splitlines()[2:]
        was, now = (" ".join(line[1:].strip() for line in changes if line.startswith(sign)) for sign in "-+")
    function = name.rpartition(".")[2].partition("__mutmut")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    return {"file": path, "function": function, "name": name, "status": status, "was": was, "now": now}


def main() -> None:
    """Prepare the copy that is the working directory, run mutmut in it, and keep what it found."""
    import argparse

    import libcst as cst
    from _pytest.nodes import Node
    from mutmut import __main__ as mutmut
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.mutators import mutation_operators
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.file_utils import walk_mutatable_files

    if not hasattr(Node, "_nodeid"):  # mutmut 3.8.0 reads it, pytest 9.2 no longer has it
        Node._nodeid = property(lambda self: self.nodeid)  # type: ignore[attr-defined]
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", nargs="*", help="patterns of names, instead of the sample")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    for path in walk_mutatable_files():
        text = path.read_text()
        if plain(text) != text:
            path.write_text(plain(text))
    mutation_operators += [(cst.BinaryOperation, hundredfold), (cst.AugAssign, hundredfold)]
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.create_mutants(1)

    def known() -> dict[str, tuple[str, int | None]]:
        found = {}
        for path in walk_mutatable_files():
            data = SourceFileMutationData(path=path)
            data.load()
            found |= {name: (str(path), code) for name, code in data.exit_code_by_key.items()}
        return found

    names = chosen(list(known()), options.seed)
    if options.only:
        import fnmatch

        names = [name for name in known() if any(fnmatch.fnmatch(name, each) for each in options.only)]
    if options.list:
        print(len(known()), len(names))
        Path("names.txt").write_text("\n".join(names))
        return
    mutmut._run(names, 1)
    found = known()
    rows = [row(name, found[name][0], status_by_exit_code[found[name][1]]) for name in names]
    Path("rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
