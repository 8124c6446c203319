"""Cross entropy and margin heads as they are written elsewhere, beside "chain" and "dd": page implementations.md.

One sample at a time, so that an error belongs to that sample's regime. Inputs are rounded to a dtype and then are what
they are: the truth is that of the rounded inputs. Each implementation computes in that dtype as its framework does.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import facts
import ml_dtypes
import numpy as np
import scipy.special
from mpmath import mp, mpf

import refloss
from refloss.engines.certified import enclose
from refloss.testing import naive
from support import cases

Array = np.ndarray[Any, Any]
Random = np.random.Generator
Found = tuple[Any, dict[str, Any]]

C, D = 10, 16
M = math.radians(28.6)  # the default of pytorch-metric-learning's ArcFace
UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
DTYPES = {name: np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name) for name in UNITS}
SMALLEST = {name: float(ml_dtypes.finfo(dtype).smallest_normal) for name, dtype in DTYPES.items()}


class Kind(NamedTuple):
    """A formula: refloss's loss of it with a scale, and who else computes it, each from (arrays, y, scale)."""

    loss: Callable[[float], Any]
    others: dict[str, Callable[[dict[str, Array], Array, float], Found]]


# ---------------------------------------------------------------------------------------------------------------- torch


def of_torch(f: Callable[..., Any]) -> Callable[[dict[str, Array], Array, float], Found]:
    """Value and gradients by autograd of f(torch, arrays as tensors, y, s)."""

    def called(arrays: dict[str, Array], y: Array, s: float) -> Found:
        import torch

        torch.set_num_threads(1)
        tensors = {name: tensor(array).requires_grad_() for name, array in arrays.items()}
        value = f(torch, **tensors, y=torch.from_numpy(y), s=s)
        value.backward()
        return value.item(), {name: it.grad.double().numpy() for name, it in tensors.items()}

    return called


def tensor(array: Array) -> Any:
    """A torch tensor of the same numbers in the same dtype."""
    import torch

    return torch.from_numpy(array.astype(np.float64)).to(getattr(torch, array.dtype.name))


def torch_cross_entropy(torch: Any, z: Any, y: Any, s: float) -> Any:
    return torch.nn.functional.cross_entropy(z, y)


def torch_linear(torch: Any, x: Any, w: Any, y: Any, s: float) -> Any:
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w), y)


def torch_head(psi: Callable[..., Any], by_norm: bool = False) -> Callable[..., Any]:
    """Cosines by normalize and linear, psi in the target's place, and cross entropy."""

    def head(torch: Any, x: Any, w: Any, y: Any, s: float) -> Any:
        f = torch.nn.functional
        cosine = f.linear(f.normalize(x), f.normalize(w))
        one_hot = f.one_hot(y, len(w)).to(cosine.dtype)
        scale = x.norm(dim=1, keepdim=True) if by_norm else s
        return f.cross_entropy(scale * (one_hot * psi(torch, cosine) + (1 - one_hot) * cosine), y)

    return head


def by_acos(torch: Any, c: Any) -> Any:
    return torch.cos(torch.acos(c.clamp(-1, 1)) + M)


def by_sqrt(torch: Any, c: Any) -> Any:
    return c * math.cos(M) - torch.sqrt((1 - c * c).clamp(0, 1)) * math.sin(M)


def by_sqrt_hard(torch: Any, c: Any) -> Any:
    return torch.where(c > math.cos(math.pi - M), by_sqrt(torch, c), c - math.sin(math.pi - M) * M)


def folded(torch: Any, c: Any) -> Any:
    theta = torch.acos(c.clamp(-1, 1))
    k = (4 * theta / math.pi).floor()
    return (1 - 2 * (k % 2)) * torch.cos(4 * theta) - 2 * k


def folded_polynomial(torch: Any, c: Any) -> Any:
    k = (4 * torch.acos(c.detach().clamp(-1, 1)) / math.pi).floor()
    return (1 - 2 * (k % 2)) * (8 * c**4 - 8 * c**2 + 1) - 2 * k


# ------------------------------------------------------------------------------------------------------------------ jax


