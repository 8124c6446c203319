"""Named inputs on which implementations differ, exact in the dtype they are for.

Groups: `ordinary`, what training sees; `boundary`, every boundary of the loss, on it and on both sides, labels that
are ignored, classes that are masked, ties; `hard`, angles next to 0 and π, confident and wrong targets, logits far
apart or far from 0, points and classes that coincide; `range`, lengths that overflow when they are squared, rows of
zeros, and what a convention may refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.formats import dtype_name, dtype_of, rounded
from refloss.messages import shown
from refloss.testing.budgets import as_loss
from refloss.testing.options import as_flag, as_seed, is_shape

__all__ = ["FIELDS", "GROUPS", "INPUTS", "LABELS", "SHAPES", "Case", "Shape", "cases", "dtype_name", "dtype_of"]

INPUTS = {
    "logits": ("z", "y"),
    "linear": ("x", "w", "y", "b"),
    "margin": ("x", "w", "y"),
    "triplet": ("anchor", "positive", "negative"),
}
"""What a loss is called with, by its head; a linear head may go without its bias."""
LABELS = {head: names.index("y") for head, names in INPUTS.items() if "y" in names}
"""Where the labels are among the inputs."""
FIELDS = {head: tuple(name for name in names if name != "y") for head, names in INPUTS.items()}
"""Names of the inputs that have gradients."""
GROUPS = ("ordinary", "boundary", "hard", "range")
VERDICT = GROUPS[:3]
"""Groups that the verdict covers; `range` is shown beside."""
ACCEPTED = {
    "ignored": ("truth", "refusal"),
    "zero vector": ("refusal", "finite"),
    "negative": ("truth", "refusal"),
}
"""What may come back beside or instead of the truth, where there is more than one convention."""
LONGEST = {"float16": 2, "bfloat16": 30, "float32": 30, "float64": 200}  # powers of ten whose square overflows
FAR_GAPS = (120.0, 800.0)
"""How far logits are apart where float32, or float64 too, has no exponential."""
CANCELLING = 16.0
"""How many times the sum of weights of both signs their magnitudes may be, for a mean that divides by it."""
SURE = 24
"""The most certain target has probability 1 - 2^-24: float32 rounds it to 1."""
NO_DIRECTION = "has no direction, and its loss no value: to refuse it is right, and so is any finite answer"
NOTHING = "every label is to be ignored: the sum is 0, the mean NaN or 0, and there is no gradient"


class Shape(NamedTuple):
    """How large the inputs of a case are."""

    n: int = 9
    """Samples."""
    c: int = 7
    """Classes."""
    d: int = 13
    """Dimensions of an embedding; of no use to losses of logits."""


SHAPES = (Shape(), Shape(5, 35, 9), Shape(19, 3, 5), Shape(2, 2, 3))
"""Default shapes: more samples than classes and fewer, and no number that a block of a kernel divides."""


class Case(NamedTuple):
    """Inputs with a name and a reason."""

    id: str
    """Group, name and shape."""
    group: str
    """One of `GROUPS`."""
    flags: tuple[str, ...]
    """Why it is there, in words for a program."""
    reason: str
    """Why it is there, in a sentence."""
    inputs: tuple[Any, ...]
    """What the loss is called with: float64 arrays whose numbers the dtype holds exactly, and labels."""
    accepts: tuple[str, ...] = ("truth",)
    """What may come back: "truth", within the budget; "refusal", an exception; "finite", any numbers, there being no
    truth. On a boundary the budget itself holds what is true on either side."""

    @property
    def name(self) -> str:
        """Its id without the shape."""
        return re.sub(r"-\d+x\d+x\d+$", "", self.id)

    def __str__(self) -> str:
        """Return its id, for pytest."""
        return self.id


class Draft(NamedTuple):
    """A case before its numbers are rounded to the dtype."""

    group: str
    name: str
    flags: tuple[str, ...]
    reason: str
    inputs: tuple[Any, ...]


class Setting(NamedTuple):
    """What cases are made for."""

    loss: Any
    dtype: str
    size: Shape
    rng: np.random.Generator
    labels: Callable[[], Any]
    """The next labels (N,)."""

    def normal(self, *shape: int) -> Array:
        """Independent normal numbers."""
        return self.rng.normal(size=shape)

    @property
    def gaps(self) -> tuple[float, ...]:
        """How far logits are apart where exponentials vanish."""
        return FAR_GAPS[:1] if self.dtype == "float16" else FAR_GAPS  # its sum of many would overflow


def cases(
    loss: Any,
    dtype: Any = "float32",
    shapes: Any = None,
    seed: int = 0,
    *,
    bias: bool = False,
    soft: bool = False,
    ignored: bool = True,
) -> list[Case]:
    """Make the cases of a loss.

    Parameters
    ----------
    loss
        Any loss of refloss, or its class for the default settings.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy or a framework: every number is one of
        that dtype.
    shapes
        (N, C, D) of what is made, one or several; a kernel that asks for D % 16 == 0 or for a certain C gets what it
        asks for. `SHAPES` if left out, with as many classes as the loss has class weights.
    seed
        Of the random numbers.
    bias
        Whether a linear head has cases with a bias.
    soft
        Whether probabilities for labels are in the group "boundary"; code that has labels only may do anything there,
        so they are in "range" otherwise.
    ignored
        Whether there are labels that are to be ignored.

    Returns
    -------
    list of Case
        With ids that no other case of the list has.

    Raises
    ------
    ValueError, TypeError
        For an argument that is none of those, naming it.
    """
    loss, dtype, seed = as_loss(loss), dtype_name(dtype), as_seed("seed", seed)
    bias, soft, ignored = (
        as_flag(name, value) for name, value in (("bias", bias), ("soft", soft), ("ignored", ignored))
    )
    found = []
    for size in sizes(loss, shapes):
        for draft in _drafts(loss, dtype, size, seed):
            flags = set(draft.flags)
            if "y" in INPUTS[loss.spec.head] and weights_cancel(loss, draft.inputs[LABELS[loss.spec.head]]):
                continue
            if ("bias" in flags and not bias) or ("ignored" in flags and not (ignored and _can_ignore(loss))):
                continue
            group = "range" if "soft" in flags and not soft else draft.group
            exact = tuple(_held(entry, dtype, place in _soft_labels(draft)) for place, entry in enumerate(draft.inputs))
            accepts = next((ACCEPTED[flag] for flag in ACCEPTED if flag in flags), ("truth",))
            accepts = ("truth", "refusal") if "soft" in flags and not soft else accepts
            name = f"{group}-{draft.name}-{'x'.join(map(str, size))}"
            found.append(Case(name, group, draft.flags, draft.reason, exact, accepts))
    return found


def sizes(loss: Any, shapes: Any) -> list[Shape]:
    """Return the shapes of cases, one or several or none given."""
    weights = None if loss.spec.head == "triplet" else loss.spec.cross_entropy.class_weight
    if shapes is None:
        counts = [c if weights is None else len(weights) for _, c, _ in SHAPES]
        return list(dict.fromkeys(shape._replace(c=c) for shape, c in zip(SHAPES, counts, strict=True)))
    several = [shapes] if is_shape(shapes) else shapes.tolist() if isinstance(shapes, np.ndarray) else shapes
    whole = isinstance(several, Sequence) and all(map(is_shape, several))
    if not whole or not several:
        raise ValueError(f"shapes: expected (N, C, D), three positive integers, or a list of such; got {shown(shapes)}")
    found = [Shape(*map(int, shape)) for shape in several]
    for shape in found:
        if weights is not None and shape.c != len(weights):
            raise ValueError(f"shapes: expected C={len(weights)}, as many as class weights; got {tuple(shape)}")
    return list(dict.fromkeys(found))


def _drafts(loss: Any, dtype: str, size: Shape, seed: int) -> Iterator[Draft]:
    setting = Setting(loss, dtype, size, np.random.default_rng(seed), _labels(size.n, size.c))
    heads = {"logits": _of_logits, "linear": _of_heads, "margin": _of_heads, "triplet": _of_triplets}
    return heads[loss.spec.head](setting)


def _soft_labels(draft: Draft) -> tuple[int, ...]:
    return (1,) if "soft" in draft.flags else ()


def _held(entry: Any, dtype: str, label: bool = False) -> Any:
    """Round numbers to the dtype; labels stay."""
    return entry if label or entry.dtype.kind == "i" else rounded(entry, dtype)


def _can_ignore(loss: Any) -> bool:
    return loss.spec.head != "triplet" and loss.ignore_index is not None


def _labels(n: int, c: int) -> Callable[[], Any]:
    """Labels that repeat, the last class among them; from batch to batch every class."""
    turn = 0

    def following() -> Any:
        nonlocal turn
        turn += 1
        if n >= c:
            return np.random.default_rng(turn).permutation(np.arange(n) % c)
        y = (np.arange(n) * max(1, c // n) + turn) % c
        if n > 2 or turn % 2:
            y[np.arange(turn, turn + 2) % n] = c - 1
        return y

    return following


def counts_nothing(loss: Any, inputs: tuple[Any, ...]) -> bool:
    """Whether a mean divides by 0: every label is ignored or of weight 0, or weights of both signs add up to 0."""
    if loss.spec.head == "triplet" or loss.reduction != "mean":
        return False
    y = inputs[LABELS[loss.spec.head]]
    if y.dtype.kind not in "iu":
        return False
    kept, weights = y[y != loss.ignore_index], loss.spec.cross_entropy.class_weight
    return not kept.size or (weights is not None and math.fsum(np.take(weights, kept)) == 0.0)


def weights_cancel(loss: Any, y: Any) -> bool:
    """Whether a mean divides by weights of both signs of which next to nothing is left."""
    weights = loss.spec.cross_entropy.class_weight
    if weights is None or loss.reduction != "mean" or y.dtype.kind not in "iu":
        return False
    own = np.take(weights, y[y != loss.ignore_index])
    return bool(np.abs(own).sum() > CANCELLING * abs(math.fsum(own)))


# ------------------------------------------------------------------------------------------------------- linear, margin


def _of_heads(setting: Setting) -> Iterator[Draft]:
    n, c, d = setting.size
    loss, labels, normal = setting.loss, setting.labels, setting.normal
    on_margin = loss.spec.head == "margin"

    def random(y: Any) -> tuple[Array, Array]:
        """Rows; if there is room, no target within 0.3 rad of its class or of the opposite of it."""
        for _ in range(100):
            x, w = normal(n, d), normal(c, d)
            if np.abs(_cosines(x, w[y])).max() < 0.95:
                break
        return x, w

    y = labels()
    yield Draft("ordinary", "random", ("random",), "independent normal numbers, nothing special", (*random(y), y))
    x, w = random(y := labels())
    lengths = np.geomspace(0.125, 8.0, n)[:, None]
    reason = "embeddings of lengths from 1/8 to 8 times another"
    yield Draft("ordinary", "lengths", ("lengths",), reason, (x * lengths, w, y))
    reason = "targets at 0.5 to 1.2 rad of their class"
    yield Draft("ordinary", "trained", ("near",), reason, _at(setting, labels(), (0.5, 1.2)))
    if on_margin:
        yield from _of_boundaries(setting)
        yield from _of_angles(setting)
    x, w = random(y := labels())
    if n > 1:
        yield Draft("boundary", "ignored", ("ignored",), _ignored(loss), (x, w, _some(loss, y)))
    if _can_ignore(loss):
        nobody = np.full(n, loss.ignore_index)
        yield Draft("boundary", "all-ignored", ("ignored",), NOTHING, (x, w, nobody))
    if (weightless := _weightless(loss, n)) is not None:
        yield Draft("boundary", "weight-0", ("weightless",), WEIGHTLESS, (*random(weightless), weightless))
    x, w = random(y := labels())
    reason = "all other classes are one and the same"
    yield Draft("hard", "same-classes", ("same classes",), reason, (x, _same(w, y), y))
    if (sure := _certain(setting, labels())) is not None:
        reason = f"targets of probability 1 - 2^-k, k from 1 to {SURE}"
        yield Draft("hard", "certain", ("confident",), reason, sure)
    if not on_margin or loss.spec.scale is None:
        yield from _of_gaps(setting)
    if not on_margin:
        yield from _of_biases(setting, random)
    elif loss.spec.scale is not None:
        yield from _of_lengths(setting, random)


def _of_boundaries(setting: Setting) -> Iterator[Draft]:
    """Targets on each boundary of the margin's rule and on both sides of it."""
    for name, theta, reason in _boundaries(setting.loss):
        for side, off in (("before", -0.02), ("after", 0.02)):
            angles = (max(theta + off, 0.05), min(theta + off, np.pi - 0.05))
            inputs = _at(setting, setting.labels(), angles)
            yield Draft("boundary", f"{name}-{side}", ("boundary",), f"0.02 rad {side} {reason}", inputs)
        either = f"on {reason}, as near as the dtype can: what holds on either side is accepted"
        inputs = _at(setting, setting.labels(), (theta, theta))
        yield Draft("boundary", f"{name}-on", ("boundary",), either, inputs)


