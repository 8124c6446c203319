"""Measures budgets against correct implementations: the tables "Sound" and "Tight" of the record budgets.md.

Sound: no correct implementation is over its budget at any entry, whatever the order of its sums. Tight: how far budgets
lie above real errors.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from correct_codes import Code, correct, head, on_angle
from pages import ROOT, Row, Rows

import refloss
from refloss.formats import FORMATS, dtype_of
from refloss.testing import Case, budgets, cases, comparison
from refloss.testing.adapters import call
from refloss.testing.hard_cases import counts_nothing
from refloss.testing.signatures import FIELDS, LABELS
from support.right_codes import WEIGHTS
from support.right_codes.code import HALVES

DTYPES = tuple(FORMATS)
LOSSES = (
    refloss.SoftmaxLoss(),
    refloss.NormFace(s=16.0),
    refloss.ASoftmax(),
    refloss.ASoftmax(s=16.0, annealing=5.0),
    refloss.CosFace(),
    refloss.CosFace(boundary="conditional", reduction="none"),
    refloss.ArcFace(),
    refloss.ArcFace(s=16.0, boundary="hard", label_smoothing=0.1),
    refloss.ArcFace(s=16.0, boundary="easy", reduction="sum"),
    refloss.CombinedMargin(m1=1.35, boundary="continuous"),
    refloss.AdaFace(s=16.0),
    refloss.MagFace(s=16.0),
    refloss.CurricularFace(s=16.0, t=0.3),
    refloss.MVSoftmax(s=16.0),
    refloss.SphereFaceR(s=16.0),
    refloss.SphereFaceR(version=2, s=16.0),
    refloss.CircleLoss(s=64.0),
    refloss.InterTopK(s=16.0),
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="none", label_smoothing=0.1),
    refloss.CrossEntropy(class_weight=WEIGHTS),
    refloss.CrossEntropy(logit_scale=0.5, softcap=30.0, z_loss=1e-3),
    refloss.SoftmaxLoss(softcap=30.0, z_loss=1e-3),
    refloss.Triplet(),
    refloss.Triplet(squared=False, m=0.5),
    refloss.KLDivergence(),
    refloss.KLDivergence(form="jensen-shannon", reduction="none"),
)
LARGE = (8, 20, 64)
"""The shape at which budgets are compared with real errors."""
NEAR = 0.3  # rad from a class or its opposite: an arccos is as good there

SEEDS = range(4000, 4004)
"""With the default shapes there are more than 4,200 cases per dtype in these rounds."""


def prepare() -> None:
    """Set float64 in jax, which keeps what it compiles, one thread in torch, and no warnings of the codes."""
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".record/jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


class Remembered:
    """A function of a loss, its inputs and further arguments; for one loss at a time nothing is computed twice."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.loss: Any = None
        self.results: dict[Any, Any] = {}

    def __call__(self, loss: Any, inputs: Any, *further: Any) -> Any:
        """Return the function's result, computed or remembered."""
        arrays = [np.asarray(entry) for entry in inputs]
        others = [each if each is None or isinstance(each, tuple) else np.asarray(each) for each in further]
        if loss != self.loss:
            self.loss, self.results = loss, {}
        key = tuple((a.shape, a.dtype.str, a.tobytes()) if isinstance(a, np.ndarray) else a for a in arrays + others)
        if key not in self.results:
            self.results[key] = self.fn(loss, inputs, *further)
        return self.results[key]


# --------------------------------------------------------------------------------------------------------------- cases


def ordinary(loss: Any, case: Case) -> bool:
    """Whether every angle of a target is far from 0 and π, and every label counts."""
    if "ignored" in case.flags or counts_nothing(loss, case.inputs):
        return False
    theta = loss.trace(*case.inputs)["angle"].output
    return bool((np.minimum(theta, math.pi - theta) > NEAR).all())


