"""The package as a whole: what an import loads, what is public, what is installed with it."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import refloss

PACKAGE = Path(refloss.__file__).parent
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("numba", "llvmlite", "flint", "torch", "jax", "scipy", "typer", "rich", "mpmath", "hypothesis", "ml_dtypes")


def test_import_loads_no_loss_before_one_is_asked_for():
    code = "import sys, refloss; print(*[name for name in sys.modules if name.startswith(('refloss', 'numpy'))])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["refloss"]


def test_losses_load_numpy_and_nothing_heavier():
    code = "import sys, refloss; refloss.ArcFace; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not set(HEAVY) & set(loaded)


def test_small_work_loads_no_compiler():
    code = (
        "import sys, refloss; refloss.ArcFace().value_and_grad([[1.0, 2.0]], [[1.0, 0.5], [0.25, 1.0]], [1]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)


def test_import_takes_nothing_that_numpy_does_not_take():
    code = (
        "import sys, numpy, fractions, dataclasses; before = set(sys.modules); import refloss;"
        "refloss.ArcFace;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(new) <= {"refloss", "numpy"}


def test_version_is_the_installed_one():
    assert importlib.metadata.version("refloss") == refloss.__version__


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()


def test_public_names_exist_and_are_all():
    public = {name for name in dir(refloss) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(refloss, name))}
    assert public - modules == set(refloss.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Arcface'"):
        refloss.Arcface  # noqa: B018


@pytest.mark.parametrize("name", refloss.__all__)
def test_public_names_are_documented(name):
    text = inspect.getdoc(getattr(refloss, name))
    assert ("$$" in text) == (name not in ("AccuracyWarning", "error_bound"))
    assert "Raises" in text or name == "AccuracyWarning"


def _modules():
    for info in pkgutil.walk_packages([str(PACKAGE)], "refloss."):
        path = PACKAGE.joinpath(*info.name.split(".")[1:])
        yield info.name, (path / "__init__.py" if info.ispkg else path.with_suffix(".py"))


@pytest.mark.parametrize(("module", "path"), list(_modules()))
def test_no_public_function_bears_its_module_s_name(module, path):
    names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert module.rpartition(".")[2] not in names


@pytest.mark.parametrize(("module", "path"), [item for item in _modules() if item[0].startswith("refloss.stages.")])
def test_stage_files_have_one_shape(module, path):
    """`forward` above `backward`, each with its formula in the docstring, and something saved between them."""
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert functions["forward"].lineno < functions["backward"].lineno
    assert functions["backward"].args.args[1].arg == "saved"
    for name in ("forward", "backward"):
        assert "$$" in ast.get_docstring(functions[name])


def test_same_bits_on_every_run():
    random = np.random.default_rng(5)
    x, w, y = random.standard_normal((7, 33)), random.standard_normal((11, 33)), random.integers(0, 11, 7)
    first, again = (refloss.ArcFace().value_and_grad(x, w, y) for _ in range(2))
    assert first[0] == again[0]
    assert all((a == b).all() for a, b in zip(first[1], again[1], strict=True))


def _floors():
    """Name and lowest version of what refloss, its users and its tests need. Frameworks and tools are pinned alone."""
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *(text for name in ("cli", "fast", "test", "certified") for text in extras[name]),
    ]:
        requirement = Requirement(text)
        if requirement.name != "refloss":
            (floor,) = requirement.specifier
            assert floor.operator == ">=", f"{text}: a lowest version and nothing else"
            yield requirement.name, Version(floor.version)


def test_the_lowest_versions_allowed_are_those_that_are_tested():
    """.ci/run installs .ci/floors.txt to the exact version."""
    lines = [line for line in (ROOT / ".ci/floors.txt").read_text().splitlines() if line and line[0] != "#"]
    assert {name: Version(pin) for name, pin in (line.split("==") for line in lines)} == dict(_floors())


def test_what_is_installed_alone_is_pinned():
    """In .ci/constraints.txt, or where it is named."""
    pinned = {
        line.partition("==")[0] for line in (ROOT / ".ci/constraints.txt").read_text().splitlines() if "==" in line
    }
    alone = [Requirement(line.partition(" #")[0]) for line in (ROOT / ".ci/alone.txt").read_text().splitlines()[2:]]
    assert alone
    assert [each.name for each in alone if not each.specifier and each.name not in pinned] == []


def test_classifiers_name_the_pythons_that_are_tested():
    run = re.findall(r"^ +sample (3\.\d+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in PROJECT["project"]["classifiers"] if re.search(r"\d\.\d+$", line)]
    assert named == run
    assert PROJECT["project"]["requires-python"] == f">={run[0]}"


def test_sessions_that_are_called_are_those_of_the_noxfile():
    """.ci/run calls each but `docs`, which the workflow that publishes the site calls."""
    sessions = re.findall(r"^def (\w+)\(session: ", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    run = re.findall(r'(?:\(|&& )session "?(\w+)', (ROOT / ".ci/run").read_text())
    workflows = [path.read_text() for path in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    called = re.findall(r"\bnox -s (\w+)", "".join(workflows))
    assert set(run) | {"docs"} == set(sessions)
    assert set(called) <= set(sessions)
    assert "docs" in called
    assert any("run: .ci/run\n" in workflow for workflow in workflows)


def test_samples_of_the_noxfile_are_those_that_run():
    samples = re.search(r"^SAMPLES = \{(.*)\}$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)[1]
    run = re.findall(r"^ +sample (3\.\d+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert re.findall(r'"(3\.\d+)":', samples) == run
