"""Measures whether `check` names what is wrong with code: the second part of the record diagnose.md.

Losses are drawn, and one or two rows of the table of defects that they can have. Code is that of
tests/support/wrong_codes/planted.py or, for another setting, of tests/support/right_codes/, neither of which calls
refloss; where neither has a defect, it is `Emulated`. Causes are compared with what the code returned, by numbers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from diagnose import Draw, code_of
from pages import Rows

import refloss
from refloss.testing import check, conformance
from refloss.testing.budgets import arithmetic, bounds
from refloss.testing.defects import KINDS, Defect, Emulated, combined, defects
from refloss.testing.defects.emulations import Emulation, WithGradient, without_defects
from refloss.testing.defects.inputs import WithInputs
from refloss.testing.defects.settings import AGREES
from refloss.testing.defects.steps import Stepped
from refloss.testing.diagnosis.fits import padding, z_loss
from refloss.testing.diagnosis.special import SPECIAL
from refloss.testing.hard_cases import VERDICT
from refloss.testing.report import FAILS
from refloss.testing.signatures import fields_of
from support.right_codes.divergence_codes import torch_divergence
from support.right_codes.link_codes import torch_links
from support.right_codes.torch_codes import torch_triplet
from support.wrong_codes.planted import planted

SEEDS = range(20)
"""Rounds."""
PER_ROUND = 15
"""Defects of a round."""
HARD = " (but for the group hard, where more is wrong)"


class Planted(NamedTuple):
    """Code with defects."""

    loss: Any
    dtype: str
    names: tuple[str, ...]
    """The defects, those of a gradient with its name."""
    kinds: tuple[str, ...]
    framework: str
    fn: Callable[..., Any]


# -------------------------------------------------------------------------------------------------------------- drawing


def drawn_loss(draw: Draw) -> Any:
    """One in five times a loss of triplets, of pairs, or of two distributions."""
    kind = draw.rng.integers(20)
    own: dict[int, Callable[[], Any]] = {
        0: lambda: refloss.Triplet(m=draw.number(0.1, 1.0), squared=draw.choice((True, False)), **draw.reduction()),
        1: lambda: refloss.SigLIP(**draw.reduction()),
        2: lambda: refloss.InfoNCE(ways=draw.choice((1, 2)), **draw.reduction()),
        3: lambda: refloss.KLDivergence(form=draw.choice(("forward", "reverse", "jensen-shannon")), **draw.reduction()),
    }
    loss = own.get(int(kind), draw.loss)()
    if isinstance(loss, refloss.CrossEntropy | refloss.SoftmaxLoss) and draw.rng.random() < 0.3:
        loss = replace(loss, class_weight=tuple(np.round(draw.rng.uniform(0.2, 3.0, 5), 2).tolist()))
    return loss


def drawn_rows(draw: Draw, loss: Any, number: int) -> list[Defect]:
    """Rows that a loss can have, by kind, then by what they say beside their numbers."""
    chosen: list[Defect] = []
    while len(chosen) < number:
        kind = draw.choice(KINDS)
        families: dict[str, list[Defect]] = {}
        for row in defects(loss):
            if row.kind == kind:
                families.setdefault(re.sub(r"\d[\d.e+-]*", "#", row.name), []).append(row)
        if families:
            chosen.append(draw.choice(families[draw.choice(families)]))
    return chosen


def drawn(draw: Draw) -> Planted:
    """A loss, a dtype, and one defect or, four times in ten, two."""
    while True:
        loss, dtype = drawn_loss(draw), str(draw.choice(("float32", "float64")))
        rows = drawn_rows(draw, loss, 1 if draw.rng.random() < 0.6 else 2)
        if len({row.name for row in rows}) < len(rows) or combined(loss, rows) is None:
            continue
        own = tuple(name for name in fields_of(loss) if name != "m")
        fields = [(draw.choice(own),) if draw.rng.random() < 0.5 else own for _ in rows]
        names = tuple(
            f"{row.name} of {field[0]}" if not row.whole and len(field) == 1 else row.name
            for row, field in zip(rows, fields, strict=True)
        )
        kinds = tuple(row.kind for row in rows)
        fn = in_torch(loss, rows, fields)
        if fn is not None:
            return Planted(loss, dtype, names, kinds, "torch", fn)
        return Planted(loss, dtype, names, kinds, "numpy", emulated(loss, names, kinds))


def emulated(loss: Any, names: Sequence[str], kinds: Sequence[str]) -> Callable[..., Any]:
    """Code in NumPy that rounds an emulation to the dtype; of a changed step the value alone.

    Its gradients would be differences, right to eight digits.
    """
    wrong = Emulated(loss, *names)
    of_value = "step" in kinds

    def fn(*inputs: Any) -> Any:
        if of_value:
            return np.asarray(wrong(*inputs)).astype(inputs[0].dtype)
        value, gradient = wrong.value_and_grad(*inputs, engine="dd")
        results = (value, *(part for part in gradient if part is not None))
        return tuple(np.asarray(part).astype(inputs[0].dtype) for part in results)

    return fn


def right_code(loss: Any) -> Callable[..., Any]:
    """A right implementation of a loss in torch."""
    if isinstance(loss, refloss.Triplet):
        return torch_triplet(loss, "difference")
    if isinstance(loss, refloss.KLDivergence):
        return torch_divergence(loss)
    return torch_links(loss) if isinstance(loss, refloss.SigLIP | refloss.InfoNCE) else code_of(loss)


def in_torch(loss: Any, rows: Sequence[Defect], fields: Sequence[tuple[str, ...]]) -> Callable[..., Any] | None:
    """Code with these defects in torch; None where there is none of one."""
    order = sorted(range(len(rows)), key=lambda place: KINDS.index(rows[place].kind))
    other, rest = loss, []
    for place in order:
        changed = rows[place].of(other)
        if rows[place].kind == "setting" and changed is not None and not isinstance(changed, Emulation):
            other = changed
        else:
            rest.append(place)
    fn: Callable[..., Any] | None = right_code(other)
    steps = sum(rows[place].kind == "step" for place in rest)
    if steps > 1:
        return None
    for place in sorted(rest, key=lambda place: rows[place].kind != "step"):
        fn = None if fn is None else planted(other, rows[place].name, fn, fields[place])
    return fn


# --------------------------------------------------------------------------------------------------------------- claims


class UnknownError(Exception):
    """A sentence that stands for no row."""


GRADIENT = re.compile(r"the gradient of (\w+) (.*)")
TIMES = re.compile(r"is (\S+) times what it should be, in ")
OTHER_LOSS = re.compile(r": ([A-Z]\w*)(\(.*\))$")


def claimed(loss: Any, sentences: Sequence[str]) -> list[Any]:
    """What code would compute with what sentences say together: a cause of the value, and of each gradient."""
    others, changes = [loss], []
    for sentence in sentences:
        said, *rest = sentence.split("; and the gradient of ")
        if GRADIENT.fullmatch(said):
            changes += [said]
            continue
        others = list(of_sentence(loss, said))
        if not others:
            raise UnknownError(said)
        parts = [part.removesuffix(f": {others[0]}") for part in rest]
        changes += [f"the gradient of {part}" for part in parts]
    return [claim for other in others for claim in with_changes(other, changes)]


def of_sentence(loss: Any, sentence: str) -> Iterator[Any]:
    """The losses that one sentence may stand for, since rows may share it."""
    for part, swap in (("in the gradients alone, ", False), ("in the value alone, ", True)):
        if sentence.startswith(part):
            for other in of_sentence(loss, sentence.removeprefix(part)):
                yield WithGradient(other, "", loss) if swap else WithGradient(loss, "", other)
            return
    fitted = OTHER_LOSS.search(re.sub(r" \(to within .* of it\)$", "", sentence))
    rows = [(row, row.of(loss)) for row in defects(loss)]
    for row, other in rows:
        said = row.said(loss, other)
        if sentence in (said, f"{said}: {other}"):
            yield other
    padded = re.match(r"padded classes count .* multiple of (\d+), with logits of (\S+)$", sentence)
    if padded:
        yield padding(int(padded.group(1)), float(padded.group(2))).emulate(loss)
    factor = re.match(r"(?:the z-loss has|a z-loss of) lambda=(\S+)", sentence)
    if factor:
        yield z_loss(float(factor.group(1)), "").emulate(loss)
    one, _, two = sentence.partition("; and ")
    for row, alone in rows if two else ():
        for second, _ in rows:
            other = combined(loss, (row, second)) if _may_say(row, one) and _may_say(second, two) else None
            if other is not None:
                said = f"{row.said(loss, other)}; and {second.said(loss, other).removeprefix(AGREES).lstrip()}"
                if sentence in (said, f"{said}: {other}", f"{said}: {alone}"):
                    yield other
    if fitted and fitted.group(1) in refloss.__all__:
        yield eval("".join(fitted.groups()), {name: getattr(refloss, name) for name in refloss.__all__})


def _may_say(row: Defect, text: str) -> bool:
    beginning = row.sentence.partition("{")[0]
    return text.startswith((beginning, beginning.removeprefix(AGREES).lstrip()))


def with_changes(loss: Any, changes: Sequence[str]) -> list[Any]:
    """The losses with gradients that are changed as sentences say, in one way or in two, since rows may share one."""
    claims = [loss]
    for change in changes:
        found = GRADIENT.fullmatch(change)
        if not found:
            raise UnknownError(change)
        name, said = found.groups()
        rows = [row for row in defects(without_defects(loss)) if not row.whole]
        while said:
            times = TIMES.match(said)
            own = [row for row in rows if f"{said}, and ".startswith(f"{row.sentence}, and ")]
            if times:
                claims, said = [Times(claim, "", name, float(times.group(1))) for claim in claims], ""
            elif own:
                claims = [replace(row.emulate(claim), field=name) for row in own for claim in claims]
                said = said.removeprefix(own[0].sentence).removeprefix(", and ")
            else:
                raise UnknownError(change)
    return claims


@dataclass(frozen=True)
class Times(Emulation):
    """A loss with a gradient that is multiplied by a number."""

    name: str
    factor: float

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """The value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        return value, gradient._replace(**{self.name: self.factor * getattr(gradient, self.name)})