def of_jax(f: Callable[..., Any]) -> Callable[[dict[str, Array], Array, float], Found]:
    """Value and gradients by jax.value_and_grad of f(arrays in order, y, s), compiled."""

    @cache
    def compiled() -> Any:
        import jax

        jax.config.update("jax_enable_x64", True)
        return jax.jit(jax.value_and_grad(lambda arrays, y, s: f(**arrays, y=y, s=s)))

    def called(arrays: dict[str, Array], y: Array, s: float) -> Found:
        value, gradients = compiled()(arrays, y, s)
        return np.float64(value), {name: np.asarray(it, np.float64) for name, it in gradients.items()}

    return called


def optax_cross_entropy(z: Any, y: Any, s: float) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()


def jax_log_softmax(z: Any, y: Any, s: float) -> Any:
    import jax

    return -jax.nn.log_softmax(z)[np.arange(len(z)), y].mean()


def jax_linear(x: Any, w: Any, y: Any, s: float) -> Any:
    return optax_cross_entropy(x @ w.T, y, s)


def jax_head(psi: Callable[..., Any], by_norm: bool = False) -> Callable[..., Any]:
    """Cosines of rows over their norms, psi in the target's place, and optax's cross entropy."""

    def head(x: Any, w: Any, y: Any, s: float) -> Any:
        import jax.numpy as jnp

        lengths = jnp.linalg.norm(x, axis=1, keepdims=True)
        cosine = (x / lengths) @ (w / jnp.linalg.norm(w, axis=1, keepdims=True)).T
        target = jnp.arange(len(w)) == y[:, None]
        z = jnp.where(target, psi(jnp, cosine), cosine) * (lengths if by_norm else s)
        return optax_cross_entropy(z, y, s)

    return head


def jax_by_acos(jnp: Any, c: Any) -> Any:
    return jnp.cos(jnp.arccos(c) + M)


def jax_folded(jnp: Any, c: Any) -> Any:
    theta = jnp.arccos(c)
    k = jnp.floor(4 * theta / math.pi)
    return (1 - 2 * (k % 2)) * jnp.cos(4 * theta) - 2 * k


# ----------------------------------------------------------------------------------- pytorch-metric-learning, and NumPy


def of_pml(name: str, **options: Callable[[float], float]) -> Callable[[dict[str, Array], Array, float], Found]:
    """A loss of pytorch-metric-learning, which keeps its weights (D, C)."""

    def called(arrays: dict[str, Array], y: Array, s: float) -> Found:
        import warnings

        import torch
        from pytorch_metric_learning import losses

        classes, width = arrays["w"].shape
        x = tensor(arrays["x"]).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy 2, about __array_wrap__
            settings = {key: of_scale(s) for key, of_scale in options.items()}
            loss = getattr(losses, name)(num_classes=classes, embedding_size=width, **settings)
            loss.W = torch.nn.Parameter(tensor(arrays["w"]).T.contiguous())
            value = loss(x, torch.from_numpy(y))
            value.backward()
        return value.item(), {"x": x.grad.double().numpy(), "w": loss.W.grad.double().numpy().T}

    return called


def textbook(arrays: dict[str, Array], y: Array, s: float) -> Found:
    """Cross entropy as in a textbook: exp, its sum, the log of that."""
    z, rows = arrays["z"], np.arange(len(y))
    with np.errstate(all="ignore"):
        e = np.exp(z)
        p = e / e.sum(axis=1, keepdims=True)
        value = (np.log(e.sum(axis=1)) - z[rows, y]).mean()
        p[rows, y] -= 1
    return np.float64(value), {"z": p.astype(np.float64) / len(y)}


def of_scipy(arrays: dict[str, Array], y: Array, s: float) -> Found:
    """Cross entropy of scipy's log_softmax, and p - 1."""
    z, rows = arrays["z"], np.arange(len(y))
    log_p = scipy.special.log_softmax(z, axis=1)
    with np.errstate(all="ignore"):
        p = np.exp(log_p)
        p[rows, y] -= 1
    return np.float64(-log_p[rows, y].mean()), {"z": p.astype(np.float64) / len(y)}


def of_naive(arrays: dict[str, Array], y: Array, s: float) -> Found:
    """ArcFace of refloss.testing.naive, which knows float64 only."""
    value, x, w = naive.arcface_value_and_grad(arrays["x"], arrays["w"], y, s, M)
    return value, {"x": x, "w": w}