def _of_angles(setting: Setting) -> Iterator[Draft]:
    """Targets near their class, near the opposite of it, and at right angles to it."""
    labels, c = setting.labels, setting.size.c
    margin = setting.loss.spec.margin
    on_cosine = margin.m1 == 1.0 and margin.m2 == 0.0
    nearer = (1e-5,) if on_cosine and setting.dtype == "float64" else ()  # shows a cosine that is cut off at 1 - 1e-7
    for theta in (1e-1, 1e-2, 1e-3, *nearer):
        angles = f"{theta:.0e}"
        reason = f"targets at {theta:g} rad of their class: a cosine does not know them well"
        yield Draft("hard", f"theta-{angles}", ("small angle",), reason, _at(setting, labels(), (theta, theta)))
        reason = f"targets at pi - {theta:g} rad, nearly opposite to their class"
        inputs = _at(setting, labels(), (np.pi - theta, np.pi - theta))
        yield Draft("hard", f"pi-minus-{angles}", ("angle near pi",), reason, inputs)
    for theta in (1e-2, 1e-3, *nearer):
        reason = f"targets at {theta:g} rad of their class, and other classes as near: the loss is not small"
        inputs = _rivalled(setting, labels() % ((c + 1) // 2), theta)
        yield Draft("hard", f"rivals-{theta:.0e}", ("small angle", "rivals"), reason, inputs)
    if c > 1:
        x, w, y = _at(setting, labels(), (np.pi - 0.1, np.pi - 0.1))
        w[(y[0] + 1) % c] = -w[y[0]]
        reason = "an embedding nearly opposite to its class, and another class next to it: a gap of twice the scale"
        yield Draft("hard", "opposite", ("angle near pi", "gap"), reason, (x, w, y))
    if setting.size.d > 1:
        reason = "targets at right angles to their class, or 2^-16 from it: an angle from two lengths loses digits"
        yield Draft("hard", "orthogonal", ("orthogonal",), reason, _orthogonal(setting, labels()))


def _of_gaps(setting: Setting) -> Iterator[Draft]:
    """Logits so far apart that exponentials vanish."""
    n, c, _ = setting.size
    for gap in setting.gaps if c > 1 else ():
        _, w, y = _at(setting, setting.labels(), (0.6, 1.2))
        rival = w[(y + 1) % c]
        reason = f"another class's logit is {gap:g}: its exponential overflows, or the label's vanishes"
        yield Draft(
            "hard", f"wrong-{gap:g}", ("wrong", "gap"), reason, (gap * rival + 0.25 * setting.normal(n, 1), w, y)
        )


def _of_biases(setting: Setting, random: Callable[[Any], tuple[Array, Array]]) -> Iterator[Draft]:
    """What a linear head has beside directions: a bias, and logits that all are large."""
    n, c, d = setting.size
    labels, normal = setting.labels, setting.normal
    y = labels()
    yield Draft("ordinary", "bias", ("bias",), "a bias", (*random(y), y, normal(c)))
    if n > 1:
        y = labels()
        yield Draft(
            "boundary",
            "ignored-bias",
            ("ignored", "bias"),
            _ignored(setting.loss),
            (*random(y), _some(setting.loss, y), normal(c)),
        )
    y = labels()
    reason = "a bias of 1000 and more: exponentials of logits overflow"
    yield Draft("hard", "bias-offset", ("bias", "offset"), reason, (*random(y), y, 1000.0 + normal(c)))
    x, w = random(y := labels())
    x[:, 0], w[:, 0] = 32.0, w[:, 0] + 32.0
    reason = "all logits of 1000 and more: their exponentials overflow"
    yield Draft("hard", "offset", ("offset",), reason, (x, w, y))
    if c > 1:
        # Of integers in one dimension, so that products are exact and a budget of logits is as small as it can be.
        x, w, up = np.zeros((n, d)), np.zeros((c, d)), np.arange(n) % 2 == 0
        w[:, 0] = np.round(np.linspace(134.0, 250.0, c))
        most, least = setting.rng.permutation(c)[:2]
        w[[most, least], 0] = 255.0, 128.0
        x[:, 0] = np.where(up, 8.0, -8.0)
        reason = "all logits of 1000 and more, exact, and confident targets: logsumexp less a logit loses the loss"
        yield Draft("hard", "offset-exact", ("offset", "confident"), reason, (x, w, np.where(up, most, least)))


def _of_lengths(setting: Setting, random: Callable[[Any], tuple[Array, Array]]) -> Iterator[Draft]:
    """Lengths whose squares overflow or vanish, and vectors without a direction."""
    long = 10.0 ** LONGEST[setting.dtype]
    x, w = random(y := setting.labels())
    reason = f"embeddings of length {long:g}: their squares overflow"
    yield Draft("range", "long-x", ("overflow",), reason, (x * long, w, y))
    reason = f"weights of length {1 / long:g}: their squares vanish"
    yield Draft("range", "short-w", ("underflow",), reason, (x, w / long, y))
    for name, place, reason in (
        ("x", 0, f"an embedding of zeros {NO_DIRECTION}"),
        ("w", -1, f"a class of zeros {NO_DIRECTION}"),
    ):
        x, w = random(y := setting.labels())
        (x if name == "x" else w)[place] = 0.0
        yield Draft("range", f"zero-{name}", ("zero vector",), reason, (x, w, y))


def _ignored(loss: Any) -> str:
    return (
        f"every second label is {loss.ignore_index}, which is to be ignored: no loss, no gradient, and no part of the "
        "mean; code that has no such labels may refuse"
    )


WEIGHTLESS = "every label is of a class of weight 0: the sum is 0, the mean NaN or 0"


def _some(loss: Any, y: Any) -> Any:
    """Every second label, the first included, ignored."""
    return np.where(np.arange(len(y)) % 2 == 0, loss.ignore_index, y) if _can_ignore(loss) else y


def _weightless(loss: Any, n: int) -> Any:
    """Labels of classes whose weight is 0, if there are such."""
    weights = loss.spec.cross_entropy.class_weight
    none = np.flatnonzero(np.equal([1.0] if weights is None else weights, 0.0))
    return np.resize(none, n) if len(none) else None


def _cosines(x: Array, w: Array) -> Array:
    return np.asarray((x * w).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(w, axis=1))


def _same(w: Array, y: Any) -> Array:
    other = w.copy()
    other[np.setdiff1d(np.arange(len(w)), y[:1])] = w[(y[0] + 1) % len(w)]
    return other


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0.0, length, 1.0))  # in one dimension there is no aside


