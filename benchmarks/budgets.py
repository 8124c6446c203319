"""Budgets held against implementations that are right and that are wrong: page budgets.md.

Sound: no correct implementation is over its budget, whatever the order of its sums. Sharp: defects are. Tight: how far
budgets lie above real errors. And what `check` says of public code.
"""

from __future__ import annotations

import functools
import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import facts
import numpy as np

import refloss
from refloss.testing import budgets, cases, check
from refloss.testing.adapters import call
from refloss.testing.hard_cases import dtype_of

Array = np.ndarray[Any, Any]
Add = Callable[[Array], Array]

DTYPES = ("float16", "bfloat16", "float32", "float64")
LOSSES = (
    refloss.SoftmaxLoss(),
    refloss.NormFace(s=16.0),
    refloss.ASoftmax(),
    refloss.ASoftmax(s=16.0, annealing=5.0),
    refloss.CosFace(),
    refloss.CosFace(boundary="conditional", reduction="none"),
    refloss.ArcFace(),
    refloss.ArcFace(s=16.0, boundary="hard", label_smoothing=0.1),
    refloss.ArcFace(boundary="easy", reduction="sum"),
    refloss.CombinedMargin(m1=1.35, boundary="continuous"),
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="none", label_smoothing=0.1),
)
SHAPES = ((8, 20, 64), (4, 6, 16), (3, 5, 256))
NEAR = 0.3  # rad from a class or its opposite: an arccos is as good there


# ------------------------------------------------------------------------------------ correct implementations, in NumPy


def sequential(terms: Array) -> Array:
    """One after the other."""
    return np.asarray(np.add.accumulate(terms, axis=-1)[..., -1])


def pairwise(terms: Array) -> Array:
    """Halves of halves, as NumPy does."""
    return np.ascontiguousarray(terms).sum(axis=-1)


def blocked(terms: Array) -> Array:
    """Blocks of 16, one after the other."""
    ends = range(0, terms.shape[-1], 16)
    return sequential(np.stack([sequential(terms[..., i : i + 16]) for i in ends], axis=-1))


def in_numpy(loss: Any, add: Add, dtype: str, by_arccos: bool = False) -> Callable[..., Any]:
    """Value and gradients of a loss, every number of the dtype, sums in float32 at least."""
    kind = dtype_of(dtype)
    wide = np.float32 if dtype in ("float16", "bfloat16") else kind

    def total(terms: Array) -> Array:
        return add(np.asarray(terms, wide)).astype(kind)

    def product(a: Array, b: Array) -> Array:
        return total(a.astype(wide)[:, None, :] * b.astype(wide)[None, :, :])

    def cross_entropy(z: Array, y: Array) -> tuple[Any, Array]:
        counted = y != loss.ignore_index
        eps, n = loss.label_smoothing, z.shape[1]
        t = np.full(z.shape, eps / n).astype(kind)
        t[np.flatnonzero(counted), y[counted]] += kind(1.0 - eps)
        gap = (z - z.max(axis=1, keepdims=True)).astype(wide)
        e = np.exp(gap)
        whole = add(e)[:, None]
        rows = add(t.astype(wide) * (np.log(whole) - gap)).astype(kind) * counted
        g = (e / whole - t.astype(wide)) * counted[:, None]
        divisor = {"mean": max(1, counted.sum()), "sum": 1, "none": 1}[loss.reduction]
        value = rows if loss.reduction == "none" else (add(rows.astype(wide)) / wide(divisor)).astype(kind)
        return value, (g / wide(divisor)).astype(kind)

    def head(x: Array, w: Array, y: Array) -> Any:
        if isinstance(loss, refloss.SoftmaxLoss):
            value, g = cross_entropy(product(x, w), y)
            return value, product(g, w.T), product(g.T, x.T)
        lengths = [np.sqrt(add(rows.astype(wide) ** 2)).astype(kind)[:, None] for rows in (x, w)]
        unit_x, unit_w = x / lengths[0], w / lengths[1]
        c = product(unit_x, unit_w)
        each = np.flatnonzero(y != loss.ignore_index)
        own, target = c[each, y[each]], unit_w[y[each]]
        if by_arccos:
            theta = np.arccos(np.clip(own.astype(wide), -1, 1))
        else:
            apart, together = (
                np.sqrt(add((unit_x[each].astype(wide) + sign * target.astype(wide)) ** 2)) for sign in (-1, 1)
            )
            theta = 2 * np.arctan2(apart, together)
        settings = loss.spec.margin
        f, slope = c.copy(), np.ones_like(c)
        if settings.m1 == 1.0 and settings.m2 == 0.0:
            off = own > kind(settings.m3) if settings.boundary == "conditional" else np.ones(own.shape, bool)
            f[each, y[each]] = own - kind(settings.m3) * off
        else:
            f[each, y[each]] = loss.target_logit(theta.astype(float)).astype(kind)
            steep = -loss.target_slope(theta.astype(float)) / np.maximum(np.sin(theta.astype(float)), 1e-300)
            slope[each, y[each]] = steep.astype(kind)
        s = lengths[0] if loss.spec.scale is None else kind(loss.spec.scale)
        value, g = cross_entropy(s * f, y)
        above = s * g * slope
        gradients = []
        for upstream, unit, other, length in (
            (above, unit_x, unit_w, lengths[0]),
            (above.T, unit_w, unit_x, lengths[1]),
        ):
            whole = product(upstream, other.T)
            along = total(whole.astype(wide) * unit.astype(wide))[:, None]
            gradients.append((whole - along * unit) / length)
        if loss.spec.scale is None:
            gradients[0] = gradients[0] + total(g.astype(wide) * f.astype(wide))[:, None] * unit_x
        return value, *gradients

    return cross_entropy if isinstance(loss, refloss.CrossEntropy) else head


