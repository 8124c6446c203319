"""Logit scale, softcap, z-loss, and a gradient of the log-sum-exp: losses on logits with options, by every engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

import refloss
from support import checks, exact, strategies

ENGINES = ("chain", "dd", "fused")
EVERY = (*ENGINES, "certified")
INF, NAN = math.inf, math.nan


def needs(engine):
    if engine == "certified":
        pytest.importorskip("flint")


# ------------------------------------------------------------------------------------------ anything, by every engine


@st.composite
def on_logits(draw):
    """A loss with options, logits, labels or probabilities, and upstream gradients."""
    z = draw(strategies.logits())
    loss = draw(strategies.optional_losses(refloss.CrossEntropy, z.shape[1]))
    y = draw(strategies.labels(z, ignored=True) if draw(st.booleans()) else strategies.probabilities(z))
    if y.ndim == 1 and not np.isfinite(z).all():
        loss = replace(loss, label_smoothing=0.0)  # gives a masked class a target
    if y.ndim == 2 and draw(st.booleans()):
        y = -y
    return loss, (z, y), draw(strategies.upstreams(loss, len(z)))


@st.composite
def on_heads(draw):
    """The same behind a linear layer, with and without a bias."""
    classes = draw(st.integers(1, 5))
    loss = draw(strategies.optional_losses(refloss.SoftmaxLoss, classes))
    x, w, y = draw(strategies.heads(loss, classes, ignored=True, lengths=False))
    x = x * draw(st.sampled_from((1.0, 1.0, 8.0, 1e-3)))
    if draw(st.booleans()):
        y = draw(strategies.probabilities(x @ w.T))
    bias = (np.array(draw(st.lists(strategies.QUARTERS, min_size=classes, max_size=classes))),)
    return loss, (x, w, y, *(bias if draw(st.booleans()) else ())), draw(strategies.upstreams(loss, len(x)))


@pytest.mark.parametrize("engine", EVERY)
@given(case=on_logits())
@settings(max_examples=60)
def test_cross_entropy_with_any_options(engine, case):
    needs(engine)
    loss, inputs, followed = case
    checks.against_exact(loss, *inputs, engine=engine, **followed)


@pytest.mark.parametrize("engine", EVERY)
@given(case=on_heads())
@settings(max_examples=40)
def test_a_linear_head_with_any_options(engine, case):
    needs(engine)
    loss, inputs, followed = case
    checks.against_exact(loss, *inputs, engine=engine, **followed)


def as_float32(array):
    array = np.asarray(array)
    return array if array.dtype.kind == "i" else array.astype(np.float32).astype(np.float64)


@given(case=on_logits())
@settings(max_examples=60)
def test_cross_entropy_with_any_options_in_float32(case):
    loss, inputs, followed = case
    inputs = tuple(as_float32(array) for array in inputs)
    checks.against_exact(loss, *inputs, engine="fused", dtype=np.float32, **followed)


@given(case=on_heads())
@settings(max_examples=40)
def test_a_linear_head_with_any_options_in_float32(case):
    loss, inputs, followed = case
    inputs = tuple(as_float32(array) for array in inputs)
    checks.against_exact(loss, *inputs, engine="fused", dtype=np.float32, **followed)
