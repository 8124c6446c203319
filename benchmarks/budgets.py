"""Budgets tested against implementations that are right and that are wrong: page budgets.md.

Sound: no correct implementation is over its budget at any entry, whatever the order of its sums. Right code at its own
standard, and wrong code: what `check` says of the implementations of the suite. Sharp: what it says of single defects.
Tight: how far budgets lie above real errors. And what `check` says of public code.
"""

from __future__ import annotations

import math
import statistics
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import facts
import numpy as np

import refloss
from refloss.formats import FORMATS, dtype_of
from refloss.testing import Case, budgets, cases, check, comparison, judge
from refloss.testing.adapters import call
from refloss.testing.hard_cases import VERDICT, counts_nothing
from refloss.testing.signatures import FIELDS, LABELS
from support.right_codes import (
    WEIGHTS,
    blocked,
    jax_head,
    jax_linear,
    jax_logits,
    jax_triplet,
    max_first,
    numpy_head,
    numpy_linear,
    numpy_logits,
    numpy_triplet,
    pairwise,
    right_codes,
    sequential,
    torch_cross_entropy,
    torch_head,
    torch_linear,
    torch_psi,
    torch_settings,
    torch_triplet,
)
from support.wrong_codes import wrong_codes

Array = np.ndarray[Any, Any]
Add = Callable[[Array], Array]
Rows = list[dict[str, Any]]

DTYPES = ("float16", "bfloat16", "float32", "float64")
HALVES = DTYPES[:2]
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
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="none", label_smoothing=0.1),
    refloss.CrossEntropy(class_weight=WEIGHTS),
    refloss.Triplet(),
    refloss.Triplet(squared=False, m=0.5),
)
LARGE = (8, 20, 64)
"""The shape at which budgets are compared with real errors."""
NEAR = 0.3  # rad from a class or its opposite: an arccos is as good there

SEEDS = range(4000, 4004)
"""Rounds of `measured`: with the default shapes there are more than 4,200 cases per dtype in them."""
RIGHT = range(3 * len(DTYPES))
"""Rounds of `right`: a dtype with one of three seeds."""
WRONG = range(8)
"""Rounds of `wrong`: shares of the codes."""
ARRAYS = ("rows", "value", "gradients")
"""Whose budgets are compared with real errors: the rows' values, the loss's own, its gradients."""


# ---------------------------------------------------------------------------------------------- correct implementations


class Code(NamedTuple):
    """An implementation that counts as correct, by the standard "stable"."""

    by: str
    framework: str
    fn: Callable[..., Any]
    accumulate: str | None = None
    """What it adds up in, if not in the default of `budget`."""
    skips: tuple[str, ...] = ()
    """Flags of cases that it has no convention for."""
    ordinary: bool = False
    """Whether it is correct for ordinary angles only."""


def in_numpy(loss: Any, add: Add = pairwise) -> Callable[..., Any]:
    """Value and gradients by hand."""
    make = {"logits": numpy_logits, "linear": numpy_linear}.get(loss.spec.head)
    if make is not None:
        return make(loss, max_first, add)
    return numpy_triplet(loss, add) if loss.spec.head == "triplet" else numpy_head(loss, curve_of(loss), add)


def in_torch(loss: Any) -> Callable[..., Any]:
    """The textbook form of a loss."""
    return {
        "logits": lambda: torch_cross_entropy(loss),
        "linear": lambda: torch_linear(torch_cross_entropy(loss)),
        "margin": lambda: torch_head(loss, curve_of(loss)),
        "triplet": lambda: torch_triplet(loss, "squares" if loss.squared else "safe root"),
    }[loss.spec.head]()


def in_jax(loss: Any) -> Callable[..., Any]:
    """The textbook form of a loss without rule, smoothing and class weights."""
    return {
        "logits": lambda: jax_logits("log_softmax", loss),
        "linear": lambda: jax_linear("log_softmax", loss),
        "margin": lambda: jax_head(loss),
        "triplet": lambda: jax_triplet(loss),
    }[loss.spec.head]()