def adversarial(dtype: str, seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield inputs at which sums lose most: a name, a loss and its inputs."""
    for loss in (refloss.CosFace(), refloss.ArcFace(), refloss.SoftmaxLoss()):
        margin = head(loss) == "margin"
        for d in (4096, 16384):
            size = 1.0 if margin else 1.0 / d
            x = np.full((2, d), 0.7 + 0.01 * (seed % 10))
            w = np.full((3, d), 0.3) * size
            w[:, : d // 3] *= -1.0
            w[1, ::2] = 0.5 * size
            yield f"constant vectors, D={d}", loss, (x, w, np.array([0, 1]))
        rng = np.random.default_rng(seed)
        x, w = np.tile(rng.normal(size=(1, 8)), (1000, 1)), rng.normal(size=(3, 8))
        gentle = replace(loss, s=16.0) if margin else loss  # in float16 a sum of 1000 has to fit
        yield "1000 identical samples", gentle, (x, w, np.zeros(1000, np.int64))
        x, w = rng.normal(size=(4, 8)), np.tile(rng.normal(size=(1, 8)), (2000, 1))
        yield "2000 identical classes", loss, (x, w, np.arange(4))
    yield from rounding_up(dtype)


def rounding_up(dtype: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield inputs whose sums are of 1 and terms just above u, so that every addition to 1 rounds up by almost u."""
    bits = FORMATS["float32" if dtype in HALVES else dtype].bits
    above = 1.0 + 4.0 * FORMATS[dtype].u
    for d in (4096, 16384):
        x, w = np.zeros((2, d)), np.zeros((3, d))
        x[:, 0], x[:, 1:] = (1.0, -1.0), np.array([[1.0], [-1.0]]) * 2.0 ** -(bits // 2)
        w[0, 0], w[0, 1:] = 1.0, above * 2.0 ** -(bits - bits // 2)
        w[1, 0] = w[2, 1] = 0.5
        yield f"1 and D terms of u, D={d}", refloss.SoftmaxLoss(), (x, w, np.array([0, 1]))
        x = np.full((2, d), above * 2.0 ** (-bits / 2.0))
        x[:, 0] = 1.0
        w = np.zeros((3, d))
        w[0] = x[0]
        w[(1, 2), (0, 0)], w[(1, 2), (1, 2)] = (0.5, -0.25), 1.0
        for loss in (refloss.CosFace(), refloss.ArcFace()):
            yield f"1 and D terms of u, D={d}", loss, (x, w, np.array([1, 2]))
    z = np.full((2, 4096), np.log(2.0**-bits) * (1.0 - 8.0 * FORMATS[dtype].u))
    z[:, 0] = 0.0
    yield "1 and C exponentials of u, C=4096", refloss.CrossEntropy(), (z, np.array([0, 1]))
    x = np.full((4096, 1), above * 2.0**-bits)
    x[0] = 1.0
    inputs = (x, np.zeros((2, 1)), np.zeros(4096, np.int64))
    yield "1 and N terms of u, N=4096", refloss.SoftmaxLoss(reduction="sum"), inputs


# ----------------------------------------------------------------------------------------------------------- measuring


def compare(loss: Any, dtype: str, case: Case, code: Code, truth: Remembered, bounds: Remembered) -> Row:
    """Compare an implementation's results with the truth, every entry, decided or not.

    The row has counts, the largest share of a budget that an error takes, and for arrays that are decided in every
    entry the largest budget over the largest error.
    """
    kind = head(loss)
    fields = FIELDS[kind][: len(case.inputs) - 1] if kind in LABELS else FIELDS[kind]
    upstream = np.ones(4096)
    if loss.reduction == "none":
        upstream = np.random.default_rng(zlib.crc32(case.id.encode())).normal(size=4096)
    result = call(code.fn, code.framework, dtype, None, case.inputs, upstream, fields, LABELS.get(kind))
    value, gradient = truth(loss, case.inputs, result.upstream)
    arithmetic = budgets.arithmetic(dtype, code.accumulate, standard=code.standard)
    allowed, errors = bounds(loss, case.inputs, arithmetic, result.upstream)
    parts = [("value", result.value, value, allowed)]
    for name, theirs in zip(fields, result.gradients or (), strict=True):
        parts.append((name, theirs, getattr(gradient, name), errors[name]))
    nothing = counts_nothing(loss, case.inputs)
    floor = np.inf if kind in LABELS else 16.0 * FORMATS[dtype].smallest  # as `check` has it
    row: Row = {"entries": 0, "decided": 0, "over": 0, "worst": 0.0, "ratios": {}}
    for name, theirs, ours, bound in parts:
        quantity = comparison.compare(name, theirs, ours, bound, nothing=nothing, floor=floor)
        row["entries"] += np.size(ours)
        row["decided"] += quantity.decided
        row["over"] += max(quantity.over, int(not quantity.passed))
        row["worst"] = max(row["worst"], quantity.share)
        error = float(np.abs(theirs - ours).max())
        if not quantity.undecided and error > 0.0:
            row["ratios"][name] = float(np.max(bound)) / error
    return row


def measured(seed: int) -> Rows:
    """Measure a round of correct implementations."""
    prepare()
    truth, bounds = Remembered(budgets.truth), Remembered(budgets.bounds)
    rows: Rows = []

    def add(kind: str, loss: Any, dtype: str, case: Case, reference: str = "") -> None:
        usual = ordinary(loss, case) if on_angle(loss) else True
        for code in correct(loss, dtype):
            if (usual or not code.ordinary) and not set(code.skips) & set(case.flags):
                row = compare(loss, dtype, case, code, truth, bounds)
                names = {"kind": kind, "dtype": dtype, "loss": reference or repr(loss), "case": case.id, "by": code.by}
                rows.append(names | row)

    for dtype in DTYPES:
        for loss in LOSSES:
            for case in cases(loss, dtype, seed=seed, bias=True, soft=True):
                if case.group != "range":
                    add("sound", loss, dtype, case)
            weights = getattr(loss, "class_weight", None) or ()
            shape = (LARGE[0], len(weights) or LARGE[1], LARGE[2])
            usual = [case for case in cases(loss, dtype, shape, seed) if case.group == "ordinary"]
            for case in usual:
                add("tight", loss, dtype, case)
            for case in usual:
                add("tight, rows", replace(loss, reduction="none"), dtype, case, repr(loss))
        for name, loss, inputs in adversarial(dtype, seed):
            rounded = tuple(i if i.dtype.kind == "i" else i.astype(dtype_of(dtype)).astype(float) for i in inputs)
            add("adversarial", loss, dtype, Case(name, "hard", (), "", rounded))
    return rows
