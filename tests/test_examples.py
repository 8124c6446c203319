"""Plain code of examples/: it stands alone, is shown on one page, and `check` says of it what the site prints."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import refloss
from support import plain_code, sampled

FILES = plain_code.files()
DOCS = Path(__file__).parents[1] / "docs"
OTHER = {
    "softmax_loss": {},
    "cross_entropy": {"ignore_index": 2, "label_smoothing": 0.3, "class_weight": (1.0, 0.5, 2.0, 3.0, 0.25)},
    "modified_softmax": {},
    "normface": {"s": 5.0},
    "a_softmax": {"m": 3},
    "cosface": {"s": 8.0, "m": 0.2},
    "arcface": {"s": 8.0, "m": 0.3},
    "combined_margin": {"s": 8.0, "m1": 1.2, "m2": 0.1, "m3": 0.3},
    "arcface_per_sample": {"s": 8.0},
    "adaface": {"s": 8.0, "m": 0.3, "h": 0.6, "mean": 3.0, "std": 4.0, "eps": 0.01},
    "magface": {"s": 8.0, "l_a": 1.0, "u_a": 60.0, "l_m": 0.2, "u_m": 0.7, "regularizer": 5.0},
    "curricularface": {"s": 8.0, "m": 0.3, "t": 0.4},
    "mv_softmax": {"s": 8.0, "m": 0.2, "t": 0.5},
    "sub_center_arcface": {"s": 8.0, "m": 0.3},
    "sphereface_r": {"s": 8.0, "m": 1.2},
    "circle_loss": {"s": 8.0, "m": 0.4},
    "inter_top_k": {"s": 8.0, "m": 0.3, "penalty": 0.2, "k": 2},
    "sphereface2": {"s": 8.0, "m": 0.2, "t": 2, "alpha": 0.6, "weight": 3.0},
    "uniface": {"s": 8.0, "m": 0.2, "l": 2.0},
    "siglip": {},
    "infonce": {},
    "triplet": {"m": 0.5},
    "kl_divergence": {},
}
"""Settings of each file other than the defaults, for every one that it has."""


@pytest.fixture
def framework(file, request):
    """The framework of a file; the test is skipped where it is not there."""
    name = plain_code.FRAMEWORKS[file.partition("/")[0]]
    return request.getfixturevalue(name) if name != "numpy" else None


def test_every_loss_has_plain_code_in_every_way():
    assert [f"{folder}/{name}" for folder in plain_code.FRAMEWORKS for name in sorted(plain_code.LOSSES)] == FILES
    assert {type(loss) for losses in plain_code.LOSSES.values() for loss in losses} == set(refloss.losses.LOSSES)


@pytest.mark.parametrize("file", FILES)
def test_a_file_stands_alone(file):
    tree = ast.parse((plain_code.EXAMPLES / f"{file}.py").read_text())
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    folder = file.partition("/")[0]
    assert {name.partition(".")[0] for name in names} <= {plain_code.FRAMEWORKS[folder], "math", "functools"}


@pytest.mark.usefixtures("framework")
@pytest.mark.parametrize("file", FILES)
def test_defaults_are_those_of_the_loss(file):
    loss, *_ = plain_code.LOSSES[file.partition("/")[2]]
    settings = plain_code.settings_of(plain_code.function(file))
    assert settings == {name: getattr(loss, name) for name in settings}
    assert set(settings) == set(OTHER[file.partition("/")[2]])


def test_the_table_is_whole_and_all_code_conforms():
    rows = plain_code.recorded()
    assert [row[:3] for row in rows] == [(file, str(loss), dtype) for file, loss, dtype in plain_code.checks()]
    assert {row.state for row in rows} == {"conforms"}


@pytest.mark.untraced
@pytest.mark.usefixtures("framework")
@pytest.mark.parametrize("file", FILES)
def test_check_says_what_the_table_says(file):
    dtype = sampled.one_of(file, plain_code.DTYPES)
    for loss in plain_code.LOSSES[file.partition("/")[2]]:
        assert plain_code.row_of(file, loss, dtype) in plain_code.recorded()


@pytest.mark.untraced
@pytest.mark.usefixtures("framework")
@pytest.mark.parametrize("file", FILES)
def test_settings_are_those_of_the_loss(file):
    name = file.partition("/")[2]
    loss = type(plain_code.LOSSES[name][0])(**OTHER[name])
    report = plain_code.report_of(file, loss, "float64", shapes=(7, 5, 4), groups=("ordinary", "boundary"))
    assert report.passed, str(report)


@pytest.mark.parametrize("exponent", [-8, -12, -16])
def test_a_small_angle_costs_what_the_page_says(exponent):
    """ŵ - cos θ x̂ is wrong by at most (2D + 6) u, which is that many u/θ of it and of its length."""
    theta, u, most = 2.0**exponent, 2.0**-24, 2 * (2 * 8 + 6)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 8)).astype(np.float32)
    center, aside = w[0] / np.linalg.norm(w[0].astype(np.float64)), rng.normal(size=8)
    aside -= (aside @ center) * center
    x = np.float32(3.0 * (np.cos(theta) * center + np.sin(theta) * aside / np.linalg.norm(aside)))[None]
    _, dx, _ = plain_code.function("numpy/arcface")(x, w, np.array([0]), s=8.0)
    truth = refloss.ArcFace(s=8.0).value_and_grad(x, w, [0])[1].x
    error = np.linalg.norm(dx - truth) / np.linalg.norm(truth)
    assert 1 / most < error / (u / theta) < most


def test_every_page_of_a_loss_shows_its_code():
    pages = [page.read_text() for page in sorted(DOCS.rglob("*.md"))]
    shown = [name for text in pages for name in re.findall(r"^::plain (\S+)$", text, re.MULTILINE)]
    assert sorted(shown) == sorted(plain_code.LOSSES)