def in_torch(loss: Any, by_arccos: bool) -> Callable[..., Any]:
    """The textbook form of a loss, the angle by arccos or from |x - w| and |x + w|."""
    import torch

    import exact
    from test_routes import textbook_psi

    torch.set_num_threads(1)
    f = torch.nn.functional

    def reduced(z: Any, y: Any) -> Any:
        return f.cross_entropy(z, y, reduction=loss.reduction, label_smoothing=loss.label_smoothing)

    def head(x: Any, w: Any, y: Any) -> Any:
        if isinstance(loss, refloss.SoftmaxLoss):
            return reduced(x @ w.T, y)
        length = x.norm(dim=1, keepdim=True)
        unit_x, unit_w = x / length, w / w.norm(dim=1, keepdim=True)
        cos = unit_x @ unit_w.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        own, settings = cos[target], loss.spec.margin
        if settings.m1 == 1.0 and settings.m2 == 0.0:
            off = own.detach() > settings.m3 if settings.boundary == "conditional" else torch.ones_like(own)
            psi = own - settings.m3 * off.to(own.dtype)  # a bool times a float would be float32
        elif by_arccos:
            psi = textbook_psi(torch, torch.acos(own), loss)
        else:
            mine = target.to(w.dtype) @ unit_w  # rather than unit_w[y], whose backward adds up in half precision
            theta = 2 * torch.atan2((unit_x - mine).norm(dim=1), (unit_x + mine).norm(dim=1))
            psi = textbook_psi(torch, theta, loss)
        s = exact.curve(loss)["scale"]
        return reduced((length if s is None else s) * torch.where(target, psi[:, None], cos), y)

    return reduced if isinstance(loss, refloss.CrossEntropy) else head