def _beside(setting: Setting, y: Any) -> tuple[Array, Array, Array]:
    """Unit class weights; those of the targets; and unit rows at right angles to them."""
    n, c, d = setting.size
    w = _unit(setting.normal(c, d))
    aside = setting.normal(n, d)
    aside -= (aside * w[y]).sum(axis=1, keepdims=True) * w[y]
    return w, w[y], _unit(aside)


def _at(setting: Setting, y: Any, theta: tuple[float, float]) -> tuple[Any, ...]:
    """Embeddings that far from their classes, evenly from the one angle to the other."""
    w, own, aside = _beside(setting, y)
    angles = np.linspace(*theta, setting.size.n)[:, None]
    return np.cos(angles) * own + np.sin(angles) * aside, w, y


def _rivalled(setting: Setting, y: Any, theta: float) -> tuple[Any, ...]:
    """As `_at`, and the classes that are no targets each as near to one of the embeddings, on another side."""
    n, c, d = setting.size
    x, w, _ = _at(setting, y, (theta, theta))
    for place, rival in enumerate(np.setdiff1d(np.arange(c), y)):
        near = x[place % n]
        aside = setting.normal(d)
        aside -= (aside @ near) * near
        w[rival] = near + theta * aside / max(float(np.linalg.norm(aside)), 1e-300)
    return x, w, y


