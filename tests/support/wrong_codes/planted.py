"""Defects of the table, planted in torch: code of its own for a defect, by the defect's name, for any settings.

`planted` writes each defect as code has it. It shares no line with the rows of refloss.testing.defects, and gradients
are those of autograd. Where it has no code of a defect it returns None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from refloss.stages.margin import CIRCLE
from refloss.testing.signatures import inputs_of
from support.right_codes.torch_codes import torch_psi
from support.wrong_codes.code import identity

Code = Callable[..., Any]
WHOLE = {"2.22045e-16": 2.0**-52, "1.19209e-07": 2.0**-23}
"""Numbers of which names have six digits: eps of float64 and float32."""


class Head(NamedTuple):
    """A margin loss in torch, of which a defect replaces a part."""

    unit_x: Callable[[Any], Any]
    unit_w: Callable[[Any], Any]
    cosine: Callable[[Any], Any] = lambda c: c
    angle: Callable[[Any], Any] = lambda theta: theta
    sign: float = 1.0
    """Of the margin."""
    every: bool = False
    """Whether every class has it."""
    exact: bool = True
    """Whether rows have unit length, so that two of them give their angle without an arccos."""

    def logits(self, loss: Any, x: Any, w: Any, y: Any) -> Any:
        """Logits (N, C), of labels that are ignored those of class 0."""
        import torch

        ux, uw = self.unit_x(x), self.unit_w(w)
        cos = self.cosine(ux @ uw.T)
        if self.exact:
            near, far = ((ux[:, None] - side * uw).norm(dim=2) for side in (1.0, -1.0))
            angles = 2.0 * torch.atan2(near, far)
        else:
            inside = cos.detach().abs() < 1.0  # elsewhere an arccos has no slope
            angles = torch.where(inside, torch.where(inside, cos, 0.0 * cos).acos(), cos.detach().clamp(-1, 1).acos())
        theta = self.angle(angles)
        psi = torch_psi(loss, cos, theta.sin(), theta, "lengths")
        if self.sign < 0.0:
            m = loss.spec.margin
            psi = cos + float(m.m3) if m.m1 == 1.0 and m.m2 == 0.0 else torch.cos(m.m1 * theta - m.m2) + float(m.m3)
        target = torch.nn.functional.one_hot(y.clamp(min=0), len(w)).bool()
        scale = x.norm(dim=1, keepdim=True) if loss.spec.scale is None else loss.spec.scale
        return scale * torch.where(target | self.every, psi, cos)


def _unit(rows: Any) -> Any:
    return rows / rows.norm(dim=1, keepdim=True)


def _by_constants(rows: Any) -> Any:
    return rows / rows.norm(dim=1, keepdim=True).detach()


def _as_is(rows: Any) -> Any:
    return rows


def _with_added(eps: float, rows: Any) -> Any:
    return rows / (rows.norm(dim=1, keepdim=True) + eps)


def _under_root(eps: float, rows: Any) -> Any:
    return rows / (rows.square().sum(dim=1, keepdim=True) + eps).sqrt()


def _by_sizes(rows: Any) -> Any:
    return rows / rows.abs().sum(dim=1, keepdim=True)


def _by_squares(rows: Any) -> Any:
    return rows / rows.square().sum(dim=1, keepdim=True)


def _over_classes(rows: Any) -> Any:
    return rows / rows.norm(dim=0, keepdim=True)


def _clamped(low: float, high: float, a: Any) -> Any:
    return a.clamp(low, high)


HEADS: dict[str, Callable[[float], Head]] = {
    "weights not unit": lambda _: Head(_unit, _as_is, exact=False),
    "embeddings not unit": lambda _: Head(_as_is, _unit, exact=False),
    "nothing unit": lambda _: Head(_as_is, _as_is, exact=False),
    "# added to lengths": lambda e: Head(partial(_with_added, e), partial(_with_added, e), exact=False),
    "# under the root of lengths": lambda e: Head(partial(_under_root, e), partial(_under_root, e), exact=False),
    "L1 for L2 lengths": lambda _: Head(_by_sizes, _by_sizes, exact=False),
    "squared lengths": lambda _: Head(_by_squares, _by_squares, exact=False),
    "weights unit over classes": lambda _: Head(_unit, _over_classes, exact=False),
    "cosine within # of 1": lambda e: Head(_unit, _unit, partial(_clamped, e - 1.0, 1.0 - e), exact=False),
    "angle within # of 0 and pi": lambda e: Head(_unit, _unit, angle=partial(_clamped, e, math.pi - e)),
    "margin of the wrong sign": lambda _: Head(_unit, _unit, sign=-1.0),
    "gradient without projection": lambda _: Head(_by_constants, _by_constants),
    "margin on every class": lambda _: Head(_unit, _unit, every=True),
}
"""Heads with a defect, by its name with # for a number."""
ON_COSINE = (
    "weights not unit",
    "embeddings not unit",
    "nothing unit",
    "squared lengths",
    "gradient without projection",
)
"""Defects that are planted where a margin is on the cosine: what becomes of an angle, or its slope, differs in code."""