def by_arccos(loss: Any) -> Callable[..., Any]:
    """Cosines in torch, and the target's angle by arccos."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        length = x.norm(dim=1, keepdim=True)
        cos = (x / length) @ (w / w.norm(dim=1, keepdim=True)).T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        c = cos[target]
        psi = torch_psi(loss, c, None, torch.acos(c), "arccos")
        z = (length if loss.spec.scale is None else loss.spec.scale) * torch.where(target, psi[:, None], cos)
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def on_angle(loss: Any) -> bool:
    """Whether a margin is on the angle of the target, not on its cosine."""
    return loss.spec.head == "margin" and bool(loss.spec.margin.m1 != 1.0 or loss.spec.margin.m2)


def curve_of(loss: Any) -> str:
    """How the margin's curve is computed: from two lengths, or from the cosine."""
    return "lengths" if on_angle(loss) else "cosine"


def correct(loss: Any, dtype: str) -> Iterator[Code]:
    """Yield the implementations of a loss that count as correct."""
    for add in (sequential, pairwise, blocked):
        yield Code(f"NumPy, {add.__name__}", "numpy", in_numpy(loss, add))
    yield Code("torch", "torch", in_torch(loss))
    if on_angle(loss):
        yield Code("torch, arccos", "torch", by_arccos(loss), ordinary=True)
    ruled = loss.spec.head == "margin" and loss.spec.margin.boundary != "none"
    weighed = loss.spec.head != "triplet" and (loss.label_smoothing or loss.class_weight is not None)
    if not ruled and not weighed:  # its backward adds up in what it stores
        summed = dtype if dtype in HALVES else None
        yield Code("jax", "jax", in_jax(loss), summed, ("bias", "soft"))


# ------------------------------------------------------------------------------------------------------------ measuring


def prepare() -> None:
    """Set what every round needs: float64 in jax, one thread in torch, no warnings of the codes."""
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