def _orthogonal(setting: Setting, y: Any) -> tuple[Any, ...]:
    """Embeddings along an axis, and short numbers as weights, whose entry there is 0 or 2^-16."""
    n, c, d = setting.size
    w = setting.rng.integers(-24, 25, (c, d)) / 16.0
    w[:, -1] += np.where(w[:, -1] < 0.0, -2.0, 2.0)  # no row of zeros
    axis = np.arange(c) % (d - 1)
    w[np.arange(c), axis] = np.where(np.arange(c) % 2 == 0, 2.0**-16, 0.0)
    x = np.zeros((n, d))
    x[np.arange(n), axis[y]] = 2.0 ** (np.arange(n) % 3)
    return x, w, y


def _odds(n: int) -> Array:
    """log(p / (1 - p)) of p = 1 - 2^-k, k from 1 to 24, one a sample."""
    k = np.round(np.linspace(1.0, SURE, n)) if n > 1 else np.array([10.0])
    return np.asarray(np.log(np.exp2(k) - 1.0))


def _certain(setting: Setting, y: Any) -> tuple[Any, ...] | None:
    """Embeddings whose targets have probability 1 - 2^-k: by bisection of their length, or of their angle.

    The targets are of two classes; where there is room all classes are at right angles to them, and no rivals.
    """
    n, c, d = setting.size
    if c < 2 or d < 2:
        return None
    loss, each = setting.loss, np.arange(n)
    by_length = loss.spec.head == "linear" or loss.spec.scale is None
    y = np.where(np.arange(n) % 2 == 0, c - 1, y[0])
    w = _unit(setting.normal(c, d))
    for target in dict.fromkeys(y) if d > 3 else ():
        others = np.arange(c) != target
        w[others] = _unit(w[others] - (w[others] @ w[target])[:, None] * w[target])
    own, aside = w[y], setting.normal(n, d)
    aside = _unit(aside - (aside * own).sum(axis=1, keepdims=True) * own)
    low, high = (np.full(n, 0.05), np.full(n, 100.0)) if by_length else (np.full(n, np.pi - 0.05), np.full(n, 0.05))

    turn = 0.1 if loss.spec.head == "margin" else 0.5

    def embeddings(place: Array) -> Array:
        at = place[:, None]
        x: Array = at * (own + turn * aside) if by_length else np.cos(at) * own + np.sin(at) * aside
        return x

    for _ in range(30):
        middle = (low + high) / 2.0
        z = embeddings(middle) @ w.T  # weights are of unit length, and so are embeddings unless their length is sought
        if loss.spec.head == "margin":
            theta, scale = (
                (np.full(n, np.arctan(turn)), middle * np.hypot(1.0, turn)) if by_length else (middle, loss.s)
            )
            z = z if by_length else scale * z
            z[each, y] = scale * loss.target_logit(theta)
        target = z[each, y].copy()
        z[each, y] = -np.inf
        more = target - _log_sum_exp(z) < _odds(n)
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return embeddings(np.where(high == 100.0, 1.0, high) if by_length else high), w, y


