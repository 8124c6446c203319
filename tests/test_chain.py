"""The contract of engine "chain": every loss at every hard case by name, against mpmath."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import cases
import checks
import refloss


def _random(name: str) -> np.random.Generator:
    """A generator of its own for each case, the same on every run."""
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.mark.parametrize("loss", cases.HEADS, ids=repr)
def test_heads_keep_the_contract(loss):
    for name, inputs in cases.heads(loss, _random(repr(loss))):
        digits = {"digits": 300} if "1e-200" in name else {}
        if loss.class_weight and len(inputs[1]) != 5:
            continue  # the weights are for five classes
        _check(name, loss, *inputs, **digits)


@pytest.mark.parametrize("loss", [refloss.ArcFace(), refloss.ASoftmax(), refloss.CosFace(s=1.0), refloss.SoftmaxLoss()])
@pytest.mark.parametrize("build", cases.WIDE.values(), ids=cases.WIDE)
def test_heads_keep_the_contract_at_real_widths(loss, build):
    x, w, y = build(_random(repr(loss)))
    checks.against_exact(loss, x, w, y, entries=cases.some_entries(_random("entries"), x, w, y))


@pytest.mark.parametrize("loss", cases.CROSS_ENTROPIES, ids=repr)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_cross_entropy_keeps_the_contract(loss, classes):
    for name, inputs in cases.logits(_random(repr(loss)), classes):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("name", ["ordinary", "confident, gap 20", "confidently wrong, gap 700", "soft targets"])
def test_cross_entropy_keeps_the_contract_with_a_thousand_classes(name):
    _check(name, refloss.CrossEntropy(), *dict(cases.logits(_random(name), 1000))[name])


@pytest.mark.parametrize("loss", cases.TRIPLETS, ids=repr)
def test_triplet_keeps_the_contract(loss):
    for name, inputs in cases.triplets(_random(repr(loss))):
        _check(name, loss, *inputs)


def _check(name, loss, *inputs, **precision):
    try:
        checks.against_exact(loss, *inputs, **precision)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None
