"""Inputs of public bug reports: the truth on each, and what the installed releases return there.

The truth is mpmath's. Code that a release no longer has is written again from its description. Where the installed
release still differs from the truth, the test is a strict expected failure that names it.
"""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.formats import dtype_of, rounded
from refloss.testing import assert_close, check
from support import checks, exact
from support.real_code.adapters import causal_lm_loss, cross_entropy, functional, onnx_cross_entropy
from support.real_code.kernels import liger_cross_entropy

CE = refloss.CrossEntropy()
CONFIDENT = np.array([[37.43, 0.0]])
HUGE = np.array([[1e8, 1e8]])
LABEL = np.array([0])


def torch_results(fn, dtype, z, y, upstream=None):
    """Value and gradient by autograd."""
    import torch

    logits = torch.tensor(z, dtype=getattr(torch, dtype), requires_grad=True)
    value = fn(logits, torch.tensor(y))
    value.backward(None if upstream is None else torch.tensor(upstream, dtype=value.dtype))
    return value.detach(), logits.grad


# ------------------------------------------------------------------------------------------------- confident targets


def test_a_confident_target_has_a_gradient():
    """Reported to PyTorch and TensorFlow in 2026: 0 in float64, where 1 - p is half a unit of the last place of 1."""
    checks.against_exact(CE, CONFIDENT, LABEL)
    assert mp.nstr(exact.gradients(CE, CONFIDENT, LABEL)["z"][0, 0], 4) == "-5.551e-17"
    _, grad = CE.value_and_grad(CONFIDENT, LABEL)
    assert_close(CE, CONFIDENT, LABEL, dtype="float64", grad_z=grad.z, standard="relative")


@pytest.mark.xfail(raises=AssertionError, reason="torch 2.13.0 takes 1 from a probability that is rounded to 1")
def test_torch_has_it(torch):
    _, grad = torch_results(cross_entropy(), "float64", CONFIDENT, LABEL)
    assert_close(CE, CONFIDENT, LABEL, dtype="float64", grad_z=grad, standard="relative")


@pytest.mark.xfail(raises=AssertionError, reason="optax 0.2.8 takes 1 from a probability that is rounded to 1")
def test_optax_has_it(jax):
    optax = pytest.importorskip("optax")
    grad = jax.grad(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, LABEL).mean())(CONFIDENT)
    assert_close(CE, CONFIDENT, LABEL, dtype="float64", grad_z=grad, standard="relative")