# ------------------------------------------------------------------------------------------------------------- outcomes


def is_same(
    claim: Any, code: Planted, report: Any, *, hard: bool, of_value: bool = True, names: Sequence[str] = ()
) -> bool:
    """Whether a cause is what the code computes in all cases that were looked at: value and gradients, or some by name.

    Values within two budgets and a fiftieth of the error, gradients within twenty largest budgets, since rows may
    have changed places, and a fiftieth of the largest entry: twice what `check` itself grants, or more. Of a changed
    step the value alone is compared.
    """
    engine = "dd" if code.dtype == "float64" else "chain"
    for result in report.results:
        case, found = result.case, result.found
        if case.group not in VERDICT or set(case.flags) & SPECIAL or "truth" not in case.accepts or not found:
            continue
        if case.group == "hard" and not hard:
            continue
        inputs = case.inputs
        if code.loss.spec.head in ("logits", "divergence") and inputs[0].ndim != 2:
            continue
        allowed, errors = budgets_of(claim, code, inputs, found.upstream)
        if is_stepped(claim) or not found.gradients:
            value, gradient = claim(*inputs, engine=engine), None
        else:
            value, gradient = claim.value_and_grad(*inputs, upstream=found.upstream, engine=engine)
        true = code.loss(*inputs, engine=engine)
        if np.shape(value) != found.value.shape:
            return False
        if not (np.isfinite(value).all() and np.isfinite(found.value).all()):
            continue
        off = np.abs(found.value - true) if np.shape(true) == found.value.shape else np.abs(found.value)
        if of_value and (np.abs(value - found.value) > 2.0 * allowed + 0.02 * off).any():
            return False
        for name, theirs in zip(gradient._fields, found.gradients or (), strict=False) if gradient else ():
            ours = getattr(gradient, name)
            if theirs is None or ours is None or not np.isfinite(theirs).all() or name not in (names or [name]):
                continue
            if (np.abs(theirs - ours) > 20.0 * errors[name] + 0.02 * np.abs(ours).max()).any():
                return False
    return True


