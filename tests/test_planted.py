"""Rows of the table of defects and code in torch that has the same defect: values, and gradients by autograd."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.testing.defects import TABLE, Emulated
from refloss.testing.signatures import fields_of

pytest.importorskip("torch")

from support.right_codes.option_codes import torch_options
from support.right_codes.torch_codes import torch_head, torch_linear
from support.wrong_codes.planted import planted

pytestmark = pytest.mark.usefixtures("torch")
WEIGHTS = (1.0, 2.0, 0.5, 1.0, 3.0)
LOSSES = {
    refloss.CrossEntropy(label_smoothing=0.1, class_weight=WEIGHTS, softcap=9.0, logit_scale=0.5, z_loss=0.01): (),
    refloss.CrossEntropy(label_smoothing=0.1, reduction="none"): (),
    refloss.SoftmaxLoss(reduction="sum"): (),
    refloss.CosFace(s=4.0): (),
    refloss.ArcFace(s=4.0, boundary="hard", reduction="none"): (),
    refloss.CombinedMargin(s=None, m1=0.9): (),
}


def inputs_of(loss):
    """Six samples, five classes, four dimensions, of lengths about 1, 30 or 0.1."""
    rng = np.random.default_rng(7)
    y = np.array([0, 3, 4, 3, 1, 2])
    if loss.spec.head == "logits":
        return 8.0 * rng.normal(size=(6, 5)), y
    lengths = np.array([1.0, 30.0, 0.1, 1.0, 2.0, 0.5])[:, None]
    return lengths * rng.normal(size=(6, 4)), rng.normal(size=(5, 4)), y


def right_code(loss):
    """Right code of a loss."""
    if loss.spec.head == "margin":
        return torch_head(loss)
    return torch_options(loss) if loss.spec.head == "logits" else torch_linear(torch_options(loss))


def results(fn, inputs, upstream):
    """The value and the gradients of code in torch."""
    import torch

    tensors = [torch.tensor(part, requires_grad=part.dtype.kind == "f") for part in inputs]
    value = fn(*tensors)
    leaves = [part for part in tensors if part.requires_grad]
    gradients = torch.autograd.grad(value, leaves, torch.tensor(upstream) + 0.0 * value.detach(), allow_unused=True)
    return value.detach().numpy(), [np.zeros(1) if part is None else part.numpy() for part in gradients]


def codes():
    """Each row that there is code of, with a loss that can have it."""
    for loss in LOSSES:
        for row in TABLE:
            applies = row.of(loss) is not None
            if applies and planted(loss, row.name, right_code(loss), fields_of(loss)) is not None:
                yield loss, row.name


CODES = list(codes())


def test_code_is_planted_of_rows_of_every_kind_but_roundings():
    kinds = {row.kind for row in TABLE if row.name in {name for _, name in CODES}}
    assert kinds == {"setting", "step", "inputs", "gradient"}
    assert len({name for _, name in CODES}) > 100
    assert planted(refloss.CosFace(), "no margin", right_code(refloss.CosFace())) is None


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_row_is_what_code_with_its_defect_computes(loss):
    inputs = inputs_of(loss)
    upstream = np.array([0.5, -1.0, 2.0, 0.25, 1.0, -3.0]) if loss.reduction == "none" else np.asarray(0.75)
    for name in (name for its, name in CODES if its == loss):
        value, gradients = results(planted(loss, name, right_code(loss), fields_of(loss)), inputs, upstream)
        expected, parts = Emulated(loss, name).value_and_grad(*inputs, upstream=upstream)
        assert np.allclose(value, expected, rtol=1e-9, atol=1e-11), name
        for ours, theirs in zip((part for part in parts if part is not None), gradients, strict=True):
            size = max(np.abs(ours).max(), 1e-6)
            assert np.allclose(ours, theirs, rtol=0.0, atol=1e-6 * size), name