KINDS = {
    "cross entropy on logits": Kind(
        lambda s: refloss.CrossEntropy(),
        {
            "torch": of_torch(torch_cross_entropy),
            "optax": of_jax(optax_cross_entropy),
            "jax, log_softmax": of_jax(jax_log_softmax),
            "scipy, log_softmax": of_scipy,
            "textbook NumPy": textbook,
        },
    ),
    "SoftmaxLoss": Kind(
        lambda s: refloss.SoftmaxLoss(), {"torch": of_torch(torch_linear), "jax and optax": of_jax(jax_linear)}
    ),
    "NormFace": Kind(
        lambda s: refloss.NormFace(s=s),
        {
            "torch": of_torch(torch_head(lambda torch, c: c)),
            "jax and optax": of_jax(jax_head(lambda jnp, c: c)),
            "PML NormalizedSoftmaxLoss": of_pml("NormalizedSoftmaxLoss", temperature=lambda s: 1 / s),
        },
    ),
    "CosFace": Kind(
        lambda s: refloss.CosFace(s=s, m=0.35),
        {
            "torch": of_torch(torch_head(lambda torch, c: c - 0.35)),
            "jax and optax": of_jax(jax_head(lambda jnp, c: c - 0.35)),
            "PML CosFaceLoss": of_pml("CosFaceLoss", margin=lambda s: 0.35, scale=lambda s: s),
        },
    ),
    "ArcFace": Kind(
        lambda s: refloss.ArcFace(s=s, m=M),
        {
            "torch, acos": of_torch(torch_head(by_acos)),
            "torch, sqrt(1 - c^2)": of_torch(torch_head(by_sqrt)),
            "jax, arccos": of_jax(jax_head(jax_by_acos)),
            "textbook NumPy": of_naive,
        },
    ),
    'ArcFace, boundary="hard"': Kind(
        lambda s: refloss.ArcFace(s=s, m=M, boundary="hard"),
        {
            "torch, sqrt(1 - c^2)": of_torch(torch_head(by_sqrt_hard)),
            "PML ArcFaceLoss": of_pml("ArcFaceLoss", margin=lambda s: 28.6, scale=lambda s: s),
        },
    ),
    "ASoftmax": Kind(
        lambda s: refloss.ASoftmax(m=4),
        {
            "torch, acos": of_torch(torch_head(folded, by_norm=True)),
            "torch, polynomial": of_torch(torch_head(folded_polynomial, by_norm=True)),
            "jax, arccos": of_jax(jax_head(jax_folded, by_norm=True)),
            "PML SphereFaceLoss": of_pml("SphereFaceLoss", margin=lambda s: 4, scale=lambda s: 1),
        },
    ),
}


# --------------------------------------------------------------------------------------------------------------- inputs


class Sample(NamedTuple):
    """A regime, the scale of the loss in it, and inputs."""

    regime: str
    s: float
    arrays: dict[str, Array]
    y: Array


def samples(kind: str, random: Random, dtype: str) -> Iterator[Sample]:
    """A sample or a few of every regime."""
    if kind == "cross entropy on logits":
        yield from of_logits(random, dtype)
        return
    loss = KINDS[kind].loss(64.0)
    by_norm = getattr(loss, "s", None) is None

    def at(theta: float, length: float = 1.0) -> dict[str, Array]:
        x, w, own = cases.at_angle(random, theta, 1, C, D)
        w[[0, own[0]]] = w[[own[0], 0]]
        return {"x": x * (length / np.linalg.norm(x)), "w": w}

    y = np.array([0])
    for _ in range(2):
        x, w, _ = cases.ordinary(random, 1, C, D)
        yield Sample("ordinary", 64.0, {"x": x, "w": w}, y)
    for theta, length in ((0.6, 20.0), (0.2, 40.0), (0.2, 80.0)):
        given = at(theta, length)
        given["w"][1:] = -given["w"][0] * (1.0 + random.random((C - 1, 1))) + 0.3 * given["w"][1:]
        yield Sample("confident", length, given, y)
    if by_norm:
        largest = 1e3 if dtype == "float16" else 1e5
        yield Sample("huge logits", 1.0, at(1.0, largest), y)
    if kind == "SoftmaxLoss":
        return
    for power in (1, 2, 4, 6, 8):
        yield Sample("theta to 0", 4.0, at(10.0**-power, 4.0), y)
    for power in (1, 2, 4, 6, 8):
        yield Sample("theta to pi", 4.0, at(math.pi - 10.0**-power, 4.0), y)
    multiples = {"ASoftmax": [k * math.pi / 4 for k in (1, 2, 3)]}.get(kind, [math.pi - M] if "Arc" in kind else [])
    for theta in multiples:
        for side in (-1e-4, -1e-8, 1e-8, 1e-4):
            yield Sample("m1 theta + m2 at a multiple of pi", 4.0, at(theta + side, 4.0), y)
    for power in {"float64": (30, 200), "float32": (15, 30), "bfloat16": (15, 30), "float16": (2, 3)}[dtype]:
        for size in (10.0**-power, 10.0**power):
            if not by_norm:
                yield Sample("norms", 4.0, at(1.0, size), y)
            given = at(1.0, 4.0)
            given["w"][0] *= size
            yield Sample("norms", 4.0, given, y)