def _log_sum_exp(z: Array) -> Array:
    largest = z.max(axis=1, keepdims=True)
    return np.asarray(largest[:, 0] + np.log(np.exp(z - largest).sum(axis=1)))


def _boundaries(loss: Any) -> Iterator[tuple[str, float, str]]:
    """Angles at which the curve of the target has a boundary or a fold."""
    margin = loss.spec.margin
    if margin.boundary in ("easy", "conditional"):
        yield "cosine", float(np.arccos(0.0 if margin.boundary == "easy" else margin.m3)), "the rule's boundary"
    elif margin.boundary == "min":
        yield "half", float(np.pi - margin.m2 / 2.0), "where the margin's curve meets the cosine"
    elif margin.m1 != 1.0 or margin.m2:
        for fold in range(1, int(margin.m1 + margin.m2 / np.pi) + 1):
            theta = (fold * np.pi - margin.m2) / margin.m1
            if 0.1 < theta < np.pi - 0.1:
                yield f"fold{fold}", float(theta), f"m1 theta + m2 = {fold} pi"


# --------------------------------------------------------------------------------------------------------------- logits


def _of_logits(setting: Setting) -> Iterator[Draft]:
    n, c, _ = setting.size
    loss, labels, normal, each = setting.loss, setting.labels, setting.normal, np.arange(n)
    yield Draft(
        "ordinary", "random", ("random",), "independent normal numbers, nothing special", (normal(n, c), labels())
    )
    yield Draft("ordinary", "wide", ("random",), "logits of size 5", (5.0 * normal(n, c), labels()))
    for gap in (5.0, 10.0, 30.0):
        z, y = normal(n, c), labels()
        z[each, y] = z.max(axis=1) + gap
        yield Draft("hard", f"confident-{gap:g}", ("confident",), f"the label's logit leads by {gap:g}", (z, y))
    if c > 1:
        yield from _of_rivals(setting)
    if n > 1:
        yield Draft("boundary", "ignored", ("ignored",), _ignored(loss), (normal(n, c), _some(loss, labels())))
    if _can_ignore(loss):
        nobody = np.full(n, loss.ignore_index)
        yield Draft("boundary", "all-ignored", ("ignored",), NOTHING, (normal(n, c), nobody))
    if (weightless := _weightless(loss, n)) is not None:
        yield Draft("boundary", "weight-0", ("weightless",), WEIGHTLESS, (normal(n, c), weightless))
    shares = np.array([setting.rng.multinomial(64, row) for row in setting.rng.dirichlet(np.ones(c), n)]) / 64.0
    yield Draft("boundary", "soft", ("soft",), "probabilities for labels, some of them 0", (normal(n, c), shares))
    yield Draft("hard", "equal", ("equal",), "all logits equal: the loss is log C", (np.full((n, c), 2.0), labels()))
    quarters = np.round(4.0 * normal(n, c)) / 4.0
    reason = "logits of 1000 and more: their exponentials overflow"
    yield Draft("hard", "offset", ("offset",), reason, (quarters + 1000.0, labels()))
    reason = "logits of -1000 and less: their exponentials all vanish"
    yield Draft("hard", "offset-below", ("offset",), reason, (quarters - 1000.0, labels()))
    most = 3e4 if setting.dtype == "float16" else 1e8
    yield Draft("range", "offset-huge", ("offset",), f"logits of {most:g}", (np.full((n, c), most), labels()))
    targets = setting.rng.integers(0, 65, (n, c)) / 32.0
    reason = "targets for labels that do not add up to 1, by whose sum nothing is divided"
    yield Draft("boundary", "soft-sums", ("soft",), reason, (normal(n, c), targets))
    targets = setting.rng.integers(-32, 65, (n, c)) / 32.0
    reason = "targets of both signs for labels; code that takes probabilities only may refuse"
    yield Draft("boundary", "soft-signs", ("soft", "negative"), reason, (normal(n, c), targets))


