"""Inputs of the tests of the engine "fused", and comparisons with the engines `chain` and `certified`."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

import refloss
from refloss.engines.fused import blocks, products
from support import cases, checks

U = checks.U
SINGLE = 2.0**-24


def random_of(name):
    """Random numbers of a test, by its name."""
    return np.random.default_rng(zlib.crc32(name.encode()) + 2)


def in_blocks(patch, classes):
    """Blocks of so many classes, whatever the number of samples."""
    patch.setattr(blocks, "BLOCK_BYTES", 1)
    patch.setattr(blocks, "MIN_CLASSES", classes)


def few_kept(patch, width=512):
    """Groups of at most D samples, and pieces of so many terms."""
    patch.setattr(blocks, "MIN_KEPT_BYTES", 0)
    patch.setattr(products, "MAX_TERMS", width)


def bits(result):
    value, gradients = result
    return [np.asarray(part).tobytes() for part in (value, *checks.as_dict(gradients).values())]


def ordinary(n, c, d, seed=0):
    return cases.ordinary(np.random.default_rng(seed), n, c, d)


def weights_of(c, seed=0):
    return tuple(np.random.default_rng(seed).uniform(0.25, 2.0, c))


def signed_weights_of(c, seed=0):
    return tuple(np.random.default_rng(seed).standard_normal(c))


BLOCKED = (
    refloss.ArcFace(s=30.0),
    refloss.ASoftmax(),
    refloss.ArcFace(s=20.0, label_smoothing=0.1, class_weight=weights_of(7)),
    refloss.ArcFace(s=20.0, label_smoothing=0.1, class_weight=signed_weights_of(7)),
    refloss.SoftmaxLoss(label_smoothing=0.1),
    refloss.SoftmaxLoss(label_smoothing=0.5, class_weight=signed_weights_of(7), reduction="sum"),
    refloss.SoftmaxLoss(softcap=2.0, z_loss=0.125),
    refloss.SoftmaxLoss(logit_scale=0.25, softcap=3.0, z_loss=0.5, class_weight=signed_weights_of(7)),
    refloss.SoftmaxLoss(logit_scale=3.0, z_loss=0.5, class_weight=weights_of(7), label_smoothing=0.1),
    refloss.CombinedMargin(reduction="none", gradient="detached"),
    refloss.AdaFace(s=30.0, mean=2.0, std=0.5, h=1.0, label_smoothing=0.1),
    refloss.MagFace(s=30.0, l_a=1.0, u_a=3.0, class_weight=weights_of(7)),
    refloss.MagFace(s=None, l_a=1.0, u_a=3.0, reduction="none", boundary="hard"),
    refloss.CurricularFace(s=20.0, t=0.4, class_weight=signed_weights_of(7)),
    refloss.MVSoftmax(s=20.0, margin="arc", t=0.5, reduction="sum"),
)
ENDS = [5e-324, -1e-200, 1e-60, 1e60, -1e200, 1e308]
LONGEST = float(np.finfo(np.float32).max)


def summed(terms):
    """What a sum of rounded terms may lose, in u of these: pieces of 512, and a few roundings where they are added."""
    return min(terms, 512) + 16


def promised(n, c, d, s=1.0):
    """The contract of heads in u: of the value relative to itself, and of gradients relative to absolute terms."""
    kappa = (8 + summed(d)) * s
    return max(16, kappa), max(32, 2 * kappa) + summed(max(n, c))


def unit(dtype):
    return np.finfo(dtype).eps / 2.0


def check_against_certified(loss, *inputs, upstream=None, dtype=np.float64):
    """Within the contract: of each row's absolute terms, which at least its largest entries are."""
    value, grad = loss.value_and_grad(*inputs, upstream=upstream, engine="fused", dtype=dtype)
    truth, true = loss.value_and_grad(*inputs, upstream=upstream, engine="certified")
    s = 1.0
    if loss.spec.head != "logits":
        s = max(1.0, float(checks.scale_of(loss, *inputs)))
    n, c = len(inputs[0]), len(inputs[1])
    of_value, of_gradient = promised(n, c, np.shape(inputs[0])[1], s)
    assert (np.abs(value - truth) <= of_value * unit(dtype) * np.abs(truth)).all()
    for name, part in checks.as_dict(grad).items():
        exactly = getattr(true, name)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = exactly.astype(dtype)
            rows = np.abs(exactly).max(axis=-1, keepdims=True)
            error = np.abs(part.astype(np.float64) - expected)
            held = np.abs(expected) < np.inf
        least = float(np.finfo(dtype).smallest_subnormal)
        assert np.array_equal(part[~held], expected[~held]), (loss, name)
        allowed = of_gradient * unit(dtype) * rows + least
        assert (error <= allowed)[held].all(), (loss, name, part, exactly)


def float32_keeps_its_bound(loss, *inputs, upstream=None):
    """Compare fused in float32 with certified, by error_bound; return the true gradients and their bounds."""
    how = {"engine": "fused", "dtype": np.float32, "upstream": upstream}
    result, bound = loss.value_and_grad(*inputs, **how), refloss.error_bound(loss, *inputs, **how)
    true = loss.value_and_grad(*inputs, engine="certified", upstream=upstream)
    assert checks.rounded_share(result[0], true[0], bound[0], LONGEST) <= 1.0
    for entries in zip(result[1], true[1], bound[1], strict=True):
        assert entries[0] is None or checks.rounded_share(*entries, LONGEST) <= 1.0
    return true[1], bound[1]


def path_to_refloss(**more):
    """The environment of a process that is to import this refloss."""
    return os.environ | {"PYTHONPATH": str(Path(refloss.__file__).parents[1])} | more