def of_logits(random: Random, dtype: str) -> Iterator[Sample]:
    y = np.array([0])
    for _ in range(2):
        yield Sample("ordinary", 1.0, {"z": 5.0 * random.standard_normal((1, C))}, y)
    for sign, regime in ((1.0, "confident"), (-1.0, "confidently wrong")):
        for gap in (5.0, 10.0, 20.0, 36.0, 50.0, 100.0, 300.0, 700.0):
            z = random.uniform(-1.0, 1.0, (1, C))
            z[0, 0] += sign * gap
            yield Sample(regime, 1.0, {"z": z}, y)
    for size in (1e3, 1e4) if dtype == "float16" else (1e4, 1e8, 1e30):
        yield Sample("huge logits", 1.0, {"z": size + 3.0 * random.standard_normal((1, C))}, y)


# ----------------------------------------------------------------------------------------------------------- measuring


class Truth(NamedTuple):
    """The midpoint of an enclosure as the sum of two float64, or of more than float64 can hold."""

    high: Array
    low: Array

    @classmethod
    def of(cls, decimal: Any) -> Truth:
        """Split decimals, as an enclosure has them."""
        with mp.workdps(50):
            exact = [mpf(text) for text in np.ravel(decimal)]
            high = [float(number) for number in exact]
            low = [float(number - near) for number, near in zip(exact, high, strict=True)]
        return cls(np.reshape(high, np.shape(decimal)), np.reshape(low, np.shape(decimal)))

    def error(self, found: Any, dtype: str) -> float:
        """In u of the dtype: the worst row's largest error over its largest entry; NaN if a result is not finite."""
        off = np.atleast_2d(np.abs((np.asarray(found, np.float64) - self.high) - self.low))
        size = np.abs(np.atleast_2d(self.high)).max(axis=1)
        return float((off.max(axis=1) / np.maximum(size, SMALLEST[dtype])).max() / UNITS[dtype])


class Truths(NamedTuple):
    """Of a loss and of its gradients."""

    value: Truth
    gradients: dict[str, Truth]

    @classmethod
    def of(cls, loss: Any, arrays: dict[str, Array], y: Array) -> Truths:
        """Enclose a loss of these inputs, and its gradients."""
        found = enclose(loss, *arrays.values(), y)
        return cls(Truth.of(found.value.decimal), {name: Truth.of(ball.decimal) for name, ball in found.grad.items()})

    def errors(self, found: Found, dtype: str) -> tuple[float, float]:
        """Of the value, and the worst of the gradients."""
        value, gradients = found
        with np.errstate(all="ignore"):
            each = [self.gradients[name].error(part, dtype) for name, part in gradients.items()]
            return self.value.error(value, dtype), max(each) if all(map(math.isfinite, each)) else math.nan


def ours(loss: Any, engine: str, dtype: str) -> Callable[[dict[str, Array], Array, float], Found]:
    """An engine's results, rounded to the dtype as one would who needs them there."""

    def called(arrays: dict[str, Array], y: Array, s: float) -> Found:
        value, gradients = loss.value_and_grad(*arrays.values(), y, engine=engine)
        with np.errstate(over="ignore"):
            named = {name: part for name, part in gradients._asdict().items() if part is not None}
            return DTYPES[dtype].type(value), {name: part.astype(DTYPES[dtype]) for name, part in named.items()}

    return called


