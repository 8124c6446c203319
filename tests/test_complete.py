"""A verdict is complete: errors of ten budgets are refused wherever they are, and errors of half a budget pass.

A right implementation is refloss itself, in numbers that are not rounded. Into its results goes one wrong number, in
every case of every loss, in every quantity, in one entry of each kind; and `check` has to say which quantity is wrong
and where. The table `KINDS` says what a kind is. Entries that hold nothing (an ignored row, a closed hinge) and entries
that nobody can decide are kinds like all others.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import refloss
from refloss.formats import FORMATS, dtype_of
from refloss.testing import Case, assert_close, assert_conforms, budget, cases, check, conformance, conforms, judge
from refloss.testing.budgets import STANDARDS, arithmetic, ladder
from refloss.testing.hard_cases import SHAPES, VERDICT
from refloss.testing.signatures import FIELDS, LABELS
from support.sampled import chosen

DTYPES = ("float16", "bfloat16", "float32", "float64")
CE, ARC = refloss.CrossEntropy(), refloss.ArcFace()
WEIGHTS = (2.0, 0.0, 1.0, 0.5, 0.0, 3.0, 1.0)


# ---------------------------------------------------------------------------------------------- a right implementation


def quantities_of(loss: Any, inputs: tuple[Any, ...]) -> tuple[str, ...]:
    """Names of what there is to compare."""
    fields = FIELDS[loss.spec.head]
    given = len(inputs) - 1 if loss.spec.head in LABELS else len(inputs)  # a bias, and margins, may be left out
    return ("value", *(f"d{name}" for name in fields[:given]))


def key_of(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((entry.shape, np.asarray(entry, np.float64).tobytes()) for entry in inputs)


def in_float64(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    arrays = map(np.asarray, inputs)
    return tuple(entry if entry.dtype.kind in "iu" else entry.astype(np.float64) for entry in arrays)


FOUND: dict[Any, Any] = {}


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a loss, its inputs and other settings, which is called once for each of them.

    An upstream gradient of 1 is the same as none.
    """

    def once(loss: Any, inputs: Any, *rest: Any) -> Any:
        rest = tuple(None if isinstance(entry, np.ndarray) and (entry == 1.0).all() else entry for entry in rest)
        settings = tuple(entry.tobytes() if isinstance(entry, np.ndarray) else entry for entry in rest)
        key = (function, loss, key_of(inputs), settings)
        if key not in FOUND:
            FOUND[key] = function(loss, in_float64(inputs), *rest)
        return FOUND[key]

    return once


TRUTH, BOUNDS = remembered(judge.truth), remembered(judge.bounds)


def right(loss: Any, inputs: tuple[Any, ...], upstream: Any = None) -> dict[str, Any]:
    """Value and gradients, to the last bit those that a check compares with."""
    value, grad = TRUTH(loss, inputs, upstream)
    parts = (np.asarray(value), *(part for part in grad if part is not None))
    return dict(zip(quantities_of(loss, inputs), parts, strict=True))


@remembered
def budgets(
    loss: Any, inputs: tuple[Any, ...], dtype: str, standard: str = "working", upstream: Any = None
) -> dict[str, Any]:
    """Budgets of value and gradients."""
    found = budget(loss, *inputs, dtype=dtype, standard=standard, upstream=upstream)
    parts = (np.asarray(found.value), *(part for part in found.gradient if part is not None))
    return dict(zip(quantities_of(loss, inputs), parts, strict=True))


def planted(loss: Any, case: Case, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Any]:
    """A right implementation whose results are changed in one case, whose numbers have to be those of the dtype."""
    key = key_of(case.inputs)

    def fn(*inputs: Any) -> Any:
        found = right(loss, inputs)
        found = found | change(found) if key_of(inputs) == key else found
        return tuple(found.values())

    return fn


@pytest.fixture(autouse=True)
def truth_and_budgets_are_found_once(monkeypatch):
    """Thousands of checks of the same cases: what depends on inputs alone is computed once for each."""
    monkeypatch.setattr(judge, "truth", TRUTH)
    monkeypatch.setattr(judge, "bounds", BOUNDS)


@pytest.fixture
def no_diagnosis(monkeypatch):
    """Causes are no part of a verdict, and take longer than it."""
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: [])


# ------------------------------------------------------------------------------------------------- losses and entries


class Subject(NamedTuple):
    """What is checked, and how."""

    loss: Any
    dtype: str = "float32"
    standard: str = "working"
    shapes: Any = None
    """Those of the cases: the default ones, or some of them."""

    @property
    def cases(self) -> list[Case]:
        return cases(self.loss, self.dtype, self.shapes, bias=True, soft=True)

    @property
    def settings(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "standard": self.standard}

    def __str__(self) -> str:
        return f"{self.loss}-{self.dtype}-{self.standard}"


IN_FLOAT32 = [
    Subject(CE),
    Subject(refloss.CrossEntropy(reduction="none")),
    Subject(refloss.CrossEntropy(reduction="sum", label_smoothing=0.1)),
    Subject(refloss.CrossEntropy(class_weight=WEIGHTS)),
    Subject(refloss.CrossEntropy(reduction="none", label_smoothing=0.2, class_weight=WEIGHTS)),
    Subject(refloss.CrossEntropy(reduction="sum", class_weight=WEIGHTS)),
    Subject(refloss.SoftmaxLoss()),
    Subject(refloss.SoftmaxLoss(reduction="none", class_weight=WEIGHTS)),
    # Margins in two shapes each, which between them are all four.
    Subject(ARC, shapes=SHAPES[:2]),
    Subject(refloss.ArcFace(s=16.0, boundary="hard", reduction="none", class_weight=WEIGHTS), shapes=[(9, 7, 13)]),
    Subject(refloss.CosFace(reduction="sum", class_weight=WEIGHTS), shapes=[(9, 7, 13), (2, 7, 3)]),
    Subject(refloss.ASoftmax(), shapes=SHAPES[2:]),
    Subject(refloss.CombinedMargin(s=8.0, boundary="easy", reduction="none"), shapes=SHAPES[1:3]),
    Subject(refloss.Triplet()),
    Subject(refloss.Triplet(squared=False, reduction="none")),
    Subject(refloss.Triplet(reduction="sum")),
    Subject(refloss.KLDivergence()),
    Subject(refloss.KLDivergence(form="reverse", reduction="none"), shapes=SHAPES[:2]),
    Subject(refloss.KLDivergence(form="jensen-shannon", reduction="sum"), shapes=SHAPES[2:]),
]
ELSEWHERE = [
    Subject(loss, dtype, shapes=SHAPES[:1])
    for loss in (
        refloss.CrossEntropy(reduction="none", class_weight=WEIGHTS),
        refloss.SoftmaxLoss(),
        refloss.ArcFace(s=16.0),
        refloss.Triplet(reduction="none"),
        refloss.KLDivergence(reduction="none"),
    )
    for dtype in DTYPES
    if dtype != "float32"
] + [
    Subject(loss, dtype, standard, shapes=SHAPES[:1])
    for standard, dtype, *losses in (
        ("stable", "float32", CE, refloss.SoftmaxLoss()),
        ("relative", "float32", CE, refloss.ArcFace(reduction="none")),
        ("relative", "float64", CE),
        ("mixed", "bfloat16", CE, refloss.SoftmaxLoss(), refloss.ArcFace(), refloss.Triplet()),
        ("mixed", "float16", CE, refloss.SoftmaxLoss(reduction="none")),
        ("fused", "bfloat16", refloss.SoftmaxLoss()),
        ("fused", "float16", refloss.SoftmaxLoss()),
    )
    for loss in losses
]