def _of_rivals(setting: Setting) -> Iterator[Draft]:
    """Another class ahead of the label, beside it, or out of the running."""
    n, c, _ = setting.size
    labels, normal, each = setting.labels, setting.normal, np.arange(n)
    for gap in (5.0, 10.0, 30.0, *setting.gaps):
        z, y = normal(n, c), labels()
        z[each, (y + 1) % c] = z.max(axis=1) + gap
        where = " in float32" if gap == FAR_GAPS[0] else ""
        lost = f": exp(-gap) is 0{where}" if gap in FAR_GAPS else ""
        flags = ("wrong", "gap") if gap in FAR_GAPS else ("wrong",)
        yield Draft("hard", f"wrong-{gap:g}", flags, f"another class's logit leads by {gap:g}{lost}", (z, y))
    z, y = normal(n, c), labels()
    z[each, y] = -np.inf
    z[each, y] = _log_sum_exp(z) + _odds(n)
    yield Draft("hard", "certain", ("confident",), f"targets of probability 1 - 2^-k, k from 1 to {SURE}", (z, y))
    z, y = normal(n, c), labels()
    z[each, y] = z[each, (y + 1) % c] = z.max(axis=1)
    yield Draft("boundary", "tied", ("equal",), "the label's logit and another are the largest, and equal", (z, y))
    if c > 2 and not setting.loss.spec.cross_entropy.label_smoothing:
        z, y = normal(n, c), labels()
        z[each, (y + 1) % c] = -np.inf
        z[0, np.arange(c) != y[0]] = -np.inf
        reason = "logits of -inf: masked classes, which have no probability and no gradient"
        yield Draft("boundary", "masked", ("masked",), reason, (z, y))


