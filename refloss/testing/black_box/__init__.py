"""Black box: which loss foreign code computes, read off curves that are measured with two classes in the plane.

With one sample and all but the angle of its target held fixed, the value of a softmax loss gives the logit of the
target by inverting softmax. `measure` has such points, `families` and `fitting` the losses that are fitted to them,
`verify` the test on inputs that no fit has seen, and `diagnosis` the report.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.formats import dtype_name
from refloss.testing.adapters import ready
from refloss.testing.black_box import families, search
from refloss.testing.black_box.curves import AS_IT_IS, Outer, predicted
from refloss.testing.black_box.deviations import Deviation
from refloss.testing.black_box.diagnosis import Curve, Diagnosis
from refloss.testing.black_box.families import Curves
from refloss.testing.black_box.measure import Box, Plane
from refloss.testing.black_box.naming import Named, Search, of_directions, of_logits, reduction_of
from refloss.testing.budgets import HALVES, arithmetic
from refloss.testing.options import as_flag, as_function, as_seed, is_whole
from refloss.testing.signatures import head_of

__all__ = ["Curve", "Deviation", "Diagnosis", "diagnose"]


def diagnose(
    fn: Callable[..., Any],
    *,
    framework: str = "numpy",
    dtype: Any = "float32",
    device: Any = None,
    standard: str = "working",
    accumulate: Any = None,
    matmul: Any = None,
    logits: bool | None = None,
    centers: int | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Measure which loss a function computes, and how it deviates from it.

    Parameters
    ----------
    fn
        ``fn(x, w, y)`` or ``fn(z, y)``, called with any number of samples and classes; what else it takes has to have
        a default. Returns the value, or the value and its gradients, as in `check`.
    framework
        "numpy", "torch" or "jax": the framework whose arrays fn takes. Values of torch and jax are differentiated.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy, ml_dtypes, PyTorch or JAX. The half
        precisions resolve few losses.
    device
        Device of the inputs.
    standard, accumulate, matmul
        As in `budget`: how far a right implementation may be off.
    logits
        Whether fn takes logits and labels; if left out, whether its signature takes two arguments.
    centers
        How many centers a class has, for functions of class weights (C, K, D).
    seed
        Seed of the random numbers.

    Returns
    -------
    Diagnosis
        True if the loss is known. Printed, it says which loss it is, or "unknown".

    Raises
    ------
    ValueError, TypeError
        For invalid arguments, naming the argument. What fn raises comes through.
    """
    name = dtype_name(dtype)
    a = arithmetic(name, accumulate, matmul, standard)
    fn, seed = as_function("fn", fn), as_seed("seed", seed)
    ready(framework, name, device)
    if centers is not None and not is_whole(centers):
        raise ValueError(f"centers: expected an integer from 1 on; got {centers!r}")
    on_logits = _takes_two(fn) if logits is None else as_flag("logits", logits)
    box = Box(fn, framework, name, device, ("z",) if on_logits else ("x", "w"), centers)
    plane = Plane(box, seed)
    first = (box.exact(np.array([[0.3, 1.1]])), np.zeros(1, np.int64)) if on_logits else plane.first()
    reduced = reduction_of(box, first)
    remarks: list[str] = []
    if reduced is None:
        remarks.append("the values of one, two and three equal samples are no mean, no sum, and not one per sample")
        return _unknown(box, (), None, remarks)
    searched = Search(box, reduced, a, seed)
    curves = None if on_logits else search.measured(plane)
    candidates = of_logits(searched) if curves is None else of_directions(searched, plane, curves)
    nearest: Named | None = None
    for named in candidates:
        if named.verdict.passed:
            return _known(box, named, curves)
        if named.verdict.of(values=True).passed:
            nearest = named
            break
        if nearest is None or named.verdict.residual < nearest.verdict.residual:
            nearest = named
    return _unknown(box, _curves(curves, None), nearest, remarks)


def _takes_two(fn: Callable[..., Any]) -> bool:
    """Whether the signature of a function takes two arguments and no third."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(0, 0, 0)
    except TypeError:
        return True
    return False


def _known(box: Box, named: Named, curves: Curves | None) -> Diagnosis:
    remarks = [] if any(each.name != "value" for each in named.verdict.quantities) else [NO_GRADIENT]
    if named.alike:
        remarks.append(f"other rules that explain what was measured as well: {', '.join(named.alike)}")
    return Diagnosis(
        named.expected.loss,
        named.deviations,
        named.verdict.residual,
        named.settings,
        None,
        _curves(curves, named),
        tuple(remarks),
        box.dtype,
        box.framework,
    )


def _unknown(box: Box, curves: tuple[Curve, ...], nearest: Named | None, remarks: list[str]) -> Diagnosis:
    of_values = nearest is not None and nearest.verdict.of(values=True).passed
    if box.dtype in HALVES:
        remarks.append(f"{box.dtype} may resolve too little: measure in float32 or float64")
    return Diagnosis(
        None,
        (),
        float("inf") if nearest is None else nearest.verdict.residual,
        {},
        nearest.expected.loss if nearest is not None and of_values else None,
        curves,
        tuple(remarks),
        box.dtype,
        box.framework,
    )


NO_GRADIENT = "the value alone was returned: no gradient was measured"


def _curves(curves: Curves | None, named: Named | None) -> tuple[Curve, ...]:
    """Return the measured curves of target and other class, with those of a loss if there is one."""
    if curves is None:
        return ()
    shown = []
    for points, at, name in (
        (curves.target, curves.target.theta, "target"),
        (curves.other, curves.other.other, "other class"),
    ):
        fitted = None
        if named is not None and named.verdict.passed and head_of(named.expected.loss) not in ("logits", "linear"):
            outer = Outer(named.expected.factor, named.expected.constant)
            fitted = predicted(named.expected.loss, points, outer)
        if curves.adds_up:
            shown.append(Curve("value", f"angle of the {name}", at, points.value, fitted))
            continue
        gap = families.gap_of(points, AS_IT_IS)
        of_fit = None if fitted is None else families.gap_of(points._replace(value=fitted), AS_IT_IS)
        shown.append(Curve("logit of the other class minus the target's", f"angle of the {name}", at, gap, of_fit))
    return tuple(shown)
