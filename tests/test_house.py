"""The house: who may import whom in refloss, and in the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import refloss
from support import floors

PACKAGE = Path(refloss.__file__).parent
TESTS = Path(__file__).parent
FLOORS = (
    ("cli",),
    ("testing",),
    ("losses", "functions", "refloss"),
    ("engines",),
    ("stages",),
    ("inputs",),
    ("fixed_point", "sliced_product", "ulp"),
    ("error_free", "formats"),
    ("messages",),
)


def test_no_import_runs_upwards():
    assert floors.upward(PACKAGE, FLOORS) == []


def test_imports_go_in_no_circle():
    assert floors.circle(PACKAGE) == []


def test_every_module_is_looked_at():
    expected = {"refloss", "refloss.error_free", "refloss.stages.margin", "refloss.engines.chain"}
    assert expected < set(floors.modules(PACKAGE))


def packages(path: Path) -> set[str]:
    """Packages and top-level modules that a file imports."""
    return {name.partition(".")[0] for name in floors.imported_names(path)}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_imports_a_test(path):
    assert not {name for name in packages(path) if name.startswith(("test", "conftest"))}


@pytest.mark.parametrize("path", sorted(TESTS.glob("support/exact/*.py")), ids=lambda path: path.stem)
def test_exact_truth_shares_no_line_with_refloss(path):
    library = {"__future__", "collections", "fractions", "functools", "typing"}
    assert packages(path) <= library | {"numpy", "mpmath", "support"}
    helpers = {name for name in floors.imported_names(path) if name.startswith("support.")}
    assert all(name.startswith(("support.exact.", "support.untraced.")) for name in helpers)


# ------------------------------------------------------------------------------------------------- the walker itself


def build(folder: Path, **sources: str) -> Path:
    """A package `house` whose modules have these sources; `__` in a name stands for a dot."""
    root = folder / "house"
    for name, source in {"__init__": "", **sources}.items():
        path = root.joinpath(*name.split("__")) if name != "__init__" else root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(source)
    for inner in [path.parent for path in root.rglob("*.py")]:
        (inner / "__init__.py").touch()
    return root


HOUSE = (("roof",), ("rooms", "house"), ("cellar", "well"))


@pytest.mark.parametrize(
    "source",
    [
        "import house.rooms.kitchen",
        "import json, house.rooms.kitchen as kitchen",
        "from house.rooms import kitchen",
        "from house.rooms.kitchen import stove",
        "from house import well, rooms",
        "from .rooms import kitchen",
        "from . import rooms",
        "from house import open_the_door",
        "import house",
        "def at_night():\n    from house.rooms import kitchen",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.rooms.kitchen import stove",
        "import importlib\nimportlib.import_module('house.rooms.kitchen')",
    ],
)
def test_an_upward_import_is_reported(tmp_path, source):
    root = build(tmp_path, rooms__kitchen="stove = 1", cellar=source, well="", roof="from house import cellar, rooms")
    (fault,) = floors.upward(root, HOUSE)
    assert fault.startswith("house.cellar imports house")


def test_an_upward_import_within_a_package_is_reported(tmp_path):
    root = build(tmp_path, cellar__wine="from ..rooms import kitchen\nfrom . import casks", rooms__kitchen="")
    assert floors.upward(root, HOUSE) == ["house.cellar.wine imports house.rooms.kitchen"]


def test_downward_imports_and_those_on_a_floor_are_allowed(tmp_path):
    root = build(
        tmp_path,
        __init__="from house import roof",
        roof="import json\nfrom house.rooms import kitchen\nimport house",
        rooms__kitchen="from house import open_the_door\nfrom ..well import water\nfrom . import hall",
        rooms__hall="",
        cellar="from house import well",
        well="water = 1",
    )
    assert floors.upward(root, HOUSE) == []
    assert floors.circle(root) == []


def test_a_module_that_no_floor_has_is_reported(tmp_path):
    root = build(tmp_path, rooms__kitchen="", garden="from house import rooms")
    assert floors.upward(root, HOUSE) == ["house.garden is on no floor"]


def test_a_circle_is_reported(tmp_path):
    root = build(
        tmp_path,
        cellar="def drink():\n    from house import well",
        well="from house.cellar import wine",
        roof="import house.well",
    )
    assert floors.upward(root, HOUSE) == []
    assert floors.circle(root) == ["house.cellar", "house.roof", "house.well"]