# ------------------------------------------------------------------------------------------------------------- triplets


def _of_triplets(setting: Setting) -> Iterator[Draft]:
    n, _, d = setting.size
    loss = setting.loss

    def rows(spread: float = 1.0) -> Array:
        return spread * setting.normal(n, d)

    yield Draft(
        "ordinary", "random", ("random",), "independent normal numbers, nothing special", (rows(), rows(), rows())
    )
    a = rows()
    near = (a, a + rows(0.01), a + rows(0.01))
    yield Draft("hard", "near", ("cancellation",), "positive and negative next to the anchor", near)
    unit = _unit(a)
    away = a + unit * (10.0 + 10.0 * loss.m)
    yield Draft(
        "boundary", "kept", ("inactive",), "the margin is kept: no loss and no gradient", (a, a + rows(0.1), away)
    )
    partly = np.where(np.arange(n)[:, None] % 2 == 0, a + rows(0.1), away)
    reason = "every second triplet keeps the margin, and counts in the mean"
    yield Draft("ordinary", "partly", ("inactive",), reason, (a, a + rows(0.1), partly))
    m = float(np.sqrt(loss.m) if loss.squared else loss.m) or 1.0
    for factor in (0.75, 1.25):
        reason = f"positive on the anchor, negative at {factor:g} of the margin from it"
        edge = (a, a + 0.0, a + factor * m * unit)
        yield Draft("boundary", f"edge-{factor:g}", ("coinciding",), reason, edge)
    reason = "the positive is the anchor: its distance is 0"
    yield Draft("hard", "on-positive", ("coinciding",), reason, (a, a + 0.0, a + rows(0.5) * m))
    reason = "the negative is the anchor: its distance is 0"
    yield Draft("hard", "on-negative", ("coinciding",), reason, (a, a + rows(), a + 0.0))
    reason = "anchor, positive and negative are one point"
    yield Draft("hard", "all-one", ("coinciding",), reason, (a, a + 0.0, a + 0.0))
    far = tuple(np.round((part + 100.0) * 64.0) / 64.0 for part in (a, a + rows(0.5), a + rows(0.5)))
    yield Draft("hard", "far", ("offset",), "points 100 from the origin, and 1 apart", far)
