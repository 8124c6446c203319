"""The record mutants.md: which mutants of refloss the tests notice.

mutmut changes one thing in one function at a time; mutation_operators.py has the changes beyond its own. `measured`
copies the tree and runs this file in the copy. So no module of refloss may be imported here: tests import the mutated
ones.
"""

from __future__ import annotations

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

import mutation_operators

Row = dict[str, Any]
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
        "testing/conformance testing/judge testing/comparison testing/expected testing/options testing/report "
        "testing/signatures testing/hard_cases/* testing/budgets testing/errors/* testing/adapters/* "
        "!testing/adapters/jax",  # each mutant is a fork, which JAX does not survive
        "adapters comparison errors hard_cases odd_values report",
        rounds=2,
        size=100,
    ),
    "inputs": Area("inputs", "inputs odd_values", rounds=1, size=100),
    "stages": Area(
        "stages/*",
        "angle chain cosine cross_entropy dd divergence linear log_softmax logits margin normalize softmax triplet",
        rounds=3,
        size=100,
    ),
    "engines": Area(
        "engines/* engines/fused/* !engines/kernels/* !engines/certified/*",  # compiled; the tests' yardstick
        "chain contract dd fused* locks routes threads",
        rounds=3,
        size=100,
    ),
}
MINUTE = 60.0
"""Of the tests that reach a function each mutant is asked the quickest, no more than take so many seconds together."""
ROUNDS = [(name, number) for name, area in AREAS.items() for number in range(area.rounds)]
VERDICT = """
comparison: compare complaint_of shares_of finite
judge: Judge
expected: ExpectedFailures
conformance: assert_close assert_conforms conforms _twice _tried _own
options: wanted_gradients writable_inputs takes_bias
report: refused Quantity Result Report Conformance
signatures: as_loss
budgets: bounds ladder arithmetic _reduced _put_back _stored
hard_cases: cases sizes
hard_cases.labels: counts_nothing
adapters.results: separate_gradients parts changed upstream_for finish _parts_of_mapping _by_name read as_array
adapters: call _module ready
"""
SURVIVED = ("survived", "no tests")
EXPLAINED = ROOT / "benchmarks" / "survivors.md"
"""Why a mutant survives, one row each: function, the line, what it became, and the reason."""


def measured(seed: int) -> list[Row]:
    """Try mutants in a copy of the tree: one row each, with the lines that differ where no test failed."""
    area, number = ROUNDS[seed]
    with tempfile.TemporaryDirectory() as folder:
        for part in ("refloss", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(folder) / part)
        command = [sys.executable, __file__, area, str(number)]
        subprocess.run(command, cwd=folder, check=True)
        rows: list[Row] = json.loads((Path(folder) / "rows.json").read_text())
    return rows


# ---------------------------------------------------------------------------------------------------------------- page


def write(measured: Any, commit: str, folder: Path) -> None:
    """Write mutants.md: counts by file, and each survivor with its reason."""
    import pages  # which imports refloss

    counts, survivors = [], []
    reasons = dict(_reasons())
    for (file,), rows in sorted(pages.grouped(measured.rows, "file").items()):
        survived = sum(row["status"] in SURVIVED for row in rows)
        counts.append((f"`{file}`", str(len(rows)), str(len(rows) - survived), str(survived)))
    for row in measured.rows:
        if row["status"] in SURVIVED:
            key = tuple(pages.escaped(row[name]).replace("`", "'") for name in ("function", "was", "now"))
            survivors.append((*(f"`{text}`" if text else "" for text in key), reasons.get(key, "not explained yet")))
    pages.write(
        folder,
        "mutants.md",
        mutants=len(measured.rows),
        killed=sum(int(killed) for _, _, killed, _ in counts),
        facts=pages.facts(measured, commit, ("mutmut", "numpy", "pytest")),
        by_file=pages.table(("file", "mutants", "killed", "survived"), counts),
        survivors=pages.table(("function", "line", "became", "why no test fails"), survivors, words=4),
    )


def _reasons() -> Iterator[tuple[tuple[str, ...], str]]:
    for line in EXPLAINED.read_text().splitlines() if EXPLAINED.exists() else ():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            yield tuple(cell.strip("`") for cell in cells[:3]), cells[3]


# ----------------------------------------------------------------------------------------------------- inside the copy


def chosen(names: list[str], area: Area, number: int) -> list[str]:
    """Draw a round's mutants, half of them of functions that make a verdict where there are such."""
    verdicts = set()
    for line in VERDICT.strip().splitlines():
        module, _, functions = line.partition(": ")
        verdicts |= {(f"refloss.testing.{module}", function) for function in functions.split()}

    def place(name: str) -> tuple[str, str]:
        module, _, function = name.rpartition(".")
        function = function.partition("__mutmut")[0]
        return module, function.split("ǁ")[1] if "ǁ" in function else function.removeprefix("x_")

    kinds = [[name for name in names if (place(name) in verdicts) == verdict] for verdict in (True, False)]
    kinds = [sorted(kind) for kind in kinds if kind]
    size = area.size // len(kinds)
    drawn: set[str] = set()
    for kind in kinds:
        random.Random(0).shuffle(kind)
        drawn |= {*kind[number * size : (number + 1) * size]}
    return [name for name in names if name in drawn]


def row(name: str, path: str, status: str) -> Row:
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
    tests = (path for name in area.tests.split() for path in sorted(Path("tests").glob(f"test_{name}.py")))
    config().pytest_add_cli_args_test_selection = list(map(str, tests))
    arguments = PytestRunner._pytest_args_regular_run

    def quick_first(self: Any, tests: Iterable[str]) -> list[str]:
        seconds = {name: state().duration_by_test.get(name, 0.0) for name in tests}
        ordered = sorted(seconds, key=lambda name: (seconds[name], name))
        ends = itertools.accumulate(seconds[name] for name in ordered)
        return arguments(self, [name for name, end in zip(ordered, ends, strict=True) if end <= MINUTE])

    PytestRunner._pytest_args_regular_run = quick_first
    for path in walk_mutatable_files():
        text = path.read_text()
        if (changed := mutation_operators.with_lambdas_named(mutation_operators.undecorated(text))) != text:
            path.write_text(changed)
    file_mutation.NEVER_MUTATE_FUNCTION_CALLS.discard("len")  # except by `operators`
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
    mutators.mutation_operators += mutation_operators.operators()
    Path("mutants").mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    mutmut.create_mutants(1)


def known() -> dict[str, tuple[str, int | None]]:
    """The file of every mutant, and how the tests ended."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.utils.file_utils import walk_mutatable_files

    mutants: dict[str, tuple[str, int | None]] = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        mutants |= {name: (str(path), code) for name, code in data.exit_code_by_key.items()}
    return mutants


def main() -> None:
    """Prepare the copy that is the working directory, run mutmut in it, and keep its results."""
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
    mutants = known()
    rows = [row(name, mutants[name][0], status_by_exit_code[mutants[name][1]]) for name in names]
    Path("rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