def in_jax(loss: Any) -> Callable[..., Any]:
    """Cosines in jax, and logits less the margin; for losses whose margin is on the cosine."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy

    def reduced(z: Any, y: Any) -> Any:
        log_p = jax.nn.log_softmax(z)
        eps = loss.label_smoothing
        rows = -(1 - eps) * log_p[np.arange(len(z)), y] - eps * log_p.mean(axis=1)
        return {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()

    def head(x: Any, w: Any, y: Any) -> Any:
        if isinstance(loss, refloss.SoftmaxLoss):
            return reduced(x @ w.T, y)
        x, w = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w))
        margin = loss.spec.margin.m3 * (jnp.arange(len(w)) == y[:, None])
        return reduced((loss.spec.scale * (x @ w.T - margin)).astype(x.dtype), y)

    return reduced if isinstance(loss, refloss.CrossEntropy) else head


def correct(loss: Any, dtype: str) -> Iterator[tuple[str, str, Callable[..., Any], bool]]:
    """Implementations that count as correct: name, framework, function, and whether for ordinary angles only."""
    for add in (sequential, pairwise, blocked):
        yield f"NumPy, {add.__name__}", "numpy", in_numpy(loss, add, dtype), False
    yield "torch", "torch", in_torch(loss, by_arccos=False), False
    if loss.spec.head == "margin" and (loss.spec.margin.m1 != 1.0 or loss.spec.margin.m2):
        yield "NumPy, arccos", "numpy", in_numpy(loss, pairwise, dtype, by_arccos=True), True
        yield "torch, arccos", "torch", in_torch(loss, by_arccos=True), True
    elif loss.spec.head != "margin" or (loss.spec.scale is not None and loss.spec.margin.boundary == "none"):
        yield "jax", "jax", in_jax(loss), True


# ------------------------------------------------------------------------------------------------------------ measuring


def ordinary(loss: Any, inputs: Any, flags: Any) -> bool:
    """Whether every angle of a target is far from 0 and π, and every label counts."""
    if "ignored" in flags:
        return False
    if loss.spec.head != "margin":
        return True
    theta = loss.trace(*inputs)["angle"].output
    return bool((np.minimum(theta, math.pi - theta) > NEAR).all())


def adversarial(seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Inputs at which sums lose most: constant vectors, and one sample a thousand times."""
    for loss in (refloss.CosFace(), refloss.ArcFace(), refloss.SoftmaxLoss()):
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


def share(loss: Any, dtype: str, inputs: Any, fn: Any, framework: str, seed: int) -> dict[str, Any]:
    """Largest error over budget of what is decided; and the largest budget over the largest error."""
    upstream = np.random.default_rng(seed).normal(size=4096)
    found = call(fn, framework, dtype, None, inputs, upstream)
    half = dtype in ("float16", "bfloat16")
    accumulate = dtype if framework == "jax" and half else None  # its backward adds up in what it stores
    value, grad = budgets.truth(loss, inputs, found.upstream)
    allowed, errors = budgets.bounds(loss, inputs, budgets.arithmetic(dtype, accumulate), found.upstream)
    row: dict[str, Any] = {"decided": 0, "over": 0, "worst": 0.0, "ratios": {}}
    pairs = [("value", found.value, np.asarray(value), allowed)]
    pairs += [
        (name, got, getattr(grad, name), errors[name])
        for name, got in zip(grad._fields, found.gradients or (), strict=False)
    ]
    for name, got, ours, bound in pairs:
        size = np.abs(ours).max(axis=-1, keepdims=True) if ours.ndim else np.abs(ours)
        decided = np.broadcast_to(bound < size, ours.shape)
        with np.errstate(invalid="ignore"):
            off = np.where(decided, np.abs(got - ours) / bound, 0.0)
        off = np.where(np.isnan(off), np.inf, off)
        row["decided"] += int(decided.sum())
        row["over"] += int((off > 1.0).sum())
        row["worst"] = max(row["worst"], float(off.max()))
        error = float(np.abs(got - ours).max())
        if decided.all() and error > 0.0:
            row["ratios"][name] = float(np.max(bound)) / error
    return row