# ------------------------------------------------------------------------------------------------- from logits to rows


class Rows(NamedTuple):
    """What the loss of each row is made of."""

    z: Any
    t: Any
    """Targets (N, C), times class weights."""
    label: Any
    """Rows of 0 and a 1 at the label."""
    v: Any
    """Class weights (C,)."""
    eps: float
    """The label smoothing."""

    def cross_entropy(self, z: Any = None, t: Any = None) -> Any:
        """-sum t log p of each row, 0 where t is."""
        import torch

        t = self.t if t is None else t
        log_p = (self.z if z is None else z).log_softmax(dim=1)
        return -torch.where(t == 0.0, torch.zeros_like(log_p), t * log_p).sum(dim=1)

    def of_probabilities(self, change: Callable[[Any], Any]) -> Any:
        """-sum t log(p changed)."""
        import torch

        p = change(self.z.softmax(dim=1))
        return -torch.where(self.t == 0.0, torch.zeros_like(p), self.t * p.log()).sum(dim=1)

    def padded(self, multiple: int, logit: float) -> Any:
        """With classes up to a multiple of a number."""
        import torch

        others = torch.full((len(self.z), -self.z.shape[1] % multiple), logit, dtype=self.z.dtype)
        return self.cross_entropy(torch.cat((self.z, others), dim=1), torch.cat((self.t, 0.0 * others), dim=1))

    def smoothed(self, share: Callable[[float, int], tuple[float, float]]) -> Any:
        """With other targets: a share of the label and one of every class."""
        own, each = share(self.eps, self.z.shape[1])
        return self.cross_entropy(t=self.v * (own * self.label + each))


def _over_samples(rows: Rows) -> Any:
    return -(rows.t * rows.z.log_softmax(dim=0)).sum(dim=1)


def _detached_maximum(subtracted: bool, rows: Rows) -> Any:
    """Log-sum-exps of gaps to the largest logit, which has a gradient in one of two places."""
    top = rows.z.max(dim=1, keepdim=True).values
    gaps = rows.z - (top.detach() if subtracted else top)
    lse = gaps.logsumexp(dim=1, keepdim=True) + (top if subtracted else top.detach())
    return (rows.t * (lse - rows.z)).sum(dim=1)


def _entropy_off(rows: Rows) -> Any:
    return rows.cross_entropy() + (rows.t * rows.t.clamp(min=1e-300).log()).sum(dim=1)


def _others(taken: int) -> Callable[[float, int], tuple[float, float]]:
    """eps/(C - taken) on each other class and 1 - eps on the label."""

    def share(eps: float, classes: int) -> tuple[float, float]:
        each = eps / max(classes - taken, 1)
        return 1.0 - eps - each, each

    return share