class Remembered:
    """A function of a loss, its inputs and further arguments; of one loss at a time nothing is computed twice."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.loss: Any = None
        self.known: dict[Any, Any] = {}

    def __call__(self, loss: Any, inputs: Any, *further: Any) -> Any:
        """Return what the function finds."""
        arrays = [np.asarray(entry) for entry in inputs]
        others = [each if each is None or isinstance(each, tuple) else np.asarray(each) for each in further]
        if loss != self.loss:
            self.loss, self.known = loss, {}
        key = tuple((a.shape, a.dtype.str, a.tobytes()) if isinstance(a, np.ndarray) else a for a in arrays + others)
        if key not in self.known:
            self.known[key] = self.fn(loss, inputs, *further)
        return self.known[key]


def ordinary(loss: Any, case: Case) -> bool:
    """Whether every angle of a target is far from 0 and π, and every label counts."""
    if "ignored" in case.flags or counts_nothing(loss, case.inputs):
        return False
    theta = loss.trace(*case.inputs)["angle"].output
    return bool((np.minimum(theta, math.pi - theta) > NEAR).all())


def adversarial(dtype: str, seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield inputs at which sums lose most: a name, a loss and its inputs."""
    margins = (refloss.CosFace(), refloss.ArcFace())
    for loss in (*margins, refloss.SoftmaxLoss()):
        for d in (4096, 16384):
            size = 1.0 if loss.spec.head == "margin" else 1.0 / d
            x = np.full((2, d), 0.7 + 0.01 * (seed % 10))
            w = np.full((3, d), 0.3) * size
            w[:, : d // 3] *= -1.0
            w[1, ::2] = 0.5 * size
            yield f"constant vectors, D={d}", loss, (x, w, np.array([0, 1]))
        rng = np.random.default_rng(seed)
        x, w = np.tile(rng.normal(size=(1, 8)), (1000, 1)), rng.normal(size=(3, 8))
        gentle = replace(loss, s=16.0) if loss.spec.head == "margin" else loss  # in float16 a sum of 1000 has to fit
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


def share(loss: Any, dtype: str, case: Case, code: Code, truth: Remembered, bounds: Remembered) -> dict[str, Any]:
    """Compare what an implementation finds with the truth, every entry, decided or not.

    Beside the counts: the largest share of a budget that an error takes, and for arrays that are decided as a whole the
    largest budget over the largest error.
    """
    head = loss.spec.head
    fields = FIELDS[head][: len(case.inputs) - 1] if head == "linear" else FIELDS[head]
    upstream = np.ones(4096)
    if loss.reduction == "none":
        upstream = np.random.default_rng(zlib.crc32(case.id.encode())).normal(size=4096)
    found = call(code.fn, code.framework, dtype, None, case.inputs, upstream, fields, LABELS.get(head))
    value, gradient = truth(loss, case.inputs, found.upstream)
    arithmetic = budgets.arithmetic(dtype, code.accumulate, standard="stable")
    allowed, errors = bounds(loss, case.inputs, arithmetic, found.upstream)
    parts = [("value", found.value, value, allowed)]
    for name, got in zip(fields, found.gradients or (), strict=True):
        parts.append((name, got, getattr(gradient, name), errors[name]))
    nothing = counts_nothing(loss, case.inputs)
    floor = 16.0 * FORMATS[dtype].smallest if head == "triplet" else np.inf  # as `check` has it
    row: dict[str, Any] = {"entries": 0, "decided": 0, "over": 0, "worst": 0.0, "ratios": {}}
    for name, got, ours, bound in parts:
        quantity = comparison.compare(name, got, ours, bound, nothing=nothing, floor=floor)
        row["entries"] += np.size(ours)
        row["decided"] += quantity.decided
        row["over"] += max(quantity.over, int(not quantity.passed))
        row["worst"] = max(row["worst"], quantity.share)
        error = float(np.abs(got - ours).max())
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
                row = share(loss, dtype, case, code, truth, bounds)
                names = {"kind": kind, "dtype": dtype, "loss": reference or repr(loss), "case": case.id, "by": code.by}
                rows.append(names | row)

    for dtype in DTYPES:
        for loss in LOSSES:
            for case in cases(loss, dtype, seed=seed, bias=True, soft=True):
                if case.group != "range":
                    add("sound", loss, dtype, case)
            weights = () if loss.spec.head == "triplet" else loss.class_weight or ()
            shape = (LARGE[0], len(weights) or LARGE[1], LARGE[2])
            usual = [case for case in cases(loss, dtype, shape, seed) if case.group == "ordinary"]
            for case in usual:
                add("tight", loss, dtype, case)
            for case in usual:
                add("tight, rows", replace(loss, reduction="none"), dtype, case, repr(loss))
        for name, loss, inputs in adversarial(dtype, seed):
            held = tuple(i if i.dtype.kind == "i" else i.astype(dtype_of(dtype)).astype(float) for i in inputs)
            add("adversarial", loss, dtype, Case(name, "hard", (), "", held))
    return rows


def remembering() -> ExitStack:
    """Let checks of one loss share its truths and budgets, which take most of their time."""
    stack = ExitStack()
    for name in ("truth", "bounds"):
        stack.enter_context(patch.object(judge, name, Remembered(getattr(budgets, name))))
    return stack


def right(part: int) -> Rows:
    """Check the right implementations of the suite in a dtype and with a seed, each at its own standard."""
    prepare()
    seed, place = divmod(part, len(DTYPES))
    dtype = DTYPES[place]
    codes = sorted(right_codes(dtype), key=lambda code: repr(code.loss))
    rows: Rows = []
    with remembering():
        for code in codes:
            settings = {"seed": seed, "standard": code.standard, "groups": VERDICT} | code.settings
            report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **settings)
            entries = [quantity for result in report.results for quantity in result.quantities]
            rows.append(
                {
                    "kind": "right",
                    "dtype": dtype,
                    "seed": seed,
                    "name": code.name,
                    "framework": code.framework,
                    "loss": repr(code.loss),
                    "standard": code.standard,
                    "state": report.state,
                    "meets": report.meets,
                    "cases": len(report.counted),
                    "entries": sum(quantity.decided + quantity.undecided for quantity in entries),
                    "failed": [result.case.id for result in report.results if result.status == "failed"],
                }
            )
    return rows


def wrong(part: int) -> Rows:
    """Check a share of the wrong implementations of the suite; with the first, single defects and public code."""
    prepare()
    rows: Rows = []
    codes = sorted(wrong_codes(), key=lambda code: repr(code.loss))[part :: len(WRONG)]
    with remembering():
        for code in codes:
            dtype = "float32" if "float32" in code.dtypes else code.dtypes[-1]
            with np.errstate(all="ignore"):
                settings = {"groups": VERDICT} | code.settings
                report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **settings)
            rows.append(
                {
                    "kind": "wrong",
                    "name": code.name,
                    "loss": repr(code.loss),
                    "dtype": dtype,
                    "standard": report.standard,
                    "state": report.state,
                    "cases": sum(result.status == "failed" for result in report.results),
                    "diagnoses": list(report.diagnoses),
                }
            )
    if part == 0:
        rows += sharp() + public()
    return rows