def measured(seed: int) -> list[dict[str, Any]]:
    """A round."""
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for dtype in DTYPES:
        for loss in LOSSES:
            each = replace(loss, reduction="none")
            implementations = list(zip(correct(loss, dtype), correct(each, dtype), strict=True))
            for case in cases(loss, dtype, SHAPES, seed):
                if case.group == "range" or case.accepts == ("finite",):
                    continue
                plain = ordinary(loss, case.inputs, case.flags)
                first = case.id.endswith("8x20x64") and case.group == "ordinary"
                for (name, framework, fn, only_ordinary), (_, _, by_row, _) in implementations:
                    if plain or not only_ordinary:
                        with np.errstate(all="ignore"):
                            row = share(loss, dtype, case.inputs, fn, framework, seed)
                            if first:
                                of_rows = share(each, dtype, case.inputs, by_row, framework, seed)["ratios"]
                                row["ratios"] |= {"rows": of_rows["value"]} if "value" in of_rows else {}
                        row["ratios"] = row["ratios"] if first else {}
                        rows.append(
                            {"kind": "sound", "dtype": dtype, "loss": repr(loss), "case": case.id, "by": name} | row
                        )
        for name, loss, inputs in adversarial(seed):
            held = tuple(i if i.dtype.kind == "i" else i.astype(dtype_of(dtype)).astype(float) for i in inputs)
            for by, framework, fn, only_ordinary in correct(loss, dtype):
                if not only_ordinary:
                    with np.errstate(all="ignore"):
                        row = share(loss, dtype, held, fn, framework, seed)
                    row.pop("ratios")
                    rows.append(
                        {"kind": "adversarial", "dtype": dtype, "loss": repr(loss), "case": name, "by": by} | row
                    )
    if seed == SEEDS[0]:
        rows += sharp() + public()
    return rows


SEEDS = range(4000, 4009)
ARRAYS = ("rows", "value", "gradients")
"""Whose budgets are compared with real errors: the rows' values, the loss's own, its gradients."""


# -------------------------------------------------------------------------------------------------------------- defects


def wrong(loss: Any) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Defects in float32: a name, the framework, and code that has it."""

    def changed(change: Callable[..., Any]) -> Callable[..., Any]:
        right = in_numpy(loss, pairwise, "float32")
        return lambda x, w, y: change(x, w, y, *right(x, w, y))

    def other(**changes: Any) -> Callable[..., Any]:
        return in_numpy(replace(loss, **changes), pairwise, "float32")

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
            value, dx, dw = in_numpy(loss, pairwise, "float32")(*less, y)
            return value, dx / np.linalg.norm(x, axis=1, keepdims=True), dw / np.linalg.norm(w, axis=1, keepdims=True)

        return fn

    def clamped(x: Any, w: Any, y: Any) -> Any:
        import torch

        from test_routes import textbook_psi

        f = torch.nn.functional
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1 + 1e-5, 1 - 1e-5)
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        psi = textbook_psi(torch, torch.acos(cos[target]), loss)
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
    ten = functools.partial(lambda rows: (rows.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32))
    yield "inputs rounded to 10 bits (TF32)", "numpy", rounded(ten)
    yield "float16 matrix product", "numpy", rounded(lambda rows: rows.astype(np.float16).astype(np.float32))
    yield "cosine clamped at 1 - 1e-5", "torch", clamped
    smooth = replace(loss, label_smoothing=0.1)
    yield "smoothing eps/(K-1)", "numpy", in_numpy(replace(smooth, label_smoothing=0.1 * 20 / 19), pairwise, "float32")

    def counted(x: Array, w: Array, y: Array) -> Any:
        found = in_numpy(replace(loss, reduction="sum"), pairwise, "float32")(x, w, y)
        return tuple(part / np.float32(len(y)) for part in found)

    yield "ignored rows counted in the mean", "numpy", counted


def sharp() -> list[dict[str, Any]]:
    """What `check` says of each defect, at N=8, C=20, D=64, s=64 in float32."""
    rows = []
    for loss in (refloss.ArcFace(), refloss.CosFace()):
        for name, framework, fn in wrong(loss):
            held_to = replace(loss, label_smoothing=0.1) if name.startswith("smoothing") else loss
            with np.errstate(all="ignore"):
                report = check(fn, held_to, framework=framework)
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
        module = getattr(pml, name)(num_classes=20, embedding_size=64, **settings)
        return lambda x, w, y: torch.func.functional_call(module, {"W": w.T}, (x, y))

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
        "PML ArcFaceLoss, held to the paper's",
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


def write(measured: facts.Measured, commit: str, folder: Path) -> None:
    """Write budgets.md."""
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in measured.rows:
        by_kind[row["kind"]].append(row)

    def sound(rows: list[dict[str, Any]], *keys: str) -> list[list[str]]:
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[tuple(row[key] for key in keys)].append(row)
        return [
            [
                *key,
                str(len(found)),
                str(sum(row["decided"] for row in found)),
                str(sum(row["over"] for row in found)),
                f"{max(row['worst'] for row in found):.2g}",
            ]
            for key, found in groups.items()
        ]

    everything = by_kind["sound"] + by_kind["adversarial"]
    cases_of = {
        dtype: len({(r["loss"], r["case"]) for r in by_kind["sound"] if r["dtype"] == dtype}) for dtype in DTYPES
    }
    ratios: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in by_kind["sound"]:
        for name, ratio in row["ratios"].items():
            array = name if name in ("rows", "value") else "gradients"
            for loss in (f"`{row['loss']}`", "all of them"):
                ratios[loss, row["dtype"]][array].append(ratio)
    tight = [
        [
            loss,
            dtype,
            *(f"{statistics.median(found[name]):.3g}" if found[name] else "–" for name in ARRAYS),
        ]
        for (loss, dtype), found in sorted(ratios.items(), key=lambda pair: DTYPES.index(pair[0][1]))
    ]
    numbers = ("runs", "numbers decided", "over budget", "worst share")
    over = sum(row["over"] for row in everything)
    decided = sum(row["decided"] for row in everything)
    counted = ", ".join(f"{dtype} {count * measured.rounds}" for dtype, count in cases_of.items())
    defects = [
        [
            row["loss"],
            row["defect"],
            "yes" if row["flagged"] else "**no**",
            str(row["cases"]),
            "; ".join(row["diagnoses"]) or "–",
        ]
        for row in by_kind["sharp"]
    ]
    groups = ("ordinary", "boundary", "hard", "range")
    public_code = [
        [
            row["name"],
            row["source"],
            f"`{row['loss']}`",
            *(row["verdicts"].get(group, "–") for group in groups),
            "; ".join(row["diagnoses"]) or "–",
        ]
        for row in by_kind["public"]
    ]
    page = f"""# Budgets, held against right and wrong code

