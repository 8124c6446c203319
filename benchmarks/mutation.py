"""What mutants of refloss the tests notice: mutmut changes one thing in one function at a time.

Beside what mutmut changes by itself: a term of a sum is made a hundred times as large, or left out; a call is replaced
by its first argument, or left out where its result is not used, as is a raise; the entries that a mask or a list of
numbers picks are replaced by as many from the front; and a length counts no further than 64. Decorated functions, and
the lambdas of a module's tables, are mutated as others are. Mutants are drawn; of the functions of refloss.testing
half of them where a verdict is made (`VERDICT`). The files that are mutated, and the tests that are asked, are named in
`AREAS`.
"""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Area(NamedTuple):
    """Files that are mutated together, since the same tests are asked."""

    files: str
    """Patterns, with spaces between them; an exclamation mark before what is left out."""
    tests: str
    """Quick tests of one thing each: a mutant costs seconds. The long ones would find no other mutants, in hours."""
    rounds: int
    size: int
    """How many mutants a round draws, none of them twice."""


AREAS = {
    "testing": Area(
        "testing/conformance testing/report testing/hard_cases testing/budgets testing/errors testing/adapters/* "
        "!testing/adapters/jax",  # each mutant is a fork, which JAX does not survive
        "adapters comparison errors hard_cases odd_values report",
        rounds=2,
        size=100,
    ),
    "inputs": Area("inputs", "inputs odd_values", rounds=1, size=100),
    "stages": Area(
        "stages/*",
        "angle chain cosine cross_entropy dd linear log_softmax logits margin normalize softmax triplet",
        rounds=3,
        size=100,
    ),
    "engines": Area(
        "engines/* !engines/kernels !engines/certified",  # compiled; an engine of its own, and the tests' yardstick
        "chain contract dd fused routes threads",
        rounds=3,
        size=100,
    ),
}
MINUTE = 60.0
"""Of the tests that reach a function each mutant is asked the quickest, no more than take so many seconds together."""
ROUNDS = [(name, number) for name, area in AREAS.items() for number in range(area.rounds)]
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
    area, number = ROUNDS[seed]
    with tempfile.TemporaryDirectory() as folder:
        for part in ("refloss", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(folder) / part)
        command = [sys.executable, __file__, area, str(number)]
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
    killed = sum(int(count[2]) for count in counts)
    reasons = dict(_reasons())
    survivors = []
    for row in rows:
        if row["status"] in ("survived", "no tests"):
            key = (row["function"], row["was"], row["now"])
            cells = (f"`{entry}`" if entry else "" for entry in map(_cell, key))
            survivors.append((*cells, reasons.get(tuple(map(_cell, key)), "not explained yet")))
    (out / "mutants.md").write_text(
        f"""\
# Mutants

{__doc__.partition(": ")[2]}
- mutants: {len(rows)}, killed: {killed}
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


def undecorated(source: str) -> str:
    """Turn decorators into assignments after the function, since mutmut leaves decorated functions alone."""
    lines, tree = source.splitlines(), ast.parse(source)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        decorators = [ast.unparse(each) for each in node.decorator_list]
        if decorators and not {"overload", "staticmethod", "classmethod"} & {*decorators}:
            calls = "".join(f"{decorator}(" for decorator in decorators)
            indent = " " * node.col_offset
            lines.insert(node.end_lineno or 0, f"{indent}{node.name} = {calls}{node.name}{')' * len(decorators)}")
            del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join(lines) + "\n"


def named(source: str) -> str:
    """Turn the lambdas of a module's tables into functions, since mutmut changes nothing outside of functions."""

    def outermost(node: ast.AST) -> Iterator[ast.Lambda]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Lambda):
                yield child
            else:
                yield from outermost(child)

    lines = source.splitlines(keepends=True)
    for statement in ast.parse(source).body[::-1]:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            first, last = statement.lineno - 1, statement.end_lineno
            text = "".join(lines[first:last])
            functions: list[str] = []
            for each in outermost(statement):
                target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
                name, old = f"_{ast.unparse(target)}_{len(functions)}", ast.get_source_segment(source, each)
                functions.append(f"def {name}({ast.unparse(each.args)}):\n    return ({ast.unparse(each.body)})\n\n")
                text = text.replace(old or "", name, 1)
            lines[first:last] = [*functions, text]
    return "".join(lines)


def operators() -> Iterator[tuple[type, Any]]:
    """What is changed beside what mutmut changes by itself: a kind of node, and what becomes of it."""
    import libcst as cst

    def text(node: Any) -> str:
        return f"({cst.Module([]).code_for_node(node)})"

    def hundredfold(node: Any) -> Iterator[Any]:
        def more(term: Any) -> Any:
            return cst.parse_expression(f"(100.0 * {text(term)})")

        if isinstance(node, cst.AugAssign):
            if isinstance(node.operator, cst.AddAssign | cst.SubtractAssign):
                yield node.with_changes(value=more(node.value))
        elif isinstance(node.operator, cst.Add | cst.Subtract):
            yield node.with_changes(right=more(node.right))
            left = node.left
            if not (isinstance(left, cst.BinaryOperation) and isinstance(left.operator, cst.Add | cst.Subtract)):
                yield node.with_changes(left=more(left))

    def without_a_term(node: Any) -> Iterator[Any]:
        if isinstance(node.operator, cst.Add | cst.Subtract):
            yield cst.parse_expression(text(node.left))
            yield cst.parse_expression(text(node.right))

    def first_argument(node: Any) -> Iterator[Any]:
        if node.args and not node.args[0].star and node.args[0].keyword is None:
            yield cst.parse_expression(text(node.args[0].value))
        elif not node.args and isinstance(node.func, cst.Attribute):
            yield cst.parse_expression(text(node.func.value))

    def left_out(node: Any) -> Iterator[Any]:
        if isinstance(node, cst.Raise) or isinstance(node.value, cst.Call):
            yield cst.Pass()

    def from_the_front(node: Any) -> Iterator[Any]:
        if len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
            index = node.slice[0].slice.value
            if isinstance(index, cst.Name | cst.Attribute | cst.Comparison | cst.UnaryOperation | cst.Subscript):
                yield cst.parse_expression(f"{text(node.value)}[: len({text(node)})]")

    def up_to_64(node: Any) -> Iterator[Any]:
        if isinstance(node, cst.Call):
            length = isinstance(node.func, cst.Name) and node.func.value == "len"
        else:
            length = isinstance(node.value, cst.Attribute) and node.value.attr.value == "shape"
        if length:
            yield cst.parse_expression(f"min({text(node)}, 64)")

    yield cst.AugAssign, hundredfold
    yield cst.BinaryOperation, hundredfold
    yield cst.BinaryOperation, without_a_term
    yield cst.Call, first_argument
    yield cst.Expr, left_out
    yield cst.Raise, left_out
    yield cst.Subscript, from_the_front
    yield cst.Call, up_to_64
    yield cst.Subscript, up_to_64