def budgets_of(claim: Any, code: Planted, inputs: Any, upstream: Any) -> tuple[Any, dict[str, float]]:
    """Budgets of the value and, the largest, of gradients: of the loss, or of the claim where these are more.

    Another setting, or other inputs, may have wider ones: at the threshold of another rule, say.
    """
    own, others = claim, inputs
    while isinstance(own, Emulation):
        others = own.of(others) if isinstance(own, WithInputs) else others
        own = own.loss
    a = arithmetic(code.dtype)
    allowed, errors = bounds(code.loss, inputs, a, upstream)
    largest = {name: float(np.max(part)) for name, part in errors.items()}
    if own.reduction == code.loss.reduction:
        theirs, more = bounds(own, others, a, upstream)
        allowed = np.maximum(allowed, theirs)
        largest = {name: max(part, float(np.max(more[name]))) for name, part in largest.items()}
    return allowed, largest


def is_stepped(claim: Any) -> bool:
    """Whether a step is changed, so that gradients are differences."""
    return isinstance(claim, Stepped) or (isinstance(claim, Emulation) and is_stepped(claim.loss))


def of_roundings(code: Planted, sentences: Sequence[str], names: Sequence[str]) -> Iterator[Any]:
    """What a sentence may stand for that names a rounding: several rows have the same, and others of `names` beside."""
    rows = {row.name: row for row in defects(code.loss)}
    beside = [rows[name] for name in names if rows[name].kind != "rounding"]
    for row in rows.values():
        says = [each.said(code.loss, each.of(code.loss)).removeprefix(AGREES).lstrip() for each in (*beside, row)]
        if row.kind == "rounding" and len(sentences) == 1 and all(said in sentences[0] for said in says):
            yield combined(code.loss, (*beside, row))