ROWS: dict[str, Callable[[float], Callable[[Rows], Any]]] = {
    "softmax over samples": lambda _: _over_samples,
    "# added to p": lambda e: lambda rows: rows.of_probabilities(lambda p: p + e),
    "p at least #": lambda e: lambda rows: rows.of_probabilities(lambda p: p.clamp(min=e)),
    "maximum detached where subtracted": lambda _: partial(_detached_maximum, True),
    "maximum detached where added": lambda _: partial(_detached_maximum, False),
    "KL divergence": lambda _: _entropy_off,
    "log # added": lambda n: lambda rows: rows.cross_entropy() + rows.t.sum(dim=1) * math.log(n),
    "C padded to #, logits 0": lambda n: lambda rows: rows.padded(int(n), 0.0),
    "smoothing eps/(C - 1)": lambda _: lambda rows: rows.smoothed(_others(1)),
    "smoothing eps/(C - 2)": lambda _: lambda rows: rows.smoothed(_others(2)),
    "smoothing eps/C on the others": lambda _: lambda rows: rows.smoothed(lambda e, n: (1.0 - e - e / n, e / n)),
    "smoothing beside a whole target": lambda _: lambda rows: rows.smoothed(lambda e, n: (1.0, e / n)),
    "smoothing of the target alone": lambda _: lambda rows: rows.smoothed(lambda e, n: (1.0 - e, 0.0)),
}
"""Losses of rows with a defect."""
LOGITS: dict[str, Callable[[float], Callable[[Any], Any]]] = {
    "softmax twice": lambda _: lambda z: z.softmax(dim=1),
    "logits within #": lambda bound: partial(_clamped, -bound, bound),
}
"""Changes of the logits that a softmax takes."""


def _reduced(loss: Any, z: Any, y: Any, of_rows: Callable[[Rows], Any]) -> Any:
    """The value, from logits that are scaled and capped."""
    import torch

    z_loss = getattr(loss, "z_loss", 0.0)
    kept = y != loss.ignore_index
    label = torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]).to(z.dtype)
    v = torch.ones(z.shape[1], dtype=z.dtype) if loss.class_weight is None else torch.tensor(loss.class_weight)
    v, eps = v.to(z.dtype), loss.label_smoothing
    rows = Rows(z, v * ((1.0 - eps) * label + eps / z.shape[1]), label, v, eps)
    each = torch.where(kept, of_rows(rows), torch.zeros_like(z[:, 0]))
    terms = z_loss * z.logsumexp(dim=1) ** 2 * kept if z_loss else 0.0 * each
    if loss.reduction == "none":
        return each + terms
    if loss.reduction == "sum":
        return each.sum() + terms.sum()
    return each.sum() / ((label @ v) * kept).sum() + terms.sum() / kept.sum()


def _capped(loss: Any, z: Any, scale: bool = True, cap: bool = True) -> Any:
    """Logits scaled and capped; False where that has a slope of 1."""
    scaled = loss.logit_scale * z
    scaled = scaled if scale else z + (scaled - z).detach()
    capped = scaled if loss.softcap is None else loss.softcap * (scaled / loss.softcap).tanh()
    return capped if cap else scaled + (capped - scaled).detach()


SLOPES = {
    "no slope of the softcap": (True, False),
    "no slope of the logit scale": (False, True),
    "no slope of the softcap and of the logit scale": (False, False),
}
"""Whether the logit scale and the softcap have a slope."""


# ------------------------------------------------------------------------------------------------------------ gradients


def _cut(axis: int, start: Callable[[int], int], gradient: Any) -> Any:
    if gradient.ndim:
        gradient.narrow(axis, start(gradient.shape[axis]), gradient.shape[axis] - start(gradient.shape[axis])).zero_()
    return gradient


def _odd(start: int, gradient: Any) -> Any:
    if gradient.ndim:
        gradient[..., start::2] = 0.0
    return gradient


def _rolled(by: int, gradient: Any) -> Any:
    return gradient.roll(by, 0) if gradient.ndim else gradient