def chosen(names: list[str], area: Area, number: int) -> list[str]:
    """Draw a round's mutants, half of them of functions that make a verdict where there are such."""
    whole = set()
    for line in VERDICT.strip().splitlines():
        module, _, functions = line.partition(": ")
        whole |= {(f"refloss.testing.{module}", function) for function in functions.split()}

    def place(name: str) -> tuple[str, str]:
        module, _, function = name.rpartition(".")
        function = function.partition("__mutmut")[0]
        return module, function.split("ǁ")[1] if "ǁ" in function else function.removeprefix("x_")

    kinds = [[name for name in names if (place(name) in whole) == verdict] for verdict in (True, False)]
    kinds = [sorted(kind) for kind in kinds if kind]
    size = area.size // len(kinds)
    drawn: set[str] = set()
    for kind in kinds:
        random.Random(0).shuffle(kind)
        drawn |= {*kind[number * size : (number + 1) * size]}
    return [name for name in names if name in drawn]


def row(name: str, path: str, status: str) -> dict[str, Any]:
    """Describe a mutant: where it is and, if it survived, what it changed."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    was = now = ""
    if status != "killed":
        changes = get_diff_for_mutant(name).splitlines()[2:]
        was, now = (" ".join(line[1:].strip() for line in changes if line.startswith(sign)) for sign in "-+")
    function = name.rpartition(".")[2].partition("__mutmut")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    return {"file": path, "function": function, "name": name, "status": status, "was": was, "now": now}


def prepare(area: Area) -> None:
    """Tell mutmut what to mutate and which tests to ask, the quick ones first; make its mutants."""
    from _pytest.nodes import Node
    from mutmut import __main__ as mutmut
    from mutmut.configuration import config
    from mutmut.mutation import file_mutation, mutators
    from mutmut.runners.harness import PytestRunner
    from mutmut.state import state
    from mutmut.utils.file_utils import walk_mutatable_files

    if not hasattr(Node, "_nodeid"):  # mutmut 3.8.0 reads it, pytest 9.2 no longer has it
        Node._nodeid = property(lambda self: self.nodeid)  # type: ignore[attr-defined]
    patterns = [(name.startswith("!"), f"refloss/{name.removeprefix('!')}.py") for name in area.files.split()]
    config().only_mutate = [pattern for left_out, pattern in patterns if not left_out]
    config().do_not_mutate = [pattern for left_out, pattern in patterns if left_out]
    tests = (f"tests/test_{name}.py" for name in area.tests.split())
    config().pytest_add_cli_args_test_selection = [name for name in tests if Path(name).exists()]
    arguments = PytestRunner._pytest_args_regular_run

    def quick_first(self: Any, tests: Iterable[str]) -> list[str]:
        seconds = {name: state().duration_by_test.get(name, 0.0) for name in tests}
        ordered = sorted(seconds, key=lambda name: (seconds[name], name))
        ends = itertools.accumulate(seconds[name] for name in ordered)
        return arguments(self, [name for name, end in zip(ordered, ends, strict=True) if end <= MINUTE])

    PytestRunner._pytest_args_regular_run = quick_first
    for path in walk_mutatable_files():
        text = path.read_text()
        if (changed := named(undecorated(text))) != text:
            path.write_text(changed)
    file_mutation.NEVER_MUTATE_FUNCTION_CALLS.discard("len")  # but for what `operators` makes of it
    removal = mutators.operator_arg_removal
    mutators.mutation_operators[:] = [
        (
            kind,
            (lambda node: () if getattr(node.func, "value", "") == "len" else removal(node))
            if change is removal
            else change,
        )
        for kind, change in mutators.mutation_operators
    ]
    mutators.mutation_operators += operators()
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.create_mutants(1)


def known() -> dict[str, tuple[str, int | None]]:
    """The file of every mutant, and how the tests ended."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.utils.file_utils import walk_mutatable_files

    found = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        found |= {name: (str(path), code) for name, code in data.exit_code_by_key.items()}
    return found


def main() -> None:
    """Prepare the copy that is the working directory, run mutmut in it, and keep what it found."""
    import argparse
    import fnmatch

    from mutmut import __main__ as mutmut
    from mutmut.stats import status_by_exit_code

    parser = argparse.ArgumentParser()
    parser.add_argument("area", choices=AREAS)
    parser.add_argument("number", type=int)
    parser.add_argument("--only", nargs="*", help="patterns of names, instead of the sample")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    area = AREAS[options.area]
    prepare(area)
    names = chosen(list(known()), area, options.number)
    if options.only:
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