class Where(NamedTuple):
    """A quantity of a case: what is true, what is allowed, and what the inputs say of its entries."""

    subject: Subject
    case: Case
    name: str

    @property
    def true(self) -> Any:
        return right(self.subject.loss, self.case.inputs)[self.name]

    @property
    def allowed(self) -> Any:
        return budgets(self.subject.loss, self.case.inputs, self.subject.dtype, self.subject.standard)[self.name]

    @property
    def labels(self) -> Any:
        place = LABELS.get(self.subject.loss.spec.head)
        y = None if place is None else self.case.inputs[place]
        return y if y is not None and y.dtype.kind == "i" else None

    @property
    def kept(self) -> Any:
        return self.labels != self.subject.loss.ignore_index

    @property
    def weights(self) -> Any:
        found = self.subject.loss.spec.cross_entropy.class_weight
        return np.ones(1 << 7) if found is None else np.asarray(found)

    @property
    def of_rows(self) -> bool:
        """Whether the first axis is that of the samples."""
        return self.true.ndim > 0 and self.name not in ("dw", "db")

    def rows(self, some: Any) -> Any:
        """A mask of entries from one of rows."""
        return np.broadcast_to(np.reshape(some, (-1,) + (1,) * (self.true.ndim - 1)), self.true.shape)

    def nowhere(self) -> Any:
        return np.zeros(self.true.shape, bool)


def last(where: Where, axis: int) -> Any:
    mask = where.nowhere()
    mask[(slice(None),) * (axis % mask.ndim) + (-1,)] = True
    return mask


def any_entry(where: Where) -> Any:
    return ~where.nowhere()


def ignored_row(where: Where) -> Any:
    return where.rows(~where.kept) if where.of_rows and where.labels is not None else where.nowhere()


def last_row(where: Where) -> Any:
    return last(where, 0) if where.of_rows else where.nowhere()


def last_class(where: Where) -> Any:
    return last(where, -1 if where.name == "dz" else 0) if where.name in ("dz", "dw", "db") else where.nowhere()


def last_column(where: Where) -> Any:
    return last(where, -1) if where.true.ndim == 2 and where.name != "dz" else where.nowhere()


def repeated_label(where: Where) -> Any:
    """Rows of a class that several samples have, or of all but the first of these samples."""
    if where.labels is None or not where.true.ndim:
        return where.nowhere()
    some = np.where(where.kept, where.labels, -1)
    if where.of_rows:
        return where.rows([label >= 0 and label in some[:place] for place, label in enumerate(some)])
    return where.rows([np.count_nonzero(some == label) > 1 for label in range(len(where.true))])


def weight_0(where: Where) -> Any:
    """Rows whose label has weight 0, and classes that have it."""
    if where.labels is None or not where.true.ndim:
        return where.nowhere()
    if not where.of_rows:
        return where.rows(where.weights[: len(where.true)] == 0.0)
    mask = where.rows(where.kept & (where.weights[np.where(where.kept, where.labels, 0)] == 0.0))
    return mask | (where.weights[: where.true.shape[1]] == 0.0) if where.name == "dz" else mask


def masked(where: Where) -> Any:
    return np.isneginf(where.case.inputs[0]) if where.name == "dz" else where.nowhere()


def closed_hinge(where: Where) -> Any:
    loss = where.subject.loss
    if loss.spec.head != "triplet" or not where.true.ndim:
        return where.nowhere()
    anchor, *others = where.case.inputs
    near, far = (((anchor - other) ** 2).sum(axis=1) ** (1.0 if loss.squared else 0.5) for other in others)
    return where.rows(near - far + loss.m < -1e-3 * (near + far))


def structural_zero(where: Where) -> Any:
    return (where.true == 0.0) & (where.allowed <= 16.0 * FORMATS[where.subject.dtype].smallest)


def undecided(where: Where) -> Any:
    """The budget is as large as the row, and no zero is there by structure."""
    size = np.abs(where.true).max(axis=-1, keepdims=True) if where.true.ndim else np.abs(where.true)
    return np.isfinite(where.true) & (where.allowed >= size) & ~structural_zero(where)


def nan_truth(where: Where) -> Any:
    return np.isnan(where.true)


KINDS = {
    "any": any_entry,
    "ignored row": ignored_row,
    "closed hinge": closed_hinge,
    "weight 0": weight_0,
    "masked": masked,
    "last row": last_row,
    "last class": last_class,
    "last column": last_column,
    "repeated label": repeated_label,
    "structural zero": structural_zero,
    "undecided": undecided,
    "NaN truth": nan_truth,
}
"""What a kind of entry is: a function that returns a mask of the entries of a quantity."""


def kinds_of(subject: Subject) -> set[str]:
    """The kinds that have to be met with a loss."""
    head, loss = subject.loss.spec.head, subject.loss
    found = {"any", "last row", "structural zero"}
    if head == "triplet":
        return found | {"last column", "closed hinge"} | (set() if loss.squared else {"undecided"})
    if head == "divergence":
        return {"any", "last row", "last class", "undecided"}
    found |= {"ignored row", "last class", "repeated label"}
    found |= {"undecided"} if subject in IN_FLOAT32 else set()
    found |= {"weight 0"} if loss.class_weight is not None else set()
    found |= {"NaN truth"} if loss.reduction == "mean" else set()
    found |= {"masked"} if head == "logits" and not loss.label_smoothing else set()
    return found | ({"last column"} if head != "logits" else set())