def _past(axis: int) -> Callable[[float], Callable[[Any], Any]]:
    return lambda n: partial(_cut, axis, lambda size: size // int(n) * int(n))


GRADIENTS: dict[str, Callable[[float], Callable[[Any], Any]]] = {
    "zero gradient": lambda _: lambda g: 0.0 * g,
    "gradient of the wrong sign": lambda _: lambda g: -g,
    "gradient times #": lambda n: lambda g: n * g,
    "no gradient in the second half of columns": lambda _: partial(_cut, -1, lambda n: (n + 1) // 2),
    "no gradient from the middle column on": lambda _: partial(_cut, -1, lambda n: n // 2),
    "no gradient in even columns": lambda _: partial(_odd, 0),
    "no gradient in odd columns": lambda _: partial(_odd, 1),
    "no gradient in the last row": lambda _: partial(_cut, 0, lambda n: n - 1),
    "no gradient in the last column": lambda _: partial(_cut, -1, lambda n: n - 1),
    "no gradient past rows of #": _past(0),
    "no gradient past columns of #": _past(-1),
    "gradient of the next row": lambda _: partial(_rolled, -1),
    "gradient of the row before": lambda _: partial(_rolled, 1),
    "gradient rows in reverse": lambda _: lambda g: g.flip(0) if g.ndim else g,
}
"""Changes of a gradient."""
UPSTREAMS: dict[str, Callable[[Any], Any]] = {
    "gradient without upstream": lambda g: 0.0 * g + 1.0,
    "no upstream of rows": lambda g: 0.0 * g + 1.0,
    "upstream of the first row": lambda g: 0.0 * g + g[:1],
}
"""Changes of the upstream gradient."""
BY_SAMPLES: dict[str, Callable[[Any, int], Any]] = {
    "gradient of the sum": lambda g, n: g * n,
    "gradient over N twice": lambda g, n: g / n,
}
"""Changes of a gradient that take N."""
LABELS: dict[str, Callable[[Any, int], Any]] = {
    "labels + 1": lambda y, classes: (y + 1) % classes,
    "labels - 1": lambda y, classes: (y - 1) % classes,
    "labels of the next row": lambda y, classes: y.roll(-1),
    "labels of the row before": lambda y, classes: y.roll(1),
}
"""Other labels."""
FACTORS: dict[str, Callable[[int, int, float], float]] = {
    "divided by N twice": lambda n, classes, by: 1.0 / n,
    "mean over N - #": lambda n, classes, by: n / max(n - by, 1),
    "mean over N + #": lambda n, classes, by: n / (n + by),
    "mean over classes": lambda n, classes, by: n / classes,
    "multiplied by #": lambda n, classes, by: by,
    "divided by #": lambda n, classes, by: 1.0 / by,
}
"""Factors of value and gradients, from the number of rows that count, that of classes and the number of the name."""

# -------------------------------------------------------------------------------------------------------------- planted

NUMBERED = {*HEADS, *ROWS, *LOGITS, *GRADIENTS, *FACTORS}
NUMBER = re.compile(r"(?<![\w/(])\d+(?:\.\d*)?(?:e[+-]?\d+)?(?![\w)])")


class Place(NamedTuple):
    """Where a defect is planted."""

    loss: Any
    right: Code
    """Right code of the loss, or code with another defect."""
    fields: tuple[str, ...]
    """Names of the gradients that a defect of gradients is in."""

    @property
    def head(self) -> str:
        """What the loss begins with, or is."""
        return str(self.loss.spec.head)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return inputs_of(self.loss)

    @property
    def has_labels(self) -> bool:
        """Whether the loss has labels, and one weight for each class."""
        return self.head in ("logits", "linear", "margin") and not hasattr(self.loss, "centers")

    def labels(self, inputs: Any) -> Any:
        """The labels."""
        return inputs[self.names.index("y")]

    def classes(self, inputs: Any) -> int:
        """C."""
        return int(inputs[0].shape[-1] if self.head == "logits" else len(inputs[1]))


def planted(loss: Any, name: str, right: Code, fields: tuple[str, ...] = ()) -> Code | None:
    """Return code in torch with a defect, in the gradients of `fields` if it is one of gradients; None without code."""
    pattern, number = name, 0.0
    for found in NUMBER.finditer(name):
        if (shorter := f"{name[: found.start()]}#{name[found.end() :]}") in NUMBERED:
            pattern, number = shorter, WHOLE.get(found.group(), float(found.group()))
    place = Place(loss, right, fields)
    codes = (way(place, pattern, number) for way in (_of_gradients, _of_inputs, _of_slopes, _of_rows, _of_heads))
    return next((code for code in codes if code is not None), None)


def _of_gradients(place: Place, pattern: str, number: float) -> Code | None:
    right = place.right
    if pattern in UPSTREAMS:
        every = {*place.fields} >= {name for name in place.names if name not in ("y", "m", "b")}
        back = identity(UPSTREAMS[pattern])
        return (lambda *inputs: back(right(*inputs))) if every and place.has_labels else None
    if pattern not in GRADIENTS and pattern not in BY_SAMPLES:
        return None

    def fn(*inputs: Any) -> Any:
        change = GRADIENTS[pattern](number) if pattern in GRADIENTS else partial(BY_SAMPLES[pattern], n=len(inputs[0]))
        changed = identity(change)
        names = (*place.names, "")
        return right(
            *(changed(part) if field in place.fields else part for field, part in zip(names, inputs, strict=False))
        )

    return fn


def _of_inputs(place: Place, pattern: str, number: float) -> Code | None:
    import torch

    if not place.has_labels or not (pattern in LABELS or pattern in FACTORS):
        return None
    ignored = place.loss.ignore_index

    def relabelled(*inputs: Any) -> Any:
        y = place.labels(inputs)
        others = LABELS[pattern](y, place.classes(inputs))
        others = others if "of the" in pattern else torch.where(y == ignored, y, others)
        return place.right(*(others if part is y else part for part in inputs))

    def scaled(*inputs: Any) -> Any:
        n = int((place.labels(inputs) != ignored).sum())
        return place.right(*inputs) * FACTORS[pattern](n, place.classes(inputs), number)

    return relabelled if pattern in LABELS else scaled


def _of_slopes(place: Place, pattern: str, number: float) -> Code | None:
    if pattern not in SLOPES or place.head != "logits":
        return None
    slopes = SLOPES[pattern]
    return lambda z, y: _reduced(place.loss, _capped(place.loss, z, *slopes), y, Rows.cross_entropy)


def _is_plain(place: Place) -> bool:
    """Whether a loss is a softmax of scaled cosines, of which the target's alone is changed, or of plain logits."""
    spec = place.loss.spec
    return place.has_labels and (place.head != "margin" or (spec.is_plain and spec.margin.boundary != CIRCLE))


def _of_rows(place: Place, pattern: str, number: float) -> Code | None:
    import torch

    if not (pattern in ROWS or pattern in LOGITS) or not _is_plain(place):
        return None
    loss, plain = place.loss, Head(_unit, _unit)
    change = LOGITS[pattern](number) if pattern in LOGITS else _as_is
    of_rows = ROWS[pattern](number) if pattern in ROWS else Rows.cross_entropy

    def value(z: Any, y: Any) -> Any:
        return _reduced(loss, change(z), y, of_rows)

    if place.head == "margin":
        return lambda x, w, y: value(plain.logits(loss, x, w, y), y)
    if place.head == "logits":
        return lambda z, y: value(_capped(loss, z), y) if y.ndim == 1 else place.right(z, y)
    linear = torch.nn.functional.linear
    return lambda x, w, y, b=None: value(_capped(loss, linear(x, w, b)), y)


def _of_heads(place: Place, pattern: str, number: float) -> Code | None:
    if pattern not in HEADS or place.head != "margin" or not _is_plain(place):
        return None
    margin, head = place.loss.spec.margin, HEADS[pattern](number)
    if pattern in ON_COSINE and not (margin.m1 == 1.0 and margin.m2 == 0.0):
        return None
    if pattern == "gradient without projection":
        head = Head(*(_by_constants if field in place.fields else _unit for field in ("x", "w")))
    return lambda x, w, y: _reduced(place.loss, head.logits(place.loss, x, w, y), y, Rows.cross_entropy)