def outcome(code: Planted, report: Any) -> str:
    """One of "named", "none", "wrong" and "in part", where what is said is so and more is wrong beside it."""
    sentences = [said for said in report.diagnoses if not said.startswith(OF_CASES)]
    if any("arccos" in said for said in report.diagnoses) and not any(" within " in name for name in code.names):
        return "wrong"
    if not sentences:
        return "none"
    same = partial(is_same, code=code, report=report, hard=not any(said.endswith(HARD) for said in sentences))
    plain = [said.removesuffix(HARD) for said in sentences]
    with np.errstate(all="ignore"):
        return (
            outcome_of_rounding(code, plain, same) if "rounding" in code.kinds else outcome_of_claims(code, plain, same)
        )


def outcome_of_rounding(code: Planted, sentences: Sequence[str], same: Callable[..., bool]) -> str:
    """The outcome where numbers are rounded; in part if it is said of the value, and of gradients more is wrong."""
    if any(map(same, of_roundings(code, sentences, code.names))):
        return "named"
    return "in part" if any(same(claim, names=("none",)) for claim in of_roundings(code, sentences, ())) else "wrong"


def outcome_of_claims(code: Planted, sentences: Sequence[str], same: Callable[..., bool]) -> str:
    """The outcome elsewhere; in part if it is said of some gradients, and others or the value are wrong."""
    of_gradients = all(GRADIENT.fullmatch(said) for said in sentences)
    try:
        claims = [
            claimed(code.loss, said) for said in ([sentences] if of_gradients else [[said] for said in sentences])
        ]
    except UnknownError:
        return "wrong"
    if all(any(map(same, several)) for several in claims):
        return "named"
    names = re.findall(r"the gradient of (\w+) ", " ".join(sentences))
    holds = len(claims) == 1 and any(same(claim, of_value=not of_gradients, names=names) for claim in claims[0])
    return "in part" if names and holds else "wrong"


OF_CASES = (
    "in the group range",
    "NaN or infinite only ",
    "results are NaN or infinite",
    "only where ",
)
"""Beginnings of sentences that say in which cases results are wrong, and not why."""


def measured(seed: int) -> Rows:
    """Draw defects and check their code."""
    import torch

    torch.set_num_threads(1)
    draw, rows = Draw(1000 + seed), []
    while len(rows) < PER_ROUND:
        row = judged(drawn(draw))
        if row is not None:
            rows.append(row)
    return rows


def judged(code: Planted, shapes: Any = None) -> dict[str, Any] | None:
    """What `check` says of code; None where its defect has no effect, or it does not run."""
    spent = []

    def timed(*arguments: Any) -> Any:
        start = time.process_time()
        found = explain(*arguments)
        spent.append(time.process_time() - start)
        return found

    explain = conformance.diagnose
    start = time.process_time()
    with patch.object(conformance, "diagnose", timed), np.errstate(all="ignore"):
        report = check(code.fn, code.loss, framework=code.framework, dtype=code.dtype, shapes=shapes)
    seconds = time.process_time() - start
    if report.state != FAILS or not any(result.found for result in report.results):
        return None
    return {
        "loss": repr(code.loss),
        "dtype": code.dtype,
        "code": code.framework,
        "names": code.names,
        "kinds": code.kinds,
        "causes": report.diagnoses,
        "outcome": outcome(code, report),
        "seconds": seconds,
        "explaining": sum(spent),
    }