# -------------------------------------------------------------------------------------------------------------- defects


def single_defects(loss: Any) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Defects in float32: a name, the framework, and code that has it."""

    def changed(change: Callable[..., Any]) -> Callable[..., Any]:
        right = in_numpy(loss)
        return lambda x, w, y: change(x, w, y, *right(x, w, y))

    def other(**changes: Any) -> Callable[..., Any]:
        return in_numpy(replace(loss, **changes))

    def one_entry(x: Array, w: Array, y: Array, value: Any, dx: Array, dw: Array) -> Any:
        dx = dx.copy()
        dx[np.unravel_index(np.abs(dx).argmax(), dx.shape)] *= np.float32(1.001)
        return value, dx, dw

    def unprojected(x: Array, w: Array, y: Array, value: Any, dx: Array, dw: Array) -> Any:
        unit = w / np.linalg.norm(w, axis=1, keepdims=True)
        c = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T
        return value, dx, dw + unit * np.abs(dw).max() * c.T.mean(axis=1, keepdims=True)

    def rounded(kind: Any) -> Callable[..., Any]:
        def fn(x: Array, w: Array, y: Array) -> Any:
            unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w)]
            less = [kind(rows) for rows in unit]
            value, dx, dw = in_numpy(loss)(*less, y)
            return value, dx / np.linalg.norm(x, axis=1, keepdims=True), dw / np.linalg.norm(w, axis=1, keepdims=True)

        return fn

    def clamped(x: Any, w: Any, y: Any) -> Any:
        import torch

        f = torch.nn.functional
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1 + 1e-5, 1 - 1e-5)
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        psi = torch_psi(loss, cos[target], None, torch.acos(cos[target]), "arccos")
        return f.cross_entropy(loss.s * torch.where(target, psi[:, None], cos), y)

    yield "m wrong by 1e-3", "numpy", other(m=loss.m * 1.001)
    yield "s wrong by 1e-3", "numpy", other(s=loss.s * 1.001)
    yield "one gradient entry wrong by 1e-3", "numpy", changed(one_entry)
    if isinstance(loss, refloss.ArcFace):
        detached = replace(loss, gradient="detached")

        def without(x: Array, w: Array, y: Array) -> Any:
            value, grad = detached.value_and_grad(x, w, y)
            return value, grad.x, grad.w

        yield "detached margin", "numpy", without
    yield "all-zero gradient", "numpy", changed(lambda x, w, y, v, dx, dw: (v, 0 * dx, 0 * dw))
    yield "projection of dW missing", "numpy", changed(unprojected)
    for rule in (
        ("hard", "easy", "keep", "continuous", "monotone", "clamp", "min") if loss.m == 0.5 else ("conditional",)
    ):
        yield f"rule {rule} for {loss.boundary}", "numpy", other(boundary=rule)

    def ten_bits(rows: Array) -> Array:
        return (rows.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

    yield "inputs cut off after 10 bits (TF32)", "numpy", rounded(ten_bits)
    yield "float16 matrix product", "numpy", rounded(lambda rows: rows.astype(np.float16).astype(np.float32))
    yield "cosine clamped at 1 - 1e-5", "torch", clamped

    def smoothed(x: Array, w: Array, y: Array) -> Any:
        return in_numpy(replace(loss, label_smoothing=0.1 * len(w) / (len(w) - 1)))(x, w, y)

    yield "smoothing eps/(C-1)", "numpy", smoothed

    def counted(x: Array, w: Array, y: Array) -> Any:
        found = in_numpy(replace(loss, reduction="sum"))(x, w, y)
        return tuple(part / np.float32(len(y)) for part in found)

    yield "ignored rows counted in the mean", "numpy", counted


def sharp() -> list[dict[str, Any]]:
    """What `check` says of each defect in float32, with s=64."""
    rows = []
    for loss in (refloss.ArcFace(), refloss.CosFace()):
        for name, framework, fn in single_defects(loss):
            reference = replace(loss, label_smoothing=0.1) if name.startswith("smoothing") else loss
            with np.errstate(all="ignore"):
                report = check(fn, reference, framework=framework, groups=VERDICT)
            only = {result.case.id for result in report.results if result.status == "failed"}
            rows.append(
                {
                    "kind": "sharp",
                    "loss": type(loss).__name__,
                    "defect": name,
                    "flagged": not report.passed,
                    "cases": len(only),
                    "diagnoses": list(report.diagnoses),
                }
            )
    return rows


# ---------------------------------------------------------------------------------------------------------- public code


def named() -> Iterator[tuple[Any, ...]]:
    """Public code: its name, whether it is run as it is or written by us after its description, what it is to be."""
    import implementations
    import optax
    import torch
    from pytorch_metric_learning import losses as pml

    f, m = torch.nn.functional, implementations.M

    def by_scale(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, w, y: fn(torch, x, w, y, 64.0)

    def of_pml(name: str, **settings: Any) -> Callable[..., Any]:
        def fn(x: Any, w: Any, y: Any) -> Any:
            module = getattr(pml, name)(num_classes=len(w), embedding_size=w.shape[1], **settings)
            return torch.func.functional_call(module, {"W": w.T}, (x, y))

        return fn

    def insightface(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            moved = torch.where(f.one_hot(y, len(w)).bool(), torch.cos(torch.acos(cos) + 0.5), cos)
        return f.cross_entropy(64 * (cos + (moved - cos).detach()), y)

    def opensphere(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1 + 1e-5, 1 - 1e-5)
        return f.cross_entropy(64 * (cos - 0.35 * f.one_hot(y, len(w))), y)

    def unnormalised(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), w)
        return f.cross_entropy(64 * (cos - 0.35 * f.one_hot(y, len(w))), y)

    as_is, ours = "as it is", "after its description"
    hard = refloss.ArcFace(m=m, boundary="hard")
    yield "torch cross_entropy", as_is, "torch", f.cross_entropy, refloss.CrossEntropy()
    yield (
        "optax softmax_cross_entropy_with_integer_labels",
        as_is,
        "jax",
        optax.softmax_cross_entropy_with_integer_labels,
        refloss.CrossEntropy(reduction="none"),
    )
    yield (
        "PML NormalizedSoftmaxLoss",
        as_is,
        "torch",
        of_pml("NormalizedSoftmaxLoss", temperature=1 / 64),
        refloss.NormFace(),
    )
    yield "PML CosFaceLoss", as_is, "torch", of_pml("CosFaceLoss", margin=0.35, scale=64), refloss.CosFace()
    yield "PML ArcFaceLoss", as_is, "torch", of_pml("ArcFaceLoss", margin=28.6, scale=64), hard
    yield (
        "PML ArcFaceLoss, by the paper's rule",
        as_is,
        "torch",
        of_pml("ArcFaceLoss", margin=28.6, scale=64),
        replace(hard, boundary="none"),
    )
    yield "PML SphereFaceLoss", as_is, "torch", of_pml("SphereFaceLoss", margin=4, scale=1), refloss.ASoftmax()
    yield "InsightFace arcface_torch", ours, "torch", insightface, refloss.ArcFace()
    yield (
        "arcface-pytorch, sqrt(1 - c^2)",
        ours,
        "torch",
        by_scale(implementations.torch_head(implementations.by_sqrt_hard)),
        hard,
    )
    yield "OpenSphere cosface, cosine clamped", ours, "torch", opensphere, refloss.CosFace()
    yield "weights never normalised (zoo: NeMo, cvqluu)", ours, "torch", unnormalised, refloss.CosFace()
    yield "refloss.testing.naive", as_is, "numpy", refloss.testing.naive.arcface_value_and_grad, refloss.ArcFace()


def public() -> list[dict[str, Any]]:
    """What `check` says of public code in float32 (of the last, which knows float64 only, in that)."""
    rows = []
    for name, source, framework, fn, loss in named():
        dtype = "float64" if framework == "numpy" else "float32"
        with np.errstate(all="ignore"):
            report = check(fn, loss, framework=framework, dtype=dtype)
        rows.append(
            {
                "kind": "public",
                "name": name,
                "source": source,
                "loss": repr(loss),
                "dtype": dtype,
                "verdicts": report.verdicts,
                "failed": [r.case.id.rsplit("-", 1)[0] for r in report.results if r.status == "failed"],
                "diagnoses": list(report.diagnoses),
            }
        )
    return rows


# ----------------------------------------------------------------------------------------------------------------- page


def by_keys(rows: Rows, *keys: str) -> dict[tuple[str, ...], Rows]:
    """Group rows by some of their entries, in order."""
    groups: dict[tuple[str, ...], Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def cell(words: str) -> str:
    """Return words as they may stand in a cell of a table."""
    return words.replace("|", "\\|")


def sound_table(rows: Rows, titles: dict[str, str]) -> str:
    """A table of runs, entries, and those over their budget, by some entries of the rows."""
    lines = [
        [
            *key,
            str(len(found)),
            str(sum(row["entries"] for row in found)),
            str(sum(row["decided"] for row in found)),
            str(sum(row["over"] for row in found)),
            f"{max(row['worst'] for row in found):.2g}",
        ]
        for key, found in by_keys(rows, *titles).items()
    ]
    numbers = ("runs", "entries", "decided", "over budget", "worst share")
    return facts.table((*titles.values(), *numbers), lines, len(titles))


def tight_table(rows: Rows) -> str:
    """A table of median ratios of the largest budget to the largest error, by loss and dtype."""
    ratios: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_row = row["kind"] == "tight, rows"
        for name, ratio in row["ratios"].items():
            array = ("rows" if by_row else "value") if name == "value" else "gradients"
            if not (by_row and array == "gradients"):
                for loss in (f"`{row['loss']}`", "all of them"):
                    ratios[loss, row["dtype"]][array].append(ratio)
    lines = [
        [loss, dtype, *(f"{statistics.median(found[name]):.3g}" if found[name] else "–" for name in ARRAYS)]
        for (loss, dtype), found in sorted(ratios.items(), key=lambda pair: DTYPES.index(pair[0][1]))
    ]
    return facts.table(("loss", "dtype", "values of rows", "the loss's own value", "gradients"), lines, 2)


def right_tables(rows: Rows) -> tuple[str, str]:
    """Two tables: checks by dtype and standard, and the strictest standard that each code meets, over all seeds."""
    summary = [
        [
            *key,
            str(len({(row["name"], row["framework"], row["loss"]) for row in found})),
            str(len(found)),
            str(sum(row["cases"] for row in found)),
            str(sum(row["entries"] for row in found)),
            str(sum(row["state"] == "does not conform" for row in found)),
            str(sum(row["state"] == "undecided" for row in found)),
        ]
        for key, found in by_keys(rows, "dtype", "standard").items()
    ]
    ladder = ("", *budgets.STANDARDS)
    codes = []
    for key, found in by_keys(rows, "framework", "name", "loss", "standard").items():
        meets = {}
        for (dtype,), of_dtype in by_keys(found, "dtype").items():
            refused = any(row["state"] == "does not conform" for row in of_dtype)
            loosest = min((row["meets"] for row in of_dtype), key=ladder.index)
            meets[dtype] = "**refused**" if refused else loosest or "**none**"
        framework, name, loss, standard = key
        codes.append(
            [
                framework,
                cell(name.removesuffix(f", {loss}")),
                f"`{loss}`",
                standard,
                *(meets.get(dtype, "–") for dtype in DTYPES),
            ]
        )
    titles = ("dtype", "standard", "codes", "checks", "cases", "entries", "refused", "undecided")
    return (
        facts.table(titles, summary, 2),
        facts.table(("framework", "code", "reference", "its standard", *DTYPES), codes, 8),
    )


def write(measured: facts.Measured, right: facts.Measured, wrong: facts.Measured, commit: str, folder: Path) -> None:
    """Write budgets.md."""
    kinds = by_keys([*measured.rows, *wrong.rows], "kind")
    sound, adversarial, tight = (kinds[kind,] for kind in ("sound", "adversarial", "tight"))
    by_row, wrong_rows = kinds["tight, rows",], kinds["wrong",]
    everything = [*sound, *adversarial, *tight, *by_row]
    counted = {
        dtype: len({(row["loss"], row["case"]) for row in sound if row["dtype"] == dtype}) * measured.rounds
        for dtype in DTYPES
    }
    summary, codes = right_tables(right.rows)
    seeds = f"seeds {', '.join(map(str, sorted({row['seed'] for row in right.rows})))}"
    refused = [row for row in wrong_rows if row["state"] != "conforms"]
    wrong_codes = [
        [
            cell(row["name"]),
            f"`{row['loss']}`",
            row["dtype"],
            row["standard"],
            {"conforms": "**no**", "undecided": "undecided"}.get(row["state"], "yes"),
            str(row["cases"]),
            cell("; ".join(row["diagnoses"])) or "–",
        ]
        for row in sorted(wrong_rows, key=lambda row: row["loss"])
    ]
    defects = [
        [
            row["loss"],
            row["defect"],
            "yes" if row["flagged"] else "**no**",
            str(row["cases"]),
            cell("; ".join(row["diagnoses"])) or "–",
        ]
        for row in kinds["sharp",]
    ]
    groups = ("ordinary", "boundary", "hard", "range")
    public_code = [
        [
            row["name"],
            row["source"],
            f"`{row['loss']}`",
            *(row["verdicts"].get(group, "–") for group in groups),
            cell("; ".join(row["diagnoses"])) or "–",
        ]
        for row in kinds["public",]
    ]
    n, c, d = LARGE
    total = facts.Measured(
        [], measured.rounds + right.rounds + wrong.rounds, measured.seconds + right.seconds + wrong.seconds
    )
    entries, over = (sum(row[name] for row in everything) for name in ("entries", "over"))
    refusals = sum(row["state"] == "does not conform" for row in right.rows)
    named = sum(bool(row["diagnoses"]) for row in refused)
    page = f"""# Budgets, tested against right and wrong code