def measured(seed: int) -> list[dict[str, Any]]:
    """One round: a row for each sample and implementation."""
    rows = []
    for kind, (loss_of, others) in KINDS.items():
        for dtype in UNITS:
            random = np.random.default_rng([seed, zlib.crc32((kind + dtype).encode())])
            for regime, s, given, y in samples(kind, random, dtype):
                loss = loss_of(s)
                arrays = {name: array.astype(DTYPES[dtype]) for name, array in given.items()}
                truths = Truths.of(loss, arrays, y)
                everyone = others | {engine: ours(loss, engine, dtype) for engine in ("chain", "dd")}
                if dtype != "float64":
                    everyone = {name: call for name, call in everyone.items() if call is not of_naive}
                for name, call in everyone.items():
                    value, gradient = truths.errors(call(arrays, y, s), dtype)
                    rows.append({
                        "kind": kind, "regime": regime, "dtype": dtype, "who": name,
                        "value": value, "gradient": gradient,
                    })  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------------------------- page


def cell(errors: list[float]) -> str:
    """Median and worst of what is finite, and how many are not; nothing where nothing was computed."""
    finite = [error for error in errors if math.isfinite(error)]
    shown = f"{small(statistics.median(finite))}, {small(max(finite))}" if finite else ""
    lost = len(errors) - len(finite)
    return shown + (f"{'; ' if shown else ''}**{lost} NaN**" if lost else "")


def small(error: float) -> str:
    """Two digits, and none of what is far below a rounding."""
    return f"{error:.2g}" if error >= 0.01 else "0.00"


def section(kind: str, rows: list[dict[str, Any]]) -> str:
    """The table of a kind: a row for each regime and implementation, columns for value and gradients of each dtype."""
    lines = []
    for regime in dict.fromkeys(row["regime"] for row in rows):
        some = [row for row in rows if row["regime"] == regime]
        everyone = dict.fromkeys(row["who"] for row in some)
        count = sum(row["who"] == some[0]["who"] and row["dtype"] == some[0]["dtype"] for row in some)
        for who in everyone:
            cells = [
                cell([row[what] for row in some if row["who"] == who and row["dtype"] == dtype])
                for dtype in UNITS for what in ("value", "gradient")
            ]  # fmt: skip
            lines.append((regime, f"`{who}`" if who in ("chain", "dd") else who, str(count), *cells))
    titles = [f"{dtype} {what}" for dtype in UNITS for what in ("value", "gradient")]
    return f"## {kind}\n\n{facts.table(('regime', 'implementation', 'samples', *titles), lines, words=2)}\n"


def write(measured: facts.Measured, commit: str, folder: Path) -> None:
    """Write implementations.md."""
    packages = (
        "numpy",
        "scipy",
        "torch",
        "jax",
        "jaxlib",
        "optax",
        "pytorch-metric-learning",
        "ml_dtypes",
        "python-flint",
    )
    rows = measured.rows
    sections = "\n".join(section(kind, [row for row in rows if row["kind"] == kind]) for kind in KINDS)
    page = f"""# Implementations against `certified`

Written by `.ci/record`. What the libraries do with the same numbers, each in its own dtype; curves are in
[pictures](pictures.md).

- Truth: the midpoint of an enclosure to 30 digits, of the inputs as rounded to the dtype; they count as exact.
- Samples are computed one at a time, C = {C}, D = {D}. Heads with a scale have s = 64 where inputs are ordinary, 20 to
  80 where the target is confident, and 4 elsewhere, so that an angle's error is not hidden behind that of 1 - p. m is
  {M:.3f} for ArcFace (28.6 degrees), 0.35 for CosFace, 4 for A-Softmax, whose scale is the length of x.
- Errors are in u of the dtype: 2^-53, 2^-24, 2^-8 (bfloat16), 2^-11 (float16). Of a value relative to itself; of
  gradients the worst row, the largest error in it over its largest true entry. Nothing below the smallest normal number
  of the dtype is divided by. 1/u (9e15, 1.7e7, 256, 2048) is an error of 100 %: a result of 0 has it.
- Each cell is the median and the worst of the samples; results that are not finite are left out of both and counted.
  Truths are finite in every case.
- Angles are those before rounding to the dtype: what float16 and bfloat16 hold is 1e-3 and 1e-2 away from them.
- `chain` and `dd` compute in float64; their results are rounded to the dtype. "acos" is cos(acos(c) + m), "sqrt" is
  c cos m - sqrt(1 - c^2) sin m, with c clamped to [-1, 1] or 1 - c^2 to [0, 1]; "polynomial" is 8c^4 - 8c^2 + 1. PML is
  pytorch-metric-learning, compared with the loss of its own rule: ArcFace with boundary "hard".

- comparisons: {len(rows)}
{facts.lines(measured, commit, packages)}

{sections}"""
    (folder / "implementations.md").write_text(page)