def entries(subject: Subject) -> Iterator[tuple[Where, str, tuple[int, ...]]]:
    """One entry of each kind, quantity and case, in one of the shapes, by chance but always the same."""
    table: dict[tuple[str, str, str], list[tuple[Where, Any]]] = {}
    for case in subject.cases:
        if "finite" in case.accepts:
            continue
        for name in quantities_of(subject.loss, case.inputs):
            where = Where(subject, case, name)
            assert not np.isinf(where.allowed[np.isfinite(where.true)]).any(), "what is known has a budget"
            for kind, of in KINDS.items():
                mask = of(where)
                if mask.any():
                    table.setdefault((case.name, name, kind), []).append((where, mask))
    for (name, quantity, kind), several in table.items():
        rng = np.random.default_rng(zlib.crc32(f"{subject}{name}{quantity}{kind}".encode()))
        where, mask = several[rng.integers(len(several))]
        at = np.argwhere(mask)
        yield where, kind, tuple(map(int, at[rng.integers(len(at))]))


def test_every_kind_of_entry_has_losses_that_have_it():
    assert set().union(*map(kinds_of, IN_FLOAT32)) == set(KINDS)
    assert {subject.dtype for subject in ELSEWHERE} | {"float32"} == set(DTYPES)
    assert {subject.standard for subject in (*IN_FLOAT32, *ELSEWHERE)} == set(STANDARDS)


# --------------------------------------------------------------------------------------------------- errors of a number


def wrong_numbers(where: Where, at: tuple[int, ...], sign: float) -> Iterator[float]:
    """Ten budgets off; a little more than one; huge; not finite."""
    true, allowed = float(where.true[at]), float(where.allowed[at])
    if not np.isfinite(true):  # a number in the place of the mean of nothing
        yield from (sign * 1e-30, sign, 1e30, np.inf)
        return
    off = true + sign * 10.0 * allowed
    assert abs(off - true) > 5.0 * allowed > 0.0
    yield off
    yield max(1e30, 1e30 * allowed)
    yield sign * np.inf
    if where.subject.dtype != "float64":  # what float64 is off by is rounded in float64
        yield true - sign * 1.1 * allowed
    if not np.isnan(right(where.subject.loss, where.case.inputs)["value"]).any():
        yield np.nan  # of the mean of nothing the gradient may be that too


def refused(where: Where, at: tuple[int, ...], wrong: float) -> None:
    """One wrong number fails the check, which says where it is."""
    subject, case, name = where

    def change(found):
        array = found[name].copy()
        array[at] = wrong
        return {name: array}

    report = check(planted(subject.loss, case, change), subject.loss, cases=[case], **subject.settings)
    (result,) = report.results
    quantities = {quantity.name: quantity for quantity in result.quantities}
    said = f"{subject}, {case.id}, {name}{list(at)} = {wrong}: {report}"
    assert tuple(quantities) == quantities_of(subject.loss, case.inputs), said
    assert report.state == "does not conform", said
    assert not report, said
    assert result.status == "failed", said
    assert [each for each in quantities if not quantities[each].passed] == [name], said
    assert quantities[name].over == 1, said
    assert quantities[name].where == at, said
    assert f"\n  {name}" in str(report), said


@pytest.mark.untraced
@pytest.mark.parametrize("subject", [*IN_FLOAT32, *ELSEWHERE], ids=str)
@pytest.mark.usefixtures("no_diagnosis")
def test_a_wrong_number_is_refused_wherever_it_is(subject):
    met: Counter[str] = Counter()
    places = set()
    for turn, (where, kind, at) in enumerate(entries(subject)):
        if met[kind] and (where.case.name, where.name) in places and not chosen(f"{where.case.id} {where.name} {at}"):
            continue
        first, *others = wrong_numbers(where, at, 1.0 if turn % 2 else -1.0)
        also = others[turn % len(others)]
        for wrong in (first, also) if subject in IN_FLOAT32 or turn % 4 == 0 else (first,):
            refused(where, at, wrong)
        met[kind] += 1
        places.add((where.case.name, where.name))
    assert set(met) >= kinds_of(subject)
    assert places == {
        (case.name, name)
        for case in subject.cases
        if "finite" not in case.accepts
        for name in quantities_of(subject.loss, case.inputs)
    }