Written by `.ci/record`. A case is one of `refloss.testing.cases` (groups ordinary, boundary and hard) at its default
shapes. An entry is one number of a value or of a gradient; every entry counts, whether its budget decides it or not.
Where the truth is not finite, the same is expected of the code. A share is an error divided by its budget.

- cases per dtype: {", ".join(f"{dtype} {count}" for dtype, count in counted.items())}
- runs on them and on the inputs below: {len(everything)}, entries: {entries}, over budget: {over}
- checks of right code at its own standard: {len(right.rows)}, refused: {refusals}
- wrong code: {len(wrong_rows)}, refused: {len(refused)}, with a cause named: {named}
{facts.lines(total, commit, ("numpy", "torch", "jax", "optax", "pytorch-metric-learning"))}

## Sound

A run is one implementation on one case, with inputs, upstream gradient and results in the dtype, by the standard
`stable`. The implementations are

- NumPy by hand, with sums one after the other, pairwise and in blocks of 4, and torch's autograd of the textbook form,
  both with the angle from $\\lVert x - w\\rVert$ and $\\lVert x + w\\rVert$;
- torch with arccos, on cases whose targets are all farther than {NEAR} rad from 0 and $\\pi$;
- jax, where a loss has no rule, smoothing or class weights. In half precision it is compared by budgets of sums in half
  precision, because the backward of its log_softmax adds up in the dtype that it stores.

