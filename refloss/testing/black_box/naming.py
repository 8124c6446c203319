"""Name a black box: reduction, fits, and the test of each on inputs that no fit has seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

import refloss
from refloss.testing.black_box import conventions, families, logits, search
from refloss.testing.black_box.conventions import CONVENTIONS
from refloss.testing.black_box.curves import AS_IT_IS, Outer
from refloss.testing.black_box.deviations import Deviation, Expected
from refloss.testing.black_box.families import Curves, Start
from refloss.testing.black_box.fitting import Candidate, Fit, Short, short
from refloss.testing.black_box.measure import Box, Plane
from refloss.testing.black_box.verify import (
    Seen,
    Verdict,
    held_out,
    held_out_linear,
    held_out_logits,
    seen,
    verdict,
)
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Inputs

SMALLEST_CHANGE = 1e-3
"""Smallest change of all gradients by a factor that is looked for."""
MOST = 6
"""Fits that are tested before a black box counts as unknown."""


class Reduced(NamedTuple):
    """What becomes of the losses of several samples."""

    reduction: str
    power: int = 0
    """The power of N by which the reduction is multiplied as well."""
    constant: float = 0.0
    """What is added to a sum, once for all samples."""


class Named(NamedTuple):
    """A loss with its deviations, and how the black box compares with it."""

    expected: Expected
    settings: dict[str, str]
    """The fitted settings as they are written: "0.5", "28.6 degrees", "0.4998 ± 0.0003"."""
    deviations: tuple[Deviation, ...]
    verdict: Verdict
    alike: tuple[str, ...] = ()
    """Other rules that explain what was measured as well."""


def reduction_of(box: Box, inputs: Inputs) -> Reduced | str:
    """Return what becomes of one, two and three samples that are the same; if it is nothing known, why."""
    first, *rest = inputs
    values = [box.called(np.repeat(first, n, axis=0), *rest[:-1], np.repeat(rest[-1], n)).value for n in (1, 2, 3)]
    if not all(np.isfinite(value).all() for value in values):
        return "values that are NaN or infinite show no reduction"
    shapes = [value.shape for value in values]
    if shapes == [(1,), (2,), (3,)]:
        return Reduced("none")
    if shapes != [()] * 3:
        came = "{}, {} and {}".format(*shapes)
        return f"values have shapes {came} for one, two and three equal samples: expected (), or (1,), (2,) and (3,)"
    one, two, three = map(float, values)
    near = 64.0 * box.u * max(abs(one), abs(two), abs(three), 1e-300)
    for power in (0, 1, -1, -2):
        if abs(two - one * 2.0**power) <= near and abs(three - one * 3.0**power) <= near:
            return Reduced("sum") if power == 1 else Reduced("mean", power)
    if abs((three - two) - (two - one)) <= near < two - one:
        return Reduced("sum", 0, one - (two - one))
    return "the values of one, two and three equal samples are no mean, no sum, and not one per sample"


# ----------------------------------------------------------------------------------------------------------- the search


class Search(NamedTuple):
    """What a search needs: the black box, its reduction, and how its errors count."""

    box: Box
    reduced: Reduced
    arithmetic: Arithmetic
    seed: int

    def tested(self, fits: Iterable[Candidate], loss_of: Any) -> Iterator[Named]:
        """Yield losses that were tested, with their verdict, at most so many."""
        for candidate, _ in zip(fits, range(MOST), strict=False):
            named = self.named(loss_of(candidate.fit.loss), candidate.fit, candidate.shorts)
            yield named._replace(alike=candidate.alike)

    def named(self, loss: Any, fit: Fit, shorts: dict[str, Short]) -> Named:
        """Test a loss, with each of its gradient conventions, on inputs that no fit has seen."""
        calls = self._calls(loss)
        errors = {name: error for name, error in fit.errors.items() if name not in shorts}
        outer = fit.model.outer
        expected = Expected(
            replace(loss, reduction=self.reduced.reduction),
            outer.factor,
            self.reduced.power,
            outer.constant or self.reduced.constant,
            {name: error for name, error in errors.items() if name not in Outer._fields},
        )
        texts = {name: chosen.text for name, chosen in shorts.items() if not AS_IT_IS.has(name, chosen.value)}
        texts |= {name: with_error(fit.model.value_of(name), error) for name, error in errors.items()}
        settings = dict(sorted(texts.items()))
        gradients = ("exact", "detached") if hasattr(loss, "gradient") else (None,)
        best: Named | None = None
        for gradient in gradients:
            own = expected if gradient is None else expected._replace(loss=replace(expected.loss, gradient=gradient))
            now = Named(own, settings, self._deviations(own, shorts, settings), self._verdict(own, calls))
            best = now if best is None or now.verdict.residual < best.verdict.residual else best
            if best.verdict.passed or not best.verdict.of(values=True).passed:
                break
        assert best is not None
        if not best.verdict.passed and best.verdict.of(values=True).passed:
            return self._by_convention(loss, best, calls, shorts, settings)
        return best

    def _by_convention(
        self, loss: Any, best: Named, calls: list[Seen], shorts: dict[str, Short], settings: dict[str, str]
    ) -> Named:
        """Return a loss whose values are right with another gradient convention, if one explains the gradients."""
        expected = best.expected
        changes: list[dict[str, Any]] = []
        times = self._times(expected, calls)
        if times is not None:
            changes.append({"times": times})
        if conventions.has_conventions(loss):
            changes += [{"convention": convention} for convention in CONVENTIONS]
        gradients = ("exact", "detached") if hasattr(loss, "gradient") else (None,)
        for change in changes:
            for gradient in gradients:
                own = expected.loss if gradient is None else replace(expected.loss, gradient=gradient)
                tried = expected._replace(loss=own, **change)
                verdict = self._verdict(tried, calls)
                if verdict.passed:
                    return Named(tried, settings, self._deviations(tried, shorts, settings), verdict)
        return best

    def _times(self, expected: Expected, calls: list[Seen]) -> float | None:
        """Return the short number by which gradients are multiplied, or whose inverse it is; None if that is 1."""
        ratios: list[float] = []
        for inputs, found in calls:
            truth, _ = expected.at(inputs, found.upstream, self.arithmetic, "chain")
            for name, part in zip(self.box.fields, found.gradients or (), strict=False):
                own = truth[f"d{name}"]
                if part is not None and part.shape == own.shape and own.any() and np.isfinite(part).all():
                    ratios.append(float((part * own).sum() / (own * own).sum()))
        if not ratios:
            return None
        middle = float(np.median(ratios))
        if min(abs(middle), abs(middle - 1.0)) < SMALLEST_CHANGE:
            return None
        for number, inverted in ((middle, False), (1.0 / middle, True)):
            if chosen := short(number, 1e-5 * abs(number)):
                return 1.0 / chosen.value if inverted else chosen.value
        return None

    def _calls(self, loss: Any) -> list[Seen]:
        if isinstance(loss, refloss.CrossEntropy):
            several = held_out_logits(self.box, self.seed)
        elif isinstance(loss, refloss.SoftmaxLoss):
            several = held_out_linear(self.box, self.seed)
        else:
            several = held_out(loss, self.box, self.seed)
        return seen(self.box, several, self.seed)

    def _verdict(self, expected: Expected, calls: list[Seen]) -> Verdict:
        engine = "dd" if self.box.dtype == "float64" else "chain"
        return verdict(expected, calls, self.box.fields, self.arithmetic, engine)

    def _deviations(
        self, expected: Expected, shorts: dict[str, Short], settings: dict[str, str]
    ) -> tuple[Deviation, ...]:
        return (*_units(shorts), *_outer(expected, settings), *_of_gradient(expected))


def _units(shorts: dict[str, Short]) -> Iterator[Deviation]:
    for name, chosen in shorts.items():
        if chosen.text.endswith("degrees"):
            degrees = float(chosen.text.split()[0])
            said = f"{name} is {chosen.text}: {chosen.value:.6g} radians"
            yield Deviation("degrees", said, {"setting": name, "degrees": degrees, "radians": chosen.value})


def _outer(expected: Expected, settings: dict[str, str]) -> Iterator[Deviation]:
    if expected.factor != 1.0:
        text = settings.get("factor", f"{expected.factor:g}")
        yield Deviation("factor", f"value and gradients are multiplied by {text}", {"factor": expected.factor})
    if expected.power:
        times = {-1: "N", -2: "N²"}[expected.power]
        said = f"the mean over N samples is divided by {times} once more"
        yield Deviation("reduction", said, {"power": expected.power})
    if expected.constant:
        text = settings.get("constant", f"{expected.constant:g}")
        yield Deviation("constant", f"{text} is added to the value", {"constant": expected.constant})


def _of_gradient(expected: Expected) -> Iterator[Deviation]:
    if expected.convention is not None:
        yield Deviation("gradient", expected.convention.sentence, {"convention": expected.convention.name})
    if expected.times != 1.0:
        said = f"gradients alone are multiplied by {expected.times:g}"
        yield Deviation("gradient", said, {"times": expected.times})


def with_error(value: float, error: float) -> str:
    """Write a number and how far it may be off, to the digit that this leaves in doubt."""
    if not math.isfinite(error):
        return f"{value:g}, which the curves do not determine"
    digits = max(0, 1 - math.floor(math.log10(error))) if error else 15
    return f"{value:.{digits}f} ± {error:.1g}"


def canonical(loss: Any, centers: int | None) -> Any:
    """Return the loss by its usual name: without margin, or with several centers."""
    if isinstance(loss, refloss.NormFace) and loss.s is None:
        return refloss.ModifiedSoftmax()
    if centers is not None and isinstance(loss, refloss.ArcFace | refloss.NormFace):
        m, boundary = (loss.m, loss.boundary) if isinstance(loss, refloss.ArcFace) else (0.0, "none")
        return refloss.SubCenterArcFace(m=m, boundary=boundary, s=loss.s, centers=centers)
    return loss


def of_logits(search_: Search) -> Iterator[Named]:
    """Yield losses on logits, or on those of a linear layer."""
    box = search_.box
    rows = logits.measured(box)

    def loss_of(loss: Any) -> Any:
        if box.fields == ("z",):
            return loss
        own = {each.name: getattr(loss, each.name) for each in fields(loss)}
        return refloss.SoftmaxLoss(**own)

    yield from search_.tested(logits.fits(rows, box.u, ()), loss_of)
    for outer in (("factor",), ("constant",), ("factor", "constant")):
        yield from search_.tested(logits.fits(rows, box.u, outer, most=1), loss_of)


def of_directions(search_: Search, plane: Plane, curves: Curves) -> Iterator[Named]:
    """Yield losses on directions; where they fail, those with a factor and a constant too."""
    box = search_.box

    def loss_of(loss: Any) -> Any:
        return canonical(loss, box.centers)

    if curves.by_weights:
        yield from of_logits(search_)
        return

    def fits(several: Iterable[list[Start]], outer: Outer, *also: str) -> Iterator[Named]:
        return search_.tested(search.fits(several, curves, outer, box.u, also), loss_of)

    yield from fits(search.groups(curves, AS_IT_IS), AS_IT_IS)
    if curves.adds_up:
        return
    found = search.factor_and_constant(plane)
    if found is not None:
        outer, points = found
        curves = curves._replace(every=curves.every + points)
        yield from fits(search.groups(curves, outer), outer, "factor", "constant")
    if not curves.flat and curves.are_measured(AS_IT_IS):
        yield from fits(families.by_length(curves, AS_IT_IS), AS_IT_IS)
