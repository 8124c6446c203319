"""``refloss losses``: every public loss with its defaults and its curve."""

import math
import re
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest

import refloss
from refloss.cli.listing import PSI, loss_data
from refloss.cli.loss_names import public_losses
from refloss.error_free import u
from refloss.testing import cases
from refloss.testing.signatures import may_have_bias, takes_margins
from support.command_line import parsed, run


def rows(output):
    """The cells of the table, at a width at which nothing folds but names and the gradients of the triplet."""
    lines = output.splitlines()
    starts = [*(lines[0].index(header) for header in lines[0].split()), None]
    cells = ([line[a:b].strip() for a, b in pairwise(starts)] for line in lines[2:])
    return {name: rest for name, *rest in cells}


ROWS = rows(run("losses", columns=160))


@pytest.mark.parametrize("name", refloss.__all__)
def test_losses_lists_every_public_loss(name):
    loss = getattr(refloss, name)
    if not isinstance(loss, type) or issubclass(loss, Warning):
        assert name not in ROWS
    elif name == loss.__name__:
        assert name in ROWS
    else:
        assert list(ROWS).index(f"= {name}") == list(ROWS).index(loss.__name__) + 1


@pytest.mark.parametrize("loss", public_losses(), ids=lambda loss: loss.__name__)
def test_losses_shows_every_default(loss):
    output = run("losses", columns=160)
    for field in fields(loss):
        assert f"{field.name}={field.default!r}" in output
        # A setting that losses share stands below the table, with those that lack it.
        common = re.search(rf"^  {field.name}=\S+ +(?:not (.*))?$", output, re.MULTILINE)
        assert (f"{field.name}={field.default!r}" in ROWS[loss.__name__][0].split(", ")) != bool(common)
        assert not common or loss.__name__ not in (common[1] or "")


INSIDE = {
    "CurricularFace": math.pi - 0.51,
    "InterTopK": math.pi - 0.21,
    "MagFace": math.pi / 2.0 - 0.01,
    "MVSoftmax": math.pi / 2.0 - 0.01,
}
"""Where the rule lets the margin hold, for losses that have one by default."""


@pytest.mark.parametrize("name", PSI)
def test_psi_in_the_table_is_the_curve(name):
    loss = getattr(refloss, name)()
    text = ROWS[name][1]
    assert text == PSI[name]
    symbols = {field.name: getattr(loss, field.name) for field in fields(loss)}
    lengths, v = (), 0.0
    if loss.spec.quality is not None:
        lengths, v = (60.0,), float(loss.spec.quality.offset + 60 * loss.spec.quality.factor)
    for theta in np.linspace(0.11, INSIDE.get(name, 3.13), 50):
        symbols |= {"theta": theta, "cos": math.cos, "k": math.floor(symbols.get("m", 1.0) * theta / math.pi), "v": v}
        symbols |= {"min": min, "pi": math.pi}
        assert eval(text.replace("^", "**"), symbols) == pytest.approx(loss.target_logit(theta, *lengths), abs=32 * u)


def test_psi_is_listed_for_every_margin_loss():
    assert set(PSI) == {loss.__name__ for loss in public_losses() if loss().spec.head == "margin"}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("CrossEntropy", ["logit_scale=1.0, softcap=None, z_loss=0.0", "-", "-", "-", "z"]),
        ("SoftmaxLoss", ["logit_scale=1.0, softcap=None, z_loss=0.0", "-", "-", "given", "x, w, b"]),
        ("ModifiedSoftmax", ["-", "cos(theta)", "||x||", "unit", "x, w"]),
        ("ArcFace", ["s=64.0, m=0.5, boundary='none'", "cos(theta + m)", "s", "unit", "x, w, m"]),
        ("SphereFace2", ["m=0.4, s=40.0, t=3, alpha=0.7, weight=50.0", "-", "s", "unit", "x, w, b"]),
        ("UniFace", ["m=0.4, s=64.0, l=1.0", "-", "s", "unit", "x, w, b"]),
        ("InfoNCE", ["ways=2", "-", "s", "unit", "x, w, s"]),
        ("Triplet", ["m=0.2, squared=True", "-", "-", "-", "anchor,"]),
    ],
)
def test_losses_row(name, cells):
    assert ROWS[name] == cells


@pytest.mark.parametrize("loss", public_losses(), ids=lambda loss: loss.__name__)
def test_gradients_in_the_list_are_those_that_a_loss_returns(loss):
    others = {"bias": may_have_bias(loss()), "margins": takes_margins(loss())}
    with_all = max(cases(loss, shapes=(3, 4, 5), **others), key=lambda case: len(case.inputs))
    _, gradient = loss().value_and_grad(*with_all.inputs)
    assert loss_data(loss, ())["gradients"] == list(gradient._fields)
    assert all(part is not None for part in gradient)


@pytest.mark.parametrize("columns", [80, 120])
def test_losses_cuts_nothing_off(columns):
    output = run("losses", columns=columns)
    assert "…" not in output
    assert "\x1b" not in output
    assert "boundary='monotone'" in output
    assert max(map(len, output.splitlines())) <= columns


def test_losses_print_json():
    listed = {entry["name"]: entry for entry in parsed(run("losses", "--json"))}
    assert list(listed) == [loss.__name__ for loss in public_losses()]
    assert listed["ASoftmax"] == {
        "name": "ASoftmax",
        "aliases": ["SphereFace"],
        "defaults": {field.name: field.default for field in fields(refloss.ASoftmax)},
        "psi": PSI["ASoftmax"],
        "scale": "||x||",
        "weights": "unit",
        "gradients": ["x", "w"],
    }
    assert listed["Triplet"]["psi"] is listed["Triplet"]["scale"] is listed["Triplet"]["weights"] is None
    assert [listed[name]["scale"] for name in ("CosFace", "SigLIP", "InfoNCE")] == ["s", "t", "s"]
