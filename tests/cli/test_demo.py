"""``refloss demo``: its verdicts follow from numbers, and its truth is the truth."""

import math
import re

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.cli.demo import Comparison, build_cases, compare, relative_error, verdict
from refloss.error_free import u
from support import exact
from support.command_line import demo, run

NAN = math.nan

CASES = {case.name: case for case in build_cases()}


def table_verdicts(output):
    """The verdict by the name of the case, read from the demo's table."""
    rows = {}
    for line in output.splitlines():
        for name in CASES:
            if row := re.match(rf"{re.escape(name)} +[\d.e-]+ +[\d.e-]+( +(NaN|[\d.e+-]+)){{4}} (\w.*)", line):
                rows[name] = row[3].rstrip()
    return rows


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_demo_shows_every_case_with_its_verdict_on_one_line(columns):
    output = demo(columns)
    assert table_verdicts(output) == {name: verdict(compare(case)) for name, case in CASES.items()}
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= columns


def test_demo_is_the_same_every_time_and_computes_its_own_report():
    assert run("demo") == demo()


def test_demo_tells_the_known_failures():
    verdicts = table_verdicts(demo())
    assert verdicts["1"] == "agrees"
    lost = [int(re.fullmatch(r"gradient loses (\d+) digits", verdicts[name])[1]) for name in ("1e-2", "1e-4", "1e-6")]
    assert lost == sorted(lost)
    assert lost[0] >= 2
    assert lost[2] >= 10
    assert verdicts["1e-8"] in {"gradient has no digit right", "gradient is NaN"}
    assert verdicts["0"] == "gradient is NaN"
    assert verdicts["pi - 1e-4"].startswith("gradient loses")
    assert verdicts["confident"] == "loss is 0, truth is 1.3e-38"


def test_demo_ends_with_the_count():
    output = demo()
    agreeing = sum(verdict == "agrees" for verdict in table_verdicts(output).values())
    assert output.splitlines()[-1] == f"naive agrees with the truth in {agreeing} of 9 cases"


@pytest.mark.parametrize(
    ("name", "theta"),
    [("1", 1.0), ("1e-2", 1e-2), ("1e-4", 1e-4), ("1e-6", 1e-6), ("1e-8", 1e-8), ("0", 0.0), ("2.9 > pi-m", 2.9)],
)
def test_angles_are_what_the_table_says(name, theta):
    case = CASES[name]
    assert float(exact.angle(case.x, case.w[:1])[0]) == pytest.approx(theta, abs=2.0**-48)


def test_angle_near_pi_is_what_the_table_says():
    case = CASES["pi - 1e-4"]
    assert float(mp.pi - exact.angle(case.x, case.w[:1])[0]) == pytest.approx(1e-4, abs=2.0**-48)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_inputs_are_short_numbers_and_the_other_classes_apart(case):
    assert (case.w * 2.0**48 == np.rint(case.w * 2.0**48)).all()
    assert len(np.unique(case.w, axis=0)) == len(case.w) == 10
    cosines = case.w[1:] @ case.x[0] / np.linalg.norm(case.w[1:], axis=1) / np.linalg.norm(case.x)
    assert np.abs(cosines).max() < 0.9


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_truth_is_the_truth(case):
    """Within what engine chain promises: 16u or 4u s for the loss, 32u or 8u s of its absolute terms for a gradient."""
    loss, y = refloss.ArcFace(s=case.s), np.array([0])
    value, gradient = loss.value_and_grad(case.x, case.w, y)
    truth, terms = exact.gradients(loss, case.x, case.w, y, digits=30), exact.absolute_terms(loss, case.x, case.w, y)
    assert exact.value_error(value, exact.value(loss, case.x, case.w, y)) <= max(16, 4 * case.s)
    assert exact.row_error(gradient.x, truth["x"], terms["x"]) <= max(32, 8 * case.s)
    assert exact.row_error(gradient.w, truth["w"], terms["w"]) <= max(32, 8 * case.s)


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (Comparison(1.0, NAN, NAN, NAN, NAN), "loss is NaN"),
        (Comparison(1.0, 1.0, 0.0, NAN, 0.0), "gradient is NaN"),
        (Comparison(1.0, 1.0, 0.0, 0.0, NAN), "gradient is NaN"),
        (Comparison(1e-35, 0.0, 1.0, NAN, 1.0), "gradient is NaN"),
        (Comparison(1.2e-35, 0.0, 1.0, 0.6, 1.0), "loss is 0, truth is 1.2e-35"),
        (Comparison(0.25, -0.0, 1.0, 0.0, 0.0), "loss is 0, truth is 0.25"),
        (Comparison(0.0, 0.0, 0.0, 0.0, 0.0), "agrees"),
        (Comparison(1.0, 1.0, 99 * u, 99 * u, 99 * u), "agrees"),
        (Comparison(1.0, 1.0, 0.0, 100 * u, 0.0), "gradient loses 2 digits"),
        (Comparison(1.0, 1.0, 0.0, 0.0, 1e-4), "gradient loses 12 digits"),
        (Comparison(1.0, 1.0, 1e4 * u, 1e3 * u, 0.0), "loss loses 4 digits"),
        (Comparison(1.0, 1.1, 0.1, 0.0, 0.0), "loss has no digit right"),
        (Comparison(1.0, 1.0, 0.0, 0.2, 0.0), "gradient has no digit right"),
        (Comparison(1.0, 1.0, 0.0, 0.0, math.inf), "gradient has no digit right"),
    ],
)
def test_verdict_follows_from_the_numbers(comparison, expected):
    assert verdict(comparison) == expected


@pytest.mark.parametrize(
    ("computed", "truth", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.5], [3.0, 4.0], 0.1),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], math.inf),
        ([1.0, NAN], [1.0, 1.0], NAN),
        ([math.inf], [1.0], NAN),
    ],
)
def test_relative_error(computed, truth, expected):
    assert relative_error(np.array(computed), np.array(truth)) == pytest.approx(expected, nan_ok=True)
