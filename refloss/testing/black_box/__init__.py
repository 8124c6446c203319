"""Black box: which loss foreign code computes, read off curves that are measured with two classes in the plane.

With one sample and all but the angle of its target held fixed, the value of a softmax loss gives the logit of the
target by inverting softmax. `measure` has such points, `families` and `fitting` the losses that are fitted to them,
`verify` the test on inputs that no fit has seen, and `diagnosis` the report.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from refloss.formats import dtype_name
from refloss.testing.adapters import ready
from refloss.testing.black_box import families, search
from refloss.testing.black_box.curves import AS_IT_IS, Outer, predicted
from refloss.testing.black_box.deviations import Deviation
from refloss.testing.black_box.diagnosis import Curve, Diagnosis
from refloss.testing.black_box.families import Curves
from refloss.testing.black_box.measure import Box, Plane, difference
from refloss.testing.black_box.naming import Named, Search, of_directions, of_logits, reduction_of
from refloss.testing.budgets import HALVES, arithmetic
from refloss.testing.options import as_flag, as_function, as_seed, is_whole
from refloss.testing.report import Quantity
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
        Whether fn takes logits and labels; if left out, whether it takes two arguments, or two without a default. Of a
        module of PyTorch that is asked of its ``forward``.
    centers
        How many centers a class has, for functions of embeddings and class weights (C, K, D).
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
    if on_logits and centers is not None:
        raise ValueError(f"centers: expected None for a function of logits and labels; got {centers}")
    box = Box(fn, framework, name, device, ("z",) if on_logits else ("x", "w"), centers)
    before = box.repeated(seed)
    if differs := difference(before, box.repeated(seed), box.u):
        return _unknown(box, (), None, differs)
    plane = Plane(box, seed)
    first = (box.exact(np.array([[0.3, 1.1]])), np.zeros(1, np.int64)) if on_logits else plane.first()
    reduced = reduction_of(box, first)
    if isinstance(reduced, str):
        return _unknown(box, (), None, difference(before, box.repeated(seed), box.u) or reduced)
    searched = Search(box, reduced, a, seed)
    curves = None if on_logits else search.measured(plane)
    nearest = _nearest(of_logits(searched) if curves is None else of_directions(searched, plane, curves))
    if differs := difference(before, box.repeated(seed), box.u):
        return _unknown(box, _curves(curves, None), None, differs)
    if nearest is not None and nearest.verdict.passed:
        return _known(box, nearest, curves)
    return _unknown(box, _curves(curves, None), nearest)


def _takes_two(fn: Callable[..., Any]) -> bool:
    """Whether a function, or a module of PyTorch, takes two arguments, or two without a default."""
    try:
        parameters = inspect.signature(getattr(fn, "forward", fn)).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return False
    defaults = [each.default for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return 2 in (len(defaults), defaults.count(inspect.Parameter.empty))


def _nearest(candidates: Iterable[Named]) -> Named | None:
    """Return the first loss that has the values of the black box, or else the one that comes nearest."""
    nearest: Named | None = None
    for named in candidates:
        if named.verdict.of(values=True).passed:
            return named
        if nearest is None or named.verdict.residual < nearest.verdict.residual:
            nearest = named
    return nearest


def _known(box: Box, named: Named, curves: Curves | None) -> Diagnosis:
    remarks = [*_not_returned(box, named), *box.log.remarks(box.fields)]
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


def _not_returned(box: Box, named: Named) -> Iterator[str]:
    """Yield which gradients were not measured, or not in all calls."""
    counts = Counter(each.name for each in named.verdict.quantities)
    if len(counts) == 1:
        yield "the value alone was returned: no gradient was measured"
        return
    for name in box.fields:
        returned, calls = counts[f"d{name}"], counts["value"]
        if not returned:
            yield f"dL/d{name} was not returned: it was not measured"
        elif returned < calls:
            yield f"dL/d{name} was returned in {returned} of {calls} calls alone"


def _doubts(box: Box, quantities: Iterable[Quantity]) -> Iterator[str]:
    """Yield why gradients of an unknown loss may be none, and that values are of another dtype."""
    names = dict.fromkeys(each.name for each in quantities if each.name != "value")
    if box.framework == "numpy" and names:
        yield READ_AS.format(", ".join(names))
    elif box.log.hint:
        yield box.log.hint
    if kinds := sorted(box.log.kinds - {box.dtype, ""}):
        yield f"the value came back in {', '.join(kinds)}, not in {box.dtype}"


READ_AS = "what came beside the value was read as {}; if it is something else, return the value alone"


def _unknown(box: Box, curves: tuple[Curve, ...], nearest: Named | None, *remarks: str) -> Diagnosis:
    of_values = nearest is not None and nearest.verdict.of(values=True).passed
    quantities = () if nearest is None else nearest.verdict.quantities
    complaints = [str(each) for each in quantities if each.complaint][:1]
    remarks = (*remarks, *complaints, *box.log.remarks(box.fields), *_doubts(box, quantities if of_values else ()))
    if box.dtype in HALVES:
        remarks = (*remarks, f"{box.dtype} may resolve too little: measure in float32 or float64")
    return Diagnosis(
        None,
        (),
        float("inf") if nearest is None else nearest.verdict.residual,
        {},
        nearest.expected.loss if nearest is not None and of_values else None,
        curves,
        remarks,
        box.dtype,
        box.framework,
    )


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