Written by `.ci/record`. A run is one implementation on the cases of `refloss.testing.cases` (groups ordinary, boundary
and hard) of one loss, with inputs, upstream gradient and results in the dtype; a share is an error over its budget.
What counts as correct: NumPy by hand with sums one after the other, pairwise and in blocks of 16, the angle from
|x - w| and |x + w|; torch's autograd of the same; on ordinary angles (farther than {NEAR} rad from 0 and pi) also
arccos, and jax: held, in half precision, to sums in half precision, for the backward of its log_softmax adds up in the
dtype it stores.

- cases a dtype: {counted}
- runs: {len(everything)}, numbers decided: {decided}, over budget: {over}
{facts.lines(measured, commit, ("numpy", "torch", "jax", "optax", "pytorch-metric-learning"))}

## Sound

{facts.table(("dtype", "implementation", *numbers), sound(by_kind["sound"], "dtype", "by"), 2)}

### Inputs at which sums lose most

{facts.table(("dtype", "inputs", "implementation", *numbers), sound(by_kind["adversarial"], "dtype", "case", "by"), 3)}

## Sharp

Each defect alone, float32, N=8, C=20, D=64, s=64: whether `check` refuses it, in how many cases, and what it says.

{facts.table(("loss", "defect", "refused", "failing cases", "diagnosis"), defects, 5)}

## Tight

Median of the largest budget over the largest error of an array: ordinary cases at N=8, C=20, D=64, all implementations
together, where the whole array is decided. Values are those of the rows (`reduction="none"`) and, beside them, the one
number that the loss gives: a mean or a sum is often near the truth by chance, and its errors cancel, so budgets lie
further above it.

{facts.table(("loss", "dtype", "values of rows", "the loss's own value", "gradients"), tight, 2)}

## Public code

What `check` says, in float32 (of `naive`, in float64). "As it is": the installed package. "After its description":
written by us in its manner.

{facts.table(("code", "run", "held to", *groups, "diagnosis"), public_code, 8)}
"""
    (folder / "budgets.md").write_text(page)