@pytest.mark.untraced
@pytest.mark.parametrize("subject", [*IN_FLOAT32, *ELSEWHERE], ids=str)
@pytest.mark.usefixtures("no_diagnosis")
def test_every_number_may_be_off_by_half_a_budget(subject):
    rng = np.random.default_rng(16)

    for share in (0.5, 0.99) if subject.dtype != "float64" else (0.5,):
        drift: dict[Any, Any] = {}

        def off(inputs, share=share, drift=drift):
            """The same in each call, since results have to be."""
            key = key_of(inputs)
            if key not in drift:
                found, allowed = right(subject.loss, inputs), budgets(subject.loss, inputs, *subject[1:3])
                drift[key] = {
                    name: true
                    + share * rng.choice([-1.0, 1.0], true.shape) * np.where(np.isfinite(true), allowed[name], 0)
                    for name, true in found.items()
                }
            return tuple(drift[key].values())

        settings = {"shapes": subject.shapes, "bias": True, "soft": True, **subject.settings}
        report = check(lambda *inputs: off(inputs), subject.loss, **settings)
        assert report.passed, str(report)
        assert report.undecided == ()
        assert {report.verdicts[group] for group in VERDICT} == {"passed"}, str(report)
        assert report.verdicts.get("range", "passed") in ("passed", "undecided")
        met = ladder(subject.dtype, subject.loss)
        assert report.meets in met[met.index(subject.standard) :], str(report)
        assert {result.status for result in report.results} <= {"passed", "undecided", "refused"}
        for case in subject.cases[:: len(subject.cases) // 3]:  # and of one case alone
            alone = check(lambda *inputs: off(inputs), subject.loss, cases=[case], **subject.settings)
            assert alone.state in ("conforms", "undecided"), str(alone)


@pytest.mark.untraced
@pytest.mark.parametrize("loss", [refloss.CrossEntropy(reduction="none"), refloss.CosFace(s=8.0), refloss.Triplet()])
def test_one_wrong_number_among_all_cases_fails_the_report_and_only_there(loss):
    subject = Subject(loss, shapes=SHAPES[:1])
    several = [entry for entry in entries(subject) if np.isfinite(entry[0].true).all()]
    rng = np.random.default_rng(0)
    for place in rng.choice(len(several), 4, replace=False):
        where, _, at = several[place]

        def change(found, where=where, at=at):
            array = found[where.name].copy()
            array[at] += 10.0 * where.allowed[at]
            return {where.name: array}

        fn = planted(loss, where.case, change)
        report = check(fn, loss, shapes=subject.shapes, soft=True)
        assert [result.case.id for result in report.results if result.status == "failed"] == [where.case.id]
        assert report.passed == (where.case.group == "range")
        assert report.verdicts[where.case.group] == "failed"
        assert where.case.id in str(report)
        named = check(fn, loss, shapes=subject.shapes, soft=True, xfail={where.case.id: "planted"})
        assert named.passed, str(named)


def of_tensors(framework: Any, loss: Any, case: Case, name: str, dtype: str, share: float) -> Callable[..., Any]:
    """A right implementation in torch, with so many budgets too much in the last entry of a gradient."""
    names = quantities_of(loss, case.inputs)[1:]

    class Function(framework.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            ctx.given = given
            return framework.tensor(right(loss, case.inputs)["value"], dtype=given[0].dtype)

        @staticmethod
        def backward(ctx, upstream):
            incoming = upstream.double().numpy()
            found = dict(right(loss, case.inputs, incoming))
            allowed = budgets(loss, case.inputs, dtype, "working", incoming)[name]
            found[name] = found[name].copy()
            found[name][(-1,) * allowed.ndim] += share * allowed[(-1,) * allowed.ndim]
            parts = iter([framework.tensor(found[each], dtype=ctx.given[0].dtype) for each in names])
            return tuple(next(parts) if entry.is_floating_point() else None for entry in ctx.given)

    return Function.apply


@pytest.mark.untraced
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("no_diagnosis")
def test_gradients_of_tensors_count_with_the_upstream_gradient_that_came(torch, dtype):
    """Autograd hands over an upstream gradient of its own; what is allowed belongs to it."""
    for loss in (
        refloss.CrossEntropy(reduction="none"),
        refloss.SoftmaxLoss(reduction="sum"),
        refloss.ArcFace(s=8.0, reduction="none"),
        refloss.Triplet(reduction="none"),
    ):
        some = [case for case in cases(loss, dtype, (5, 4, 3)) if case.group == "boundary" and len(case.accepts) < 3]
        for turn, case in enumerate(some):
            names = quantities_of(loss, case.inputs)[1:]
            name = names[turn % len(names)]
            for share in (0.0, 12.0):
                fn = of_tensors(torch, loss, case, name, dtype, share)
                report = check(fn, loss, framework="torch", dtype=dtype, cases=[case])
                failed = [quantity.name for quantity in report.results[0].quantities if not quantity.passed]
                assert failed == ([name] if share else []), str(report)


# -------------------------------------------------------------------------------------------- what is no finite number


MEANS = [
    (subject.loss, case)
    for subject in IN_FLOAT32
    if subject.loss.spec.head != "triplet" and subject.loss.reduction == "mean"
    for case in cases(subject.loss, shapes=(9, 7, 13))
    if case.name in ("boundary-all-ignored", "boundary-weight-0")
]


def answering(loss: Any, case: Case, **answers: float) -> Any:
    """A check of a right implementation that fills quantities with other numbers."""

    def change(found):
        return {name: np.full(found[name].shape, number) for name, number in answers.items()}

    return check(planted(loss, case, change), loss, cases=[case])


@pytest.mark.parametrize(("loss", "case"), MEANS, ids=str)
def test_the_mean_of_nothing_is_nan_or_0(loss, case):
    assert len(MEANS) == 6  # of five losses, of which one has classes of weight 0
    assert np.isnan(right(loss, case.inputs)["value"])
    every = quantities_of(loss, case.inputs)
    for number in (np.nan, 0.0, -0.0):
        for names in (every[:1], every[1:], every):
            report = answering(loss, case, **dict.fromkeys(names, number))
            assert report.passed, str(report)
    for name in every:
        for number in (1e-30, -1e-3, 1.0, 1e30, np.inf, -np.inf):
            report = answering(loss, case, **{name: number})
            assert report.state == "does not conform", str(report)
            assert f"  {name}" in str(report)


def test_own_cases_may_be_means_of_nothing_too():
    z = np.random.default_rng(2).integers(-9, 9, (2, 3, 7)) / 4.0
    weightless = np.where(z[..., 0] > 0.0, 1, 4)
    for loss, y in ((CE, np.full((2, 3), -100)), (refloss.CrossEntropy(class_weight=WEIGHTS), weightless)):
        case = Case("mine", "ordinary", (), "nothing counts", (z, y))
        for number in (np.nan, 0.0):
            assert answering(loss, case, value=number).state != "does not conform"
        for number in (1e-30, 1.0, np.inf):
            for name in ("value", "dz"):
                assert answering(loss, case, **{name: number}).state == "does not conform"


def test_there_is_nothing_to_be_nan_in_a_sum_or_in_rows():
    for loss in (refloss.CrossEntropy(reduction="sum"), refloss.CrossEntropy(reduction="none")):
        (case,) = (case for case in cases(loss, shapes=(9, 7, 13)) if case.name == "boundary-all-ignored")
        for name in ("value", "dz"):
            assert answering(loss, case, **{name: 0.0}).passed
            for number in (np.nan, np.inf, 1e-3, 1e-30):
                assert answering(loss, case, **{name: number}).state == "does not conform"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_infinite_loss_has_to_be_infinite(reduction, dtype):
    loss = refloss.CrossEntropy(reduction=reduction)
    z = np.array([[1.0, -np.inf, 2.0], [0.0, 1.0, 2.0]])
    case = Case("mine", "boundary", ("masked",), "a target that is masked", (z, np.array([1, 2])))
    value = right(loss, case.inputs)["value"]
    at = (0,) if value.ndim else ()
    assert value[at] == np.inf

    def answering(number):
        def change(found):
            array = found["value"].copy()
            array[at] = number
            return {"value": array}

        return check(planted(loss, case, change), loss, dtype=dtype, cases=[case])

    assert answering(np.inf).passed
    for number in (-np.inf, np.nan, 1e30, 1e300, 0.0, 103.28):
        report = answering(number)
        assert report.state == "does not conform"
        assert "value: 1 of" in str(report)
        assert "not infinite" in str(report)
    for at in ((0, 0), (0, 1), (1, 2)):  # its gradient is a number all the same
        for wrong in (10.0, np.nan, np.inf):

            def change(found, wrong=wrong, at=at):
                z = found["z" if "z" in found else "dz"].copy()
                z[at] += wrong * budget(loss, *case.inputs, dtype=dtype).gradient.z[at]
                return {"dz": z}

            assert not check(planted(loss, case, change), loss, dtype=dtype, cases=[case])


def test_a_logit_that_is_no_number_has_a_loss_that_is_none():
    z = np.array([[0.0, np.nan, 1.0], [0.0, 1.0, 2.0]])
    loss = refloss.CrossEntropy(reduction="none")
    case = Case("mine", "hard", (), "a NaN", (z, np.array([0, 1])))
    assert check(planted(loss, case, lambda found: {}), loss, cases=[case]).passed
    for name, number in (("value", 0.0), ("dz", 0.0)):
        assert answering(loss, case, **{name: number}).state == "does not conform"


@pytest.mark.parametrize("loss", [ARC, refloss.CosFace(reduction="none")], ids=str)
def test_where_there_is_no_truth_any_numbers_will_do_but_no_others(loss):
    several = [case for case in cases(loss, shapes=(9, 7, 13)) if "finite" in case.accepts]
    assert len(several) == 2
    for case in several:
        x, w, y = case.inputs
        plain = [np.zeros(len(y) if loss.reduction == "none" else ()), np.ones(x.shape), np.ones(w.shape)]
        assert check(lambda *inputs, plain=plain: tuple(plain), loss, cases=[case]).state != "does not conform"
        for place, name in enumerate(("value", "dx", "dw")):
            for wrong in (np.nan, np.inf, -np.inf):
                odd = [part.copy() for part in plain]
                odd[place][(-1,) * odd[place].ndim] = wrong
                report = check(lambda *inputs, odd=odd: tuple(odd), loss, cases=[case])
                assert report.state == "does not conform"
                assert f"  {name}: 1 of {odd[place].size} are NaN or infinite" in str(report)


# ------------------------------------------------------------------------------------------ other ways a code may fail


HEADS = [
    (CE, (9, 7, 13)),
    (refloss.SoftmaxLoss(), (9, 7, 13)),
    (refloss.CosFace(), (9, 7, 13)),
    (refloss.Triplet(), (9, 7, 13)),
]


def of_case(loss: Any, name: str = "ordinary-random") -> Case:
    return next(case for case in cases(loss, shapes=(9, 7, 13)) if case.name == name)


def inputs_of(loss: Any) -> tuple[str, ...]:
    return {"logits": ("z", "y"), "linear": ("x", "w", "y"), "margin": ("x", "w", "y")}.get(
        loss.spec.head, ("anchor", "positive", "negative")
    )


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("loss", [loss for loss, _ in HEADS], ids=str)
def test_code_that_writes_into_an_input_is_told_which(loss, framework, request):
    """JAX's arrays cannot be written to, but its labels are NumPy's."""
    if framework != "numpy":
        request.getfixturevalue(framework)
    case = of_case(loss)
    for place, name in enumerate(inputs_of(loss)):
        if framework == "jax" and name != "y":
            continue

        def fn(*inputs, place=place):
            found = tuple(
                right(
                    loss, tuple(np.asarray(entry.detach() if framework == "torch" else entry) for entry in inputs)
                ).values()
            )
            target = inputs[place].detach() if framework == "torch" else inputs[place]
            target[-1] = 0 if target[-1].any() else 1
            return found

        report = check(fn, loss, framework=framework, cases=[case])
        assert report.state == "does not conform", f"{name}: {report}"
        assert f"  {name}: is not what it was before the call" in str(report)
        allowed = check(fn, loss, framework=framework, cases=[case], overwrites=(name,))
        assert allowed.passed, str(allowed)
        others = tuple(other for other in inputs_of(loss) if other != name)
        assert not check(fn, loss, framework=framework, cases=[case], overwrites=others)


def test_labels_that_are_overwritten_are_not_the_truth():
    """The results fit the labels that it leaves behind."""

    def fn(z, y):
        y[:] = 0
        return tuple(right(CE, (z, y)).values())

    report = check(fn, CE, overwrites=("y",), cases=[of_case(CE)])
    assert report.state == "does not conform"
    assert "  value" in str(report)


class Odd(BaseException):
    """No Exception."""


ENDINGS = [
    SystemExit(0),
    SystemExit(),
    SystemExit("done"),
    KeyboardInterrupt(),
    GeneratorExit(),
    Odd(),
    pytest.skip.Exception("not here"),
    pytest.fail.Exception("no"),
    MemoryError(),
    OSError(),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
def test_code_that_ends_the_program_fails(ending):
    loss = CE

    def never(z, y):
        raise ending

    def in_one(z, y):
        if (y == -100).any():  # to refuse these is right, but not so
            raise ending
        return tuple(right(loss, (z, y)).values())

    assert check(never, loss).state == "does not conform"
    report = check(in_one, loss, groups=("boundary",))
    assert report.passed == isinstance(ending, (MemoryError, OSError)), str(report)
    if not report.passed:
        assert type(ending).__name__ in str(report)
    with pytest.raises(AssertionError, match=type(ending).__name__):
        assert_conforms(never, loss)
    assert not conforms(never, loss, shapes=(4, 3, 2))


def test_sys_exit_is_no_success():
    report = check(lambda z, y: sys.exit(0), CE, cases=[of_case(CE)])
    assert report.state == "does not conform"
    assert "SystemExit: 0" in str(report)
    assert not report


def second_call(change: Callable[..., Any]) -> Any:
    """A check of code that is right the first time, and changed the second."""
    calls = []

    def fn(z, y):
        calls.append(1)
        found = tuple(right(CE, (z, y)).values())
        return found if len(calls) == 1 else change(*found)

    return check(fn, CE, cases=[of_case(CE)])


def test_a_second_call_has_to_give_the_same():
    def ending(value, dz):
        raise KeyboardInterrupt

    def exit_with_0(value, dz):
        sys.exit(0)

    wrong: dict[str, Callable[..., Any]] = {
        "value": lambda value, dz: (value + 1e-3, dz),
        "gradient": lambda value, dz: (value, dz + 1e-3 * (dz == dz.max())),
        "NaN": lambda value, dz: (value, dz * np.nan),
        "shape": lambda value, dz: (value, dz[1:]),
        "no gradient": lambda value, dz: value,
        "nothing": lambda value, dz: None,
        "interrupt": ending,
        "exit": exit_with_0,
    }
    for name, change in wrong.items():
        report = second_call(change)
        assert report.state == "does not conform", f"{name}: {report}"
        assert "call" in str(report)
    report = second_call(lambda value, dz: (value * (1.0 + 1e-12), dz))
    assert report.passed
    assert "results are not deterministic" in str(report)
    assert "deterministic" not in str(second_call(lambda *found: found))


def test_budgets_are_those_of_the_check():
    """What is planted is measured with `budget`, what is compared with `bounds`."""
    for subject in (*IN_FLOAT32[:9:4], *ELSEWHERE[::5]):
        case = subject.cases[0]
        _, *limits = budgets(subject.loss, case.inputs, *subject[1:3]).values()
        a = arithmetic(subject.dtype, standard=subject.standard)
        for limit, other in zip(limits, BOUNDS(subject.loss, case.inputs, a)[1].values(), strict=True):
            np.testing.assert_array_equal(limit, other)


# ------------------------------------------------------------------------------------------------ nothing is vacuous


def ours(z, y):
    return tuple(right(CE, (z, y)).values())


NOTHING: dict[str, tuple[dict[str, Any], ...]] = {
    "groups": (
        {"groups": ("ordnary",)},
        {"groups": ()},
        {"groups": []},
        {"groups": ("ordinary", "hrad")},
        {"groups": "all"},
    ),
    "cases": ({"cases": []}, {"cases": ()}, {"cases": [of_case(CE)], "groups": ("hard",)}),
    "shapes": (
        {"shapes": []},
        {"shapes": ()},
        {"shapes": [()]},
        {"shapes": (0, 3, 2)},
        {"shapes": (2, 3)},
        {"shapes": [(2, 3)]},
        {"shapes": "9x7x13"},
        {"shapes": 3},
        {"shapes": (-1, 3, 2)},
        {"shapes": (2.5, 3, 2)},
    ),
    "framework": ({"framework": "mxnet"}, {"framework": "Torch"}, {"framework": ""}, {"framework": None}),
    "device": ({"device": "cuda"}, {"device": "gpu:0"}, {"device": "cpu:9"}),
    "standard": ({"standard": "strict"}, {"standard": ""}, {"standard": None}),
    "dtype": ({"dtype": "float8"}, {"dtype": "int32"}, {"dtype": None}, {"dtype": complex}, {"dtype": ""}),
    "gradients": ({"gradients": ("x",)}, {"gradients": "dz"}, {"gradients": ("z", "w")}),
    "overwrites": ({"overwrites": ("x",)}, {"overwrites": "q"}, {"overwrites": ("z", "w")}),
    "accumulate": ({"accumulate": "float8"}, {"accumulate": "tf32"}),
    "matmul": ({"matmul": "int8"}, {"matmul": "float8"}),
    "track": ({"track": lambda every: []},),
}


@pytest.mark.parametrize(
    ("argument", "settings"),
    [pytest.param(name, each, id=f"{name}-{i}") for name, several in NOTHING.items() for i, each in enumerate(several)],
)
def test_what_names_nothing_is_refused_by_name(argument, settings):
    with pytest.raises(ValueError, match=f"^{argument}: ") as raised:
        check(ours, CE, **settings)
    assert "expected" in str(raised.value) or "got" in str(raised.value)
    with pytest.raises(ValueError, match=f"^{argument}: "):
        assert_conforms(ours, CE, **settings)


def test_a_device_that_is_not_there_is_refused(torch, jax):
    for framework in ("torch", "jax"):
        for device in ("cuda:97", "nowhere", "tpu:12"):
            with pytest.raises(ValueError, match=r"^device: "):
                check(ours, CE, framework=framework, device=device)


def test_a_table_of_nothing_is_refused():
    for settings in ({"dtypes": ()}, {"devices": []}, {"dtypes": "float32"}):
        with pytest.raises(ValueError, match=f"^{next(iter(settings))}: "):
            conforms(ours, CE, **settings)
    with pytest.raises(ValueError, match=r"^dtypes: "):
        conforms(ours, CE, dtypes=("float32", "float8"))


def test_a_loss_or_a_code_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"^loss: "):
        check(ours, "CrossEntropy")
    with pytest.raises(TypeError, match=r"^fn: "):
        check(None, CE)
    with pytest.raises(TypeError, match=r"^cases: "):
        check(ours, CE, cases=[(np.zeros((2, 3)), np.array([0, 1]))])


def test_code_of_which_nothing_was_seen_does_not_conform():
    """It refuses what it may refuse, and there was nothing else; or it returned the value alone."""

    def refusing(z, y):
        raise ValueError("no such labels")

    some = [case for case in cases(CE) if "ignored" in case.flags]
    assert check(refusing, CE, cases=some).state == "undecided"
    assert check(refusing, CE).state == "does not conform"
    alone = check(lambda z, y: ours(z, y)[0], CE)
    assert alone.state == "undecided"
    assert "the value alone was returned" in str(alone)
    assert check(lambda z, y: ours(z, y)[0], CE, gradients=False).passed
    wrong = check(lambda z, y: ours(z, y)[0] + 1.0, CE, gradients=False)
    assert wrong.state == "does not conform"


# ------------------------------------------------------------------------------------------------ cases of one's own


def own_cases() -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    rng = np.random.default_rng(5)
    shares = rng.multinomial(16, np.full(4, 0.25), size=(2, 3)) / 16.0
    for reduction in ("mean", "sum", "none"):
        loss = refloss.CrossEntropy(reduction=reduction)
        z = rng.normal(size=(2, 3, 4))
        yield f"1-D {reduction}", loss, (z[0, 0], np.array(2))
        yield f"1-D soft {reduction}", loss, (z[0, 0], shares[0, 0])
        yield f"3-D {reduction}", loss, (z, rng.integers(4, size=(2, 3)))
        yield f"3-D ignored {reduction}", loss, (z, np.array([[0, -100, 3], [-100, -100, 1]]))
        yield f"3-D soft {reduction}", loss, (z, shares)
        yield f"2-D soft {reduction}", replace_smoothing(loss), (z[0], shares[0])
        yield f"4-D {reduction}", loss, (z[None], rng.integers(4, size=(1, 2, 3)))


def replace_smoothing(loss: Any) -> Any:
    return refloss.CrossEntropy(reduction=loss.reduction, label_smoothing=0.1)


OWN = list(own_cases())
WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "value": lambda found: {"value": found["value"] * 1.5},
    "gradient": lambda found: {"dz": found["dz"] * 1.5},
    "both": lambda found: {name: part * 2.0 for name, part in found.items()},
    "zero": lambda found: {"dz": 0.0 * found["dz"]},
    "sign": lambda found: {"dz": -found["dz"]},
    "NaN": lambda found: {"value": found["value"] * np.nan, "dz": found["dz"] * np.nan},
    "inf": lambda found: {"value": found["value"] * np.inf},
    "one number": lambda found: {"dz": found["dz"] + 1e-3 * (found["dz"] == found["dz"].max())},
    "short": lambda found: {"dz": found["dz"].astype(np.float16).astype(np.float64)},
}


@pytest.mark.parametrize("name", [name for name, _, _ in OWN])
def test_cases_of_any_layout_work_to_the_end_of_the_report(name):
    loss, inputs = next((loss, inputs) for each, loss, inputs in OWN if each == name)
    for dtype in DTYPES:
        rounded = tuple(entry if entry.dtype.kind == "i" else entry.astype(dtype_of(dtype)) for entry in inputs)
        case = Case(name, "ordinary", (), "mine", rounded)
        report = check(lambda *inputs: tuple(right(loss, inputs).values()), loss, dtype=dtype, cases=[case])
        assert report.passed, str(report)
        assert report.undecided == ()
        assert "conforms" in str(report)
    case = Case(name, "ordinary", (), "mine", inputs)
    held = case._replace(inputs=tuple(e if e.dtype.kind == "i" else e.astype(np.float32).astype(float) for e in inputs))
    for defect, change in WRONG.items():
        report = check(planted(loss, held, change), loss, cases=[case])
        assert report.state == "does not conform", defect
        assert "raised" not in str(report)
        assert name in str(report)
        for sentence in report.diagnoses:
            assert not sentence.startswith("none:"), f"{defect}: {sentence}"


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_own_cases_of_tensors(framework, request):
    module = request.getfixturevalue(framework)

    def fn(z, y):
        if framework == "torch":
            log_p = module.log_softmax(z, -1)
            return -(log_p.gather(-1, y[..., None])[..., 0] if log_p.ndim > y.ndim else (y * log_p).sum(-1)).mean()
        log_p = module.nn.log_softmax(z, -1)
        numpy = module.numpy
        rows = numpy.take_along_axis(log_p, y[..., None], -1)[..., 0] if log_p.ndim > y.ndim else (y * log_p).sum(-1)
        return -rows.mean()

    for name, loss, inputs in OWN:
        if loss == CE and "ignored" not in name and "4-D" not in name:
            case = Case(name, "ordinary", (), "mine", inputs)
            report = check(fn, loss, framework=framework, cases=[case])
            assert report.passed, str(report)
            wrong = check(lambda z, y: 1.01 * fn(z, y), loss, framework=framework, cases=[case])
            assert wrong.state == "does not conform"
            assert not any(sentence.startswith("none:") for sentence in wrong.diagnoses), str(wrong)


def test_an_own_case_that_is_no_input_is_refused_by_its_name():
    for inputs in ((np.zeros((2, 3)), np.array([0, 7])), (np.zeros((2, 3)), np.array([[0, 1]])), (np.zeros((2, 3)),)):
        with pytest.raises(ValueError, match=r"^cases: 'mine'"):
            check(ours, CE, cases=[Case("mine", "ordinary", (), "", inputs)])


# ------------------------------------------------------------------------------------------------------- assert_close


CLOSE = [
    refloss.CrossEntropy(reduction="none", class_weight=WEIGHTS),
    CE,
    refloss.SoftmaxLoss(reduction="none"),
    refloss.ArcFace(s=8.0, class_weight=WEIGHTS),
    refloss.Triplet(reduction="none"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", CLOSE, ids=str)
def test_assert_close_refuses_a_wrong_number_wherever_it_is(loss, dtype):
    subject = Subject(loss, dtype, shapes=SHAPES[:1])
    met = Counter()
    for turn, (where, kind, at) in enumerate(entries(subject)):
        if kind in ("any", "last row") or np.isnan(right(loss, where.case.inputs)["value"]).any():
            continue
        inputs = where.case.inputs
        shape = right(loss, inputs)["value"].shape
        upstream = np.round(8.0 * np.random.default_rng(5).normal(size=shape)) / 8.0 + 0.0625
        true, named = right(loss, inputs, upstream), budgets(loss, inputs, dtype, "working", upstream)
        settings = {"dtype": dtype, "upstream": upstream}
        for share in (10.0 if turn % 2 else -10.0, 0.5, np.nan if turn % 2 else np.inf):
            array = true[where.name].copy()
            array[at] += share * named[where.name][at]
            results = {("value" if name == "value" else f"grad_{name[1:]}"): part for name, part in true.items()}
            results[where.name if where.name == "value" else f"grad_{where.name[1:]}"] = array
            if share == 0.5:
                assert_close(loss, *inputs, **settings, **results)
                continue
            with pytest.raises(AssertionError, match=f"(?m)^  {where.name}"):
                assert_close(loss, *inputs, **settings, **results)
        met[kind] += 1
    assert set(met) >= kinds_of(subject) - {"any", "last row", "NaN truth"}


def test_assert_close_knows_the_mean_of_nothing():
    z, y = np.zeros((2, 3)), np.full(2, -100)
    for number in (np.nan, 0.0):
        assert_close(CE, z, y, dtype="float32", value=number, grad_z=np.zeros((2, 3)))
    for wrong in ({"value": 1.0}, {"value": np.inf}, {"value": 1e-30}, {"grad_z": np.full((2, 3), 1e-30)}):
        with pytest.raises(AssertionError, match="value" if "value" in wrong else "dz"):
            assert_close(CE, z, y, dtype="float32", **wrong)


def test_assert_close_with_nothing_to_compare_is_refused():
    case = of_case(CE)
    for results in ({}, {"value": None}, {"grad_z": None}):
        with pytest.raises(ValueError, match=r"^value: "):
            assert_close(CE, *case.inputs, dtype="float32", **results)
    with pytest.raises(TypeError, match=r"^grad_w: "):
        assert_close(CE, *case.inputs, dtype="float32", value=0.0, grad_w=case.inputs[0])
    for settings, argument in (
        ({"dtype": "float8"}, "dtype"),
        ({"dtype": "float32", "standard": "strict"}, "standard"),
    ):
        with pytest.raises(ValueError, match=f"^{argument}: "):
            assert_close(CE, *case.inputs, value=0.0, **settings)
    for shape in ((), (1,), (9, 1), (7, 9)):
        with pytest.raises(AssertionError, match="dz: shape"):
            assert_close(CE, *case.inputs, dtype="float32", grad_z=np.zeros(shape))


# ------------------------------------------------------------------------------------------------ forms of a result


FORMS: dict[str, Callable[..., Any]] = {
    "flat": lambda value, *grads, names: (value, *grads),
    "list": lambda value, *grads, names: [value, *grads],
    "pair": lambda value, *grads, names: (value, grads),
    "pair of a list": lambda value, *grads, names: (value, list(grads)),
    "pair of a dict": lambda value, *grads, names: (value, dict(zip(names, grads, strict=True))),
    "d names": lambda value, *grads, names: (value, {f"d{n}": g for n, g in zip(names, grads, strict=True)}),
    "grad names": lambda value, *grads, names: (value, {f"grad_{n}": g for n, g in zip(names, grads, strict=True)}),
    "dict": lambda value, *grads, names: {"loss": value} | dict(zip(names, grads, strict=True)),
    "dict of a value": lambda value, *grads, names: {"value": value, "grads": grads},
    "dict of dicts": lambda value, *grads, names: {"loss": value, "grads": dict(zip(names, grads, strict=True))},
    "number": lambda value, *grads, names: (float(value), *grads),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("no_diagnosis")
def test_results_are_read_in_any_form_and_looked_at(form):
    for loss in (CE, refloss.CosFace(), refloss.Triplet()):
        case = of_case(loss)
        names = tuple(name.removeprefix("d") for name in quantities_of(loss, case.inputs)[1:])

        def fn(*inputs, loss=loss, names=names):
            return FORMS[form](*right(loss, inputs).values(), names=names)

        report = check(fn, loss, cases=[case])
        assert report.passed, str(report)
        for place, name in enumerate(quantities_of(loss, case.inputs)):

            def wrong(*inputs, place=place, loss=loss, names=names):
                parts = [part.copy() for part in right(loss, inputs).values()]
                parts[place][(-1,) * parts[place].ndim] += 0.25
                return FORMS[form](*parts, names=names)

            report = check(wrong, loss, cases=[case])
            assert report.state == "does not conform"
            assert f"\n  {name}" in str(report)


def test_a_gradient_that_is_missing_is_no_pass():
    loss = refloss.CosFace()
    case = of_case(loss)
    for form in (
        lambda value, dx, dw: (value, dx),
        lambda value, dx, dw: (value, dx, None),
        lambda value, dx, dw: (value, {"x": dx}),
        lambda value, dx, dw: {"loss": value, "x": dx},
        lambda value, dx, dw: (value, (dx, None)),
    ):

        def fn(*inputs, form=form):
            return form(*right(loss, inputs).values())

        report = check(fn, loss, cases=[case])
        assert report.state == "does not conform", str(report)
        assert "  dw: was not returned" in str(report)
        assert check(fn, loss, cases=[case], gradients=("x",)).passed


def test_a_gradient_that_is_missing_in_one_case_is_no_pass():
    for name in ("boundary-ignored", "hard-equal", "ordinary-random"):
        case = of_case(CE, name)
        key = key_of(case.inputs)

        def fn(z, y, key=key):
            found = ours(z, y)
            return found[0] if key_of((z, y)) == key else found

        report = check(fn, CE, shapes=(9, 7, 13))
        assert report.state == "does not conform", str(report)
        assert "dz: was not returned" in str(report)


BAD_FORMS: dict[str, Callable[..., Any]] = {
    "None": lambda value, dz: None,
    "nothing": lambda value, dz: (),
    "value None": lambda value, dz: (None, dz),
    "nested value": lambda value, dz: ((value, dz), dz),
    "value in a dict": lambda value, dz: ({"loss": value}, dz),
    "dict without a value": lambda value, dz: {"z": dz},
    "text": lambda value, dz: ("0.5", dz),
    "complex": lambda value, dz: (value + 0j, dz),
    "object": lambda value, dz: (object(), dz),
    "complex gradient": lambda value, dz: (value, dz + 0j),
    "function": lambda value, dz: lambda: (value, dz),
}


@pytest.mark.parametrize("form", BAD_FORMS)
def test_what_holds_no_value_fails_and_is_named(form):
    report = check(lambda *inputs: BAD_FORMS[form](*right(CE, inputs).values()), CE, cases=[of_case(CE)])
    assert report.state == "does not conform", str(report)
    assert "raised" in str(report)


def test_what_has_not_the_form_of_a_gradient_is_not_looked_at_and_said_so():
    for odd in ([[1.0], [1.0, 2.0]], 0.5, np.zeros(9), {"accuracy": 0.5}, None):
        report = check(lambda *inputs, odd=odd: (ours(*inputs)[0], odd), CE, cases=[of_case(CE)])
        assert report.state == "undecided", str(report)
        assert "no gradient was looked at" in str(report)
        assert odd is None or "was not looked at: " in str(report)


@pytest.mark.usefixtures("no_diagnosis")
def test_values_and_gradients_of_jax_are_read(jax):
    loss, case = refloss.CosFace(), of_case(refloss.CosFace())
    jnp = jax.numpy

    def value(x, w, y, factor=1.0):
        x, w = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w))
        z = 64.0 * (x @ w.T - 0.35 * jax.nn.one_hot(y, len(w), dtype=x.dtype))
        return factor * -jax.nn.log_softmax(z)[jnp.arange(len(y)), y].mean()

    forms = {
        "value": lambda f: f,
        "value and grad": lambda f: jax.value_and_grad(f, argnums=(0, 1)),
        "with auxiliary": lambda f: lambda *inputs: (f(*inputs), {"accuracy": 0.5}),
        "dict": lambda f: lambda *inputs: {"loss": f(*inputs), "accuracy": 0.5},
    }
    for name, form in forms.items():
        report = check(form(value), loss, framework="jax", cases=[case])
        assert report.passed, f"{name}: {report}"
        assert ("accuracy" in name or "beside the value" in str(report)) == (name in ("with auxiliary", "dict"))
        wrong = check(form(functools.partial(value, factor=1.001)), loss, framework="jax", cases=[case])
        assert wrong.state == "does not conform"
        assert {quantity.name for quantity in wrong.results[0].quantities} == {"value", "dx", "dw"}
    has_aux = check(
        jax.value_and_grad(lambda *inputs: (value(*inputs), 0.5), argnums=(0, 1), has_aux=True),
        loss,
        framework="jax",
        cases=[case],
    )
    assert has_aux.state == "does not conform"
    assert "has_aux" in str(has_aux)


def test_what_comes_beside_a_tensor_is_not_taken_for_its_gradient(torch):
    def fn(z, y, factor=1.0, beside=None):
        value = factor * torch.nn.functional.cross_entropy(z, y)
        return value if beside is None else (value, beside(z))

    case = of_case(CE)
    for beside in (
        None,
        lambda z: z.softmax(-1)[:, :2],
        lambda z: 0.5,
        lambda z: {"accuracy": 0.5},
        lambda z: (z[0], 1),
    ):
        report = check(functools.partial(fn, beside=beside), CE, framework="torch", cases=[case])
        assert report.passed, str(report)
        assert ("beside the value" in str(report)) == (beside is not None)
        wrong = check(functools.partial(fn, factor=1.001, beside=beside), CE, framework="torch", cases=[case])
        assert wrong.state == "does not conform"
        assert {quantity.name for quantity in wrong.results[0].quantities} == {"value", "dz"}
    logits = check(functools.partial(fn, beside=lambda z: z), CE, framework="torch", cases=[case])
    assert logits.state == "does not conform"
    assert "was read as dz" in str(logits)
