"""Every right implementation, by what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import refloss
from support.right_codes.code import CE, DTYPES, HALVES, LINEAR, SINGLES, SMOOTH, WEIGHTED, WEIGHTS, Right, by_dtype
from support.right_codes.curve_codes import CurveSteps, jax_curves, numpy_curves, torch_curves, torch_half_angle
from support.right_codes.divergence_codes import of_divergences
from support.right_codes.jax_codes import jax_custom, jax_head, jax_linear, jax_logits, jax_triplet
from support.right_codes.link_codes import jax_links, numpy_links, torch_links
from support.right_codes.numpy_codes import (
    Kernel,
    base_two,
    blocked,
    exp_of_log,
    log_sum_exp,
    max_first,
    numpy_head,
    numpy_linear,
    numpy_linear_ones,
    numpy_logits,
    numpy_relative,
    numpy_triplet,
    of_scipy,
    online,
    online_log_sum_exp,
    pairwise,
    sequential,
    unrounded,
    without_bias,
)
from support.right_codes.option_codes import numpy_options, torch_capped_in_place, torch_options
from support.right_codes.quality_codes import jax_family, numpy_family, torch_family
from support.right_codes.results import as_dict, as_one_dict, in_place, nested, plain_number, refusing, turned
from support.right_codes.torch_codes import (
    torch_arccos_in_double,
    torch_chunked,
    torch_cross_entropy,
    torch_detached,
    torch_head,
    torch_linear,
    torch_logits,
    torch_lowered,
    torch_p_minus_one,
    torch_probabilities,
    torch_quotient,
    torch_rows,
    torch_scaled_first,
    torch_triplet,
)

KERNELS: dict[str, tuple[Kernel, str]] = {
    "maximum off first": (max_first, "stable"),
    "p as exp(log p)": (exp_of_log, "stable"),
    "logsumexp(z) - z_y": (log_sum_exp, "working"),
    "powers of two": (base_two, "stable"),
    "online softmax": (online, "stable"),
    "online softmax, logsumexp kept": (online_log_sum_exp, "working"),
}
UNIGNORED = {"ignored": False}


def of_numpy_logits(dtype: str) -> Iterator[Right]:
    """Cross entropy of logits in NumPy."""
    for name, (kernel, standard) in KERNELS.items():
        for add in (sequential, pairwise, blocked):
            yield Right(f"{name}, {add.__name__}", "numpy", numpy_logits(CE, kernel, add), CE, DTYPES, standard, {})
        once = by_dtype(dtype, "mixed", standard)
        if standard == "stable":
            upcast = numpy_logits(CE, kernel, upcast=True)
            yield Right(f"{name}, in float32, rounded once", "numpy", upcast, CE, HALVES, once, {})
    for loss in (
        replace(CE, reduction="sum"),
        replace(CE, reduction="none"),
        SMOOTH,
        replace(SMOOTH, reduction="none"),
        WEIGHTED,
        replace(WEIGHTED, reduction="none", label_smoothing=0.2),
        replace(CE, ignore_index=1),
        replace(CE, label_smoothing=1.0),
    ):
        for name in ("maximum off first", "logsumexp(z) - z_y"):
            kernel, standard = KERNELS[name]
            yield Right(f"{name}, {loss}", "numpy", numpy_logits(loss, kernel), loss, DTYPES, standard, {})
        upcast = numpy_logits(loss, max_first, upcast=True)
        yield Right(f"in float32, {loss}", "numpy", upcast, loss, HALVES, "mixed", {})
    yield Right("targets are probabilities", "numpy", numpy_logits(CE), CE, DTYPES, "stable", {"soft": True})
    for loss in (CE, replace(CE, reduction="none")):
        yield Right(f"tiny losses too, {loss}", "numpy", numpy_relative(loss), loss, SINGLES, "relative", {})
    yield Right("SciPy's log_softmax", "numpy", of_scipy, CE, SINGLES, "stable", {})
    fn = numpy_logits(CE)
    yield Right("in float32, not rounded", "numpy", unrounded(fn), CE, HALVES, "mixed", {})
    yield Right("value and a dict", "numpy", as_dict(fn, "z"), CE, DTYPES, "stable", {})
    yield Right("one dict", "numpy", as_one_dict(fn, "z"), CE, DTYPES, "stable", {})
    yield Right("gradients in a tuple", "numpy", nested(fn), CE, DTYPES, "stable", {})
    yield Right("value as a Python float", "numpy", plain_number(fn), CE, DTYPES, "stable", {})
    yield Right("Fortran order, read-only, minus zeros", "numpy", turned(fn), CE, DTYPES, "stable", {})
    yield Right("gradient over the logits", "numpy", in_place(fn), CE, DTYPES, "stable", {"overwrites": ("z",)})
    yield Right("refuses ignored labels", "numpy", refusing(fn), CE, DTYPES, "stable", {})
    yield Right("has no ignored labels", "numpy", refusing(fn), CE, DTYPES, "stable", UNIGNORED)
    yield Right("the value alone", "numpy", lambda z, y: fn(z, y)[0], CE, DTYPES, "stable", {"gradients": False})


def of_torch_logits(dtype: str) -> Iterator[Right]:
    """Cross entropy of logits in torch."""
    for name, standard in (
        ("log_softmax, gather", "stable"),
        ("F.nll_loss of log_softmax", "stable"),
        ("logsumexp - z_y", "working"),
        ("maximum off, detached", "stable"),
        ("maximum off, max with its gradient", "stable"),
        ("maximum off, amax with its gradient", "stable"),
        ("one-hot times log_softmax", "stable"),
    ):
        for loss in (CE, replace(CE, reduction="none"), replace(CE, reduction="sum")):
            fn = torch_logits(torch_rows(name), loss)
            yield Right(f"{name}, {loss.reduction}", "torch", fn, loss, DTYPES, standard, {})
        if standard == "stable":
            upcast = torch_logits(torch_rows(name), CE, upcast=True)
            yield Right(f"{name}, in float32", "torch", upcast, CE, HALVES, "mixed", {})
    for loss in (
        *(replace(CE, reduction=reduction) for reduction in ("mean", "sum", "none")),
        SMOOTH,
        replace(SMOOTH, reduction="none"),
        WEIGHTED,
        replace(WEIGHTED, reduction="none", label_smoothing=0.2),
        replace(WEIGHTED, label_smoothing=0.2),
        replace(CE, ignore_index=2),
    ):
        own = torch_cross_entropy(loss)
        yield Right(f"F.cross_entropy, {loss}", "torch", own, loss, DTYPES, "stable", {})
        single = torch_cross_entropy(loss, lambda z: z.float())
        yield Right(f"F.cross_entropy of z.float(), {loss}", "torch", single, loss, HALVES, "mixed", {})
    double = torch_cross_entropy(CE, lambda z: z.double())
    yield Right("F.cross_entropy of z.double()", "torch", double, CE, DTYPES, by_dtype(dtype, "mixed"), {})
    soft = {"soft": True}
    yield Right("F.cross_entropy, probabilities", "torch", torch_cross_entropy(CE), CE, DTYPES, "stable", soft)
    soft_smooth = torch_cross_entropy(SMOOTH)
    yield Right("F.cross_entropy, smoothed probabilities", "torch", soft_smooth, SMOOTH, DTYPES, "stable", soft)
    yield Right("-sum t log p", "torch", torch_probabilities(CE), CE, DTYPES, "stable", soft)
    for loss in (CE, SMOOTH, replace(CE, reduction="none")):
        stored = torch_p_minus_one(loss, upcast=True)
        yield Right(f"p - t stored once, {loss}", "torch", stored, loss, DTYPES, by_dtype(dtype, "mixed"), {})


def of_jax_logits(dtype: str) -> Iterator[Right]:
    """Cross entropy of logits in jax, whose backward adds up in what it stores."""
    stored: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for name, standard in (
        ("log_softmax", "stable"),
        ("logsumexp - z_y", "working"),
        ("maximum off, stopped", "stable"),
        ("maximum off, with its gradient", "stable"),
        ("optax, labels", "working"),
        ("optax, one-hot", "stable"),
        ("optax, safe", "stable"),
    ):
        settings = stored | ({"xfail": {"boundary-masked": "0 times -inf is NaN"}} if name == "optax, one-hot" else {})
        for loss in (CE, replace(CE, reduction="none")):
            yield Right(f"{name}, {loss.reduction}", "jax", jax_logits(name, loss), loss, DTYPES, standard, settings)
        if standard == "stable":
            settings = {name: value for name, value in settings.items() if name != "accumulate"}
            upcast = jax_logits(name, CE, upcast=True)
            yield Right(f"{name}, in float32", "jax", upcast, CE, HALVES, "mixed", settings)
    yield Right("p - t by a custom backward", "jax", jax_custom(CE), CE, DTYPES, "stable", stored)


def of_linear(dtype: str) -> Iterator[Right]:
    """Linear layer and cross entropy, with and without a bias."""
    import torch

    smooth = replace(LINEAR, label_smoothing=0.1, class_weight=WEIGHTS)
    rows = replace(LINEAR, reduction="none")
    for add in (sequential, pairwise, blocked):
        fn = numpy_linear(LINEAR, add=add)
        yield Right(f"products, {add.__name__}", "numpy", without_bias(fn), LINEAR, DTYPES, "stable", {})
        yield Right(f"products and a bias, {add.__name__}", "numpy", fn, LINEAR, DTYPES, "stable", {})
    working = numpy_linear(LINEAR, log_sum_exp)
    yield Right("products, logsumexp(z) - z_y", "numpy", working, LINEAR, DTYPES, "working", {})
    yield Right("products, online softmax", "numpy", numpy_linear(LINEAR, online), LINEAR, DTYPES, "stable", {})
    yield Right("products, smoothed and weighted", "numpy", numpy_linear(smooth), smooth, DTYPES, "stable", {})
    yield Right("products, rows", "numpy", numpy_linear(rows), rows, DTYPES, "stable", {})
    yield Right("a bias as a column", "numpy", numpy_linear_ones(LINEAR), LINEAR, DTYPES, "stable", {})
    named = as_dict(without_bias(numpy_linear(LINEAR)), "x", "w")
    yield Right("a dict of gradients", "numpy", named, LINEAR, DTYPES, "stable", {})
    kernel = numpy_linear(LINEAR, upcast="kernel")
    yield Right("products stored, kernel in float32", "numpy", kernel, LINEAR, HALVES, "mixed", {})
    fused = numpy_linear(LINEAR, upcast="all")
    yield Right("everything in float32, rounded once", "numpy", fused, LINEAR, HALVES, "fused", {})
    only_x = {"gradients": ("x",)}
    of_x = without_bias(lambda *inputs: numpy_linear(LINEAR)(*inputs)[:2])
    yield Right("a frozen layer: dx alone", "numpy", of_x, LINEAR, DTYPES, "stable", only_x)

    yield Right(
        "linear, F.cross_entropy", "torch", torch_linear(torch_cross_entropy(LINEAR)), LINEAR, DTYPES, "stable", {}
    )
    lse = torch_linear(torch_logits(torch_rows("logsumexp - z_y"), LINEAR))
    yield Right("linear, logsumexp - z_y", "torch", lse, LINEAR, DTYPES, "working", {})
    own = torch_linear(torch_cross_entropy(smooth))
    yield Right("linear, F.cross_entropy, smoothed and weighted", "torch", own, smooth, DTYPES, "stable", {})
    upcast = torch_linear(torch_cross_entropy(LINEAR, lambda z: z.float()))
    yield Right("linear, F.cross_entropy of z.float()", "torch", upcast, LINEAR, HALVES, "mixed", {})
    stored = torch_linear(torch_p_minus_one(LINEAR, upcast=True))
    yield Right("linear, p - 1 stored once", "torch", stored, LINEAR, HALVES, "mixed", {})
    whole = torch_linear(torch_cross_entropy(LINEAR), upcast=True)
    yield Right("linear of x.float(), F.cross_entropy", "torch", whole, LINEAR, HALVES, "fused", {})
    best = by_dtype(dtype, "fused")
    yield Right("chunks of rows", "torch", torch_chunked(LINEAR), LINEAR, DTYPES, best, {})
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        linear = torch.nn.functional.linear_cross_entropy
        yield Right("F.linear_cross_entropy", "torch", linear, LINEAR, DTYPES, "stable", {})

        def biased(x: Any, w: Any, y: Any, b: Any = None) -> Any:
            return linear(x, w, y, linear_bias=b)

        yield Right("F.linear_cross_entropy, bias", "torch", biased, LINEAR, DTYPES, "stable", {})

    summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for name, standard in (("log_softmax", "stable"), ("optax, labels", "working")):
        yield Right(f"linear, {name}", "jax", jax_linear(name, LINEAR), LINEAR, DTYPES, standard, summed)
    yield Right("linear in float32", "jax", jax_linear("log_softmax", LINEAR, upcast=True), LINEAR, HALVES, "fused", {})


LOWERED = (
    refloss.NormFace(s=16.0),
    refloss.NormFace(s=None),
    refloss.ModifiedSoftmax(),
    refloss.CosFace(),
    refloss.CosFace(m=0.2, reduction="none"),
    refloss.CosFace(boundary="conditional"),
    refloss.CosFace(s=16.0, label_smoothing=0.1, class_weight=WEIGHTS),
)
"""Losses whose margin, if they have one, is on the cosine."""
ANGLES = (
    refloss.ArcFace(),
    refloss.ArcFace(s=16.0, reduction="none"),
    refloss.ArcFace(s=None),
    *(
        refloss.ArcFace(s=30.0, boundary=rule)
        for rule in ("hard", "easy", "keep", "continuous", "monotone", "clamp", "min")
    ),
    refloss.ArcFace(s=16.0, boundary="hard", label_smoothing=0.1),
    refloss.ArcFace(s=16.0, boundary="easy", class_weight=WEIGHTS, reduction="sum"),
    refloss.ArcFace(gradient="detached"),
    refloss.CombinedMargin(),
    refloss.CombinedMargin(m1=1.35, m2=0.0, m3=0.0),
    refloss.CombinedMargin(m1=0.9, m2=0.4, m3=0.15, boundary="monotone"),
    refloss.CombinedMargin(m1=1.35, boundary="continuous"),
    refloss.CombinedMargin(boundary="conditional"),
    refloss.ASoftmax(),
    refloss.ASoftmax(s=16.0, annealing=5.0),
    refloss.ASoftmax(m=1.5, s=30.0, boundary="none"),
    refloss.ASoftmax(m=3.0),
)
"""Losses whose margin is on the angle."""


def of_cosines(dtype: str) -> Iterator[Right]:
    """Margins on the cosine."""
    for loss in LOWERED:
        yield Right(f"by hand, {loss}", "numpy", numpy_head(loss, "cosine"), loss, DTYPES, "stable", {})
        yield Right(f"by norm, {loss}", "torch", torch_head(loss, "cosine"), loss, DTYPES, "stable", {})
        upcast = torch_head(loss, "cosine", upcast=True)
        yield Right(f"in float32, {loss}", "torch", upcast, loss, HALVES, "mixed", {})
    for add in (sequential, blocked):
        fn = numpy_head(LOWERED[3], "cosine", add)
        yield Right(f"by hand, {add.__name__}, CosFace", "numpy", fn, LOWERED[3], DTYPES, "stable", {})
    for loss in (LOWERED[0], LOWERED[3], LOWERED[4]):
        yield Right(f"F.normalize, {loss}", "torch", torch_lowered(loss), loss, DTYPES, "stable", {})
        yield Right(f"x.w / (|x| |w|), {loss}", "torch", torch_quotient(loss), loss, DTYPES, "stable", {})
        yield Right(f"scale first, {loss}", "torch", torch_scaled_first(loss), loss, DTYPES, "stable", {})
        lse = torch_lowered(loss, "logsumexp - z_y")
        yield Right(f"F.normalize, logsumexp - z_y, {loss}", "torch", lse, loss, DTYPES, "working", {})
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        yield Right(f"in jax, {loss}", "jax", jax_head(loss), loss, DTYPES, "stable", summed | UNIGNORED)
        optax = jax_head(loss, "optax, labels")
        yield Right(f"optax, {loss}", "jax", optax, loss, DTYPES, "working", summed | UNIGNORED)
        single = jax_head(loss, upcast=True)
        yield Right(f"in jax, in float32, {loss}", "jax", single, loss, HALVES, "mixed", UNIGNORED)


def of_angles(dtype: str) -> Iterator[Right]:
    """Margins on the angle."""
    gathers = dtype in SINGLES  # the backward of a gather adds up in half precision
    for loss in ANGLES:
        yield Right(f"two lengths by hand, {loss}", "numpy", numpy_head(loss), loss, DTYPES, "stable", {})
        yield Right(f"two lengths, {loss}", "torch", torch_head(loss, gathered=gathers), loss, DTYPES, "stable", {})
    for loss in (ANGLES[0], ANGLES[3], ANGLES[13], ANGLES[18]):
        fn = numpy_head(loss, "projection")
        yield Right(f"one projection by hand, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
        fn = torch_head(loss, "projection")
        yield Right(f"one projection, {loss}", "torch", fn, loss, DTYPES, "stable", {})
        fn = torch_head(loss, upcast=True)
        yield Right(f"two lengths in float32, {loss}", "torch", fn, loss, HALVES, "mixed", {})
        fn = numpy_head(loss, upcast=True)
        yield Right(f"two lengths by hand in float32, {loss}", "numpy", fn, loss, HALVES, "mixed", {})
        fn = torch_head(loss, unit="normalize", gathered=gathers)
        yield Right(f"two lengths, F.normalize, {loss}", "torch", fn, loss, DTYPES, "stable", {})
    for loss in (*ANGLES[:6], refloss.ArcFace(s=8.0)):
        fn = torch_head(loss, "addition", gathered=gathers)
        yield Right(f"addition formula, {loss}", "torch", fn, loss, DTYPES, "stable", {})
        yield Right(
            f"addition formula by hand, {loss}", "numpy", numpy_head(loss, "addition"), loss, DTYPES, "stable", {}
        )
    for loss in (refloss.ASoftmax(), refloss.ASoftmax(s=16.0, annealing=5.0)):
        yield Right(f"cos 4θ, {loss}", "torch", torch_head(loss, "polynomial"), loss, DTYPES, "stable", {})
    for loss in (ANGLES[0], ANGLES[3], ANGLES[14]):
        fn = torch_arccos_in_double(
            loss
        )  # in half precision embeddings may lie on their class, where arccos has no slope
        yield Right(f"arccos in float64, {loss}", "torch", fn, loss, ("float32",), "stable", {})
    detached = refloss.ArcFace(gradient="detached")
    yield Right("margin without gradient", "torch", torch_detached(detached), detached, DTYPES, "stable", {})
    summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for loss in (ANGLES[1], ANGLES[2], replace(ANGLES[13], s=16.0), replace(ANGLES[14], s=16.0)):
        yield Right(f"two lengths, {loss}", "jax", jax_head(loss), loss, DTYPES, "stable", summed | UNIGNORED)


def of_triplets(dtype: str) -> Iterator[Right]:
    """Triplet losses."""
    squared, plain = refloss.Triplet(), refloss.Triplet(squared=False)
    for loss in (squared, plain, replace(squared, reduction="none", m=1.0), replace(plain, reduction="sum", m=0.5)):
        for add in (sequential, pairwise, blocked):
            fn = numpy_triplet(loss, add)
            yield Right(f"by hand, {add.__name__}, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
        yield Right(f"by hand in float32, {loss}", "numpy", numpy_triplet(loss, upcast=True), loss, HALVES, "mixed", {})
        forms = ("squares", "products") if loss.squared else ("safe root", "norm", "pairwise_distance", "torch's")
        for form in forms:
            yield Right(f"{form}, {loss}", "torch", torch_triplet(loss, form), loss, DTYPES, "stable", {})
            upcast = torch_triplet(loss, form, upcast=True)
            yield Right(f"{form} in float32, {loss}", "torch", upcast, loss, HALVES, "mixed", {})
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        yield Right(f"in jax, {loss}", "jax", jax_triplet(loss), loss, DTYPES, "stable", summed)


OPTIONS = (
    refloss.CrossEntropy(softcap=30.0),
    refloss.CrossEntropy(softcap=2.0),
    refloss.CrossEntropy(logit_scale=0.0625),
    refloss.CrossEntropy(z_loss=1e-4),
    refloss.CrossEntropy(z_loss=0.5, reduction="sum"),
    refloss.CrossEntropy(logit_scale=0.5, softcap=15.0, z_loss=0.125),
    refloss.CrossEntropy(softcap=50.0, z_loss=0.125, class_weight=WEIGHTS),
    refloss.CrossEntropy(softcap=50.0, z_loss=0.125, label_smoothing=0.1, reduction="none"),
)


def of_options(dtype: str) -> Iterator[Right]:
    """Logit scale, softcap and z-loss, of logits and of a linear layer."""
    for loss in OPTIONS:
        # logits of 1000 have squares that float16 cannot hold, and sums of these even times λ
        held = DTYPES[1:] if loss.softcap is None and loss.z_loss else DTYPES
        halves = HALVES[1:] if held != DTYPES and loss.reduction == "sum" else HALVES
        own = torch_options(loss)
        yield Right(f"capped, F.cross_entropy, lse ** 2, {loss}", "torch", own, loss, held, "working", {})
        single = torch_options(loss, lambda z: z.float())
        yield Right(f"the same of z.float(), {loss}", "torch", single, loss, halves, "mixed", {})
        numpy_codes = numpy_options(loss), numpy_options(loss, upcast=True)
        yield Right(f"by hand, {loss}", "numpy", numpy_codes[0], loss, held, "working", {})
        yield Right(f"by hand in float32, {loss}", "numpy", numpy_codes[1], loss, halves, "mixed", {})
    for loss in (OPTIONS[0], OPTIONS[1], OPTIONS[2]):
        own = torch_options(loss, capped=torch_capped_in_place)
        yield Right(f"capped in place, F.cross_entropy, {loss}", "torch", own, loss, DTYPES, "stable", {})
    for loss in (
        replace(LINEAR, softcap=30.0),
        replace(LINEAR, z_loss=2.0**-7),
        replace(LINEAR, logit_scale=0.25, softcap=2.0, z_loss=0.125, class_weight=WEIGHTS),
    ):
        own, held = torch_linear(torch_options(loss)), DTYPES if loss.softcap else DTYPES[1:]
        yield Right(f"linear, capped, F.cross_entropy, lse ** 2, {loss}", "torch", own, loss, held, "working", {})
        single = torch_linear(torch_options(loss), upcast=True)
        yield Right(f"linear in float32, capped, {loss}", "torch", single, loss, HALVES, "fused", {})
    soft = {"soft": True}
    fn = torch_options(OPTIONS[5])
    yield Right("capped, F.cross_entropy, lse ** 2, probabilities", "torch", fn, OPTIONS[5], DTYPES, "working", soft)


GIVEN = (
    refloss.ArcFace(),
    refloss.ArcFace(s=30.0, boundary="hard"),
    refloss.ArcFace(s=None, reduction="none"),
    refloss.ArcFace(s=16.0, boundary="easy", class_weight=WEIGHTS, reduction="sum"),
    refloss.CosFace(),
    refloss.CosFace(boundary="conditional", label_smoothing=0.1),
    refloss.CombinedMargin(m1=1.35, m2=0.2, m3=0.1),
    refloss.ArcFace(gradient="detached"),
)
"""Losses whose margins may be given."""
QUALITIES = (
    refloss.AdaFace(),
    refloss.AdaFace(h=1.0, std=5.0, reduction="none"),
    refloss.AdaFace(s=16.0, h=1.0, std=20.0, gradient="detached"),
    refloss.AdaFace(s=None, label_smoothing=0.1),
    refloss.MagFace(),
    refloss.MagFace(boundary="hard", s=32.0, reduction="none"),
    refloss.MagFace(s=30.0, class_weight=WEIGHTS, l_a=0.5, u_a=8.0, regularizer=2.0),
    refloss.MagFace(boundary="none", gradient="detached", reduction="sum"),
    refloss.MagFace(s=None, regularizer=0.0),
)
"""Losses whose margins depend on lengths."""
HARD = (
    refloss.CurricularFace(),
    refloss.CurricularFace(t=0.3, boundary="none", reduction="none"),
    refloss.CurricularFace(s=None, t=-0.2, boundary="easy"),
    refloss.CurricularFace(s=30.0, t=0.6, label_smoothing=0.1, gradient="detached"),
    refloss.MVSoftmax(),
    refloss.MVSoftmax(margin="arc", m=0.5, boundary="none", reduction="none"),
    refloss.MVSoftmax(margin="arc", m=0.5, t=1.0, class_weight=WEIGHTS),
    refloss.MVSoftmax(boundary="none", t=0.0, s=16.0, reduction="sum"),
)
"""Losses whose hard classes count more."""


def of_samples_and_classes(dtype: str) -> Iterator[Right]:
    """Margins of samples, given or by length, and hard classes."""
    gathers = dtype in SINGLES
    rules = {"none", "hard", "easy", "conditional", "clip", "acute"}
    for loss in (*GIVEN, *QUALITIES, *HARD):
        fn = torch_family(loss, gathered=gathers)
        yield Right(f"two lengths, of samples, {loss}", "torch", fn, loss, DTYPES, "stable", {})
        upcast = torch_family(loss, upcast=True)
        yield Right(f"two lengths of samples in float32, {loss}", "torch", upcast, loss, HALVES, "mixed", {})
        if loss.spec.margin.boundary in rules:
            fn = numpy_family(loss)
            yield Right(f"of samples by hand, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
            fn = numpy_family(loss, upcast=True)
            yield Right(f"of samples by hand in float32, {loss}", "numpy", fn, loss, HALVES, "mixed", {})
    for loss in (replace(GIVEN[0], s=16.0), replace(QUALITIES[0], s=16.0), HARD[1]):
        fn = numpy_family(loss, "projection")
        yield Right(f"of samples by one projection, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        yield Right(f"of samples in jax, {loss}", "jax", jax_family(loss), loss, DTYPES, "stable", summed | UNIGNORED)
        single = jax_family(loss, upcast=True)
        yield Right(f"of samples in jax, in float32, {loss}", "jax", single, loss, HALVES, "mixed", UNIGNORED)


CURVES = (
    refloss.SphereFaceR(),
    refloss.SphereFaceR(m=1.4, s=40.0, gradient="detached"),
    refloss.SphereFaceR(version=2),
    refloss.SphereFaceR(version=2, m=4.0, s=None, reduction="none"),
    refloss.SphereFaceR(version=2, m=1.4, gradient="detached", label_smoothing=0.1),
    refloss.CircleLoss(),
    refloss.CircleLoss(s=64.0, m=0.4, gradient="detached", reduction="none"),
    refloss.CircleLoss(s=16.0, class_weight=WEIGHTS, reduction="sum"),
    refloss.InterTopK(),
    refloss.InterTopK(penalty=0.3, k=2, boundary="none", reduction="none"),
    refloss.InterTopK(penalty=0.5, k=1, s=None, boundary="easy", gradient="detached"),
    refloss.InterTopK(k=3, s=16.0, label_smoothing=0.1, reduction="sum"),
)
"""Losses with curves for the other classes."""


def of_other_curves(dtype: str) -> Iterator[Right]:
    """SphereFace-R, circle loss and inter-top-k."""
    for loss in CURVES:
        for name, fn, framework in (
            ("two lengths, of all classes", torch_curves, "torch"),
            ("curves by hand", numpy_curves, "numpy"),
        ):
            yield Right(f"{name}, {loss}", framework, fn(loss), loss, DTYPES, "stable", {})
            yield Right(f"{name}, in float32, {loss}", framework, fn(loss, upcast=True), loss, HALVES, "mixed", {})
    for loss in (CURVES[2], CURVES[9]):
        fn = numpy_curves(loss, "projection")
        yield Right(f"curves by one projection, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
    for loss in CURVES[8:10]:
        fn = numpy_curves(loss, "addition")
        yield Right(f"curves by the addition formula, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
    half_angle = refloss.SphereFaceR(version=2, m=2.0, s=16.0)
    fn = torch_curves(half_angle, CurveSteps(divided=torch_half_angle))
    yield Right("half-angle formula, by a length", "torch", fn, half_angle, DTYPES, "stable", {})
    summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for loss in (replace(CURVES[2], s=8.0), CURVES[6], replace(CURVES[9], s=16.0)):
        yield Right(f"curves in jax, {loss}", "jax", jax_curves(loss), loss, DTYPES, "stable", summed | UNIGNORED)
        single = jax_curves(loss, upcast=True)
        yield Right(f"curves in jax, in float32, {loss}", "jax", single, loss, HALVES, "mixed", UNIGNORED)


LINKS = (
    refloss.SphereFace2(),
    refloss.SphereFace2(m=0.2, s=16.0, t=1, gradient="detached", reduction="none"),
    refloss.UniFace(),
    refloss.UniFace(s=20.0, m=0.125, l=0.5, reduction="sum"),
    refloss.SigLIP(),
    refloss.SigLIP(reduction="none"),
    refloss.InfoNCE(),
    refloss.InfoNCE(ways=1, reduction="none"),
)
"""Losses of answers of their own, and of pairs."""


def of_links(dtype: str) -> Iterator[Right]:
    """SphereFace2, UniFace, SigLIP and InfoNCE."""
    forms = {
        "logsigmoid": (DTYPES, "stable"),
        "with logits": (DTYPES, "working"),
        "softplus": ((*HALVES, "float32"), "stable"),  # above its threshold of 20 it is off by 2e-9
        "softplus to 40": (DTYPES, "stable"),
    }
    for loss in LINKS:
        bias: dict[str, Any] = {} if not hasattr(loss, "ignore_index") else {"bias": True}
        for form, (dtypes, standard) in forms.items():
            yield Right(f"{form}, {loss}", "torch", torch_links(loss, form), loss, dtypes, standard, bias)
        single = torch_links(loss, upcast=True)
        yield Right(f"logsigmoid in float32, {loss}", "torch", single, loss, HALVES, "mixed", bias)
        answers = loss in LINKS[:6]
        standard = by_dtype(dtype, "stable", "relative") if answers else "stable"
        yield Right(f"answers by hand, {loss}", "numpy", numpy_links(loss), loss, DTYPES, standard, bias)
        single = numpy_links(loss, upcast=True)
        yield Right(f"answers by hand in float32, {loss}", "numpy", single, loss, HALVES, "mixed", bias)
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        for form in ("softplus", "optax"):
            fn = jax_links(loss, form)
            yield Right(f"{form} in jax, {loss}", "jax", fn, loss, DTYPES, standard, summed | bias | UNIGNORED)
            single = jax_links(loss, form, upcast=True)
            yield Right(f"{form} in jax in float32, {loss}", "jax", single, loss, HALVES, "mixed", bias | UNIGNORED)


FAMILIES = (
    of_numpy_logits,
    of_torch_logits,
    of_jax_logits,
    of_linear,
    of_cosines,
    of_angles,
    of_triplets,
    of_divergences,
    of_options,
    of_samples_and_classes,
    of_other_curves,
    of_links,
)