{sound_table(sound, {"dtype": "dtype", "by": "implementation"})}

### Inputs at which sums lose most

A sum of $n$ equal terms loses $n u / 2$ at most. A sum whose first term is 1 and whose $n - 1$ others are just above
$u$ loses almost $n u$: each addition rounds up by almost $u$. Both are here, for lengths, logits, exponentials and
samples.

{sound_table(adversarial, {"dtype": "dtype", "case": "inputs", "by": "implementation"})}

## Right code at its own standard

What `check` says of every implementation of tests/support/right_codes/ by the standard that it is right at: the
groups ordinary, boundary and hard, default shapes, {seeds}.

{summary}

The strictest standard that each of them meets on all seeds:

{codes}

## Wrong code

What `check` says of every implementation of tests/support/wrong_codes/ in the same groups, in float32 or else in a
dtype in which it is wrong.

{facts.table(("code", "reference", "dtype", "standard", "refused", "failing cases", "diagnosis"), wrong_codes, 7)}

## Sharp

One defect at a time in float32, s=64: whether `check` refuses it, in how many cases, and what it says.

{facts.table(("loss", "defect", "refused", "failing cases", "diagnosis"), defects, 5)}

## Tight

Median of the largest budget over the largest error of an array: ordinary cases at N={n}, C={c}, D={d}, all
implementations together, where the whole array is decided. Values are those of the rows (`reduction="none"`) and,
beside them, the one number that the loss gives: a mean or a sum is often near the truth by chance, and its errors
cancel, so budgets lie further above it.

{tight_table([*tight, *by_row])}

## Public code

What `check` says in all groups, in float32 (of `naive`, in float64). "As it is": the installed package. "After its
description": written by us in its manner.

{facts.table(("code", "run", "reference", *groups, "diagnosis"), public_code, 8)}
"""
    (folder / "budgets.md").write_text(page)
