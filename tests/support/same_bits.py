"""Whether a change leaves every bit, message and report as it was.

`python tests/support/same_bits.py record FILE` draws calls of the public names and writes what each of them gives;
`python tests/support/same_bits.py compare FILE` draws them again and lists what is no longer the same. Everything is
drawn here, from public names alone, so that files may move and be renamed: a result is its type, its fields, and the
dtype, shape and bits of its arrays; a refusal its type and message; a warning likewise; a report its text.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

import refloss
from refloss import testing

Random = np.random.Generator
RULES = ("none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min", "conditional")
ENGINES = ("chain", "fused", "dd", "auto", "certified")
DRAWN = 6000
"""How many calls of losses are drawn."""
LARGE_DRAWN = 120
"""How many of these with thousands of classes."""
NAMES = ("AMSoftmax", "ASoftmax", "AccuracyWarning", "ArcFace", "CombinedMargin", "CosFace", "CrossEntropy")
NAMES += ("ModifiedSoftmax", "NormFace", "SoftmaxLoss", "SphereFace", "Triplet")
"""Losses that are drawn; a public name that is new changes no draw."""
LONGEST = 400
"""A text of so many letters is kept, of a longer one its beginning and a digest."""


# ------------------------------------------------------------------------------------------------------------ recording


def described(result: Any) -> Any:
    """Describe a result by everything that must stay as it is."""
    if result is None or isinstance(result, bool | int | str):
        description = result
    elif isinstance(result, float):
        description = result.hex()
    elif isinstance(result, np.generic | np.ndarray):
        array = np.asarray(result)
        content = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        description = f"{type(result).__name__} {array.dtype} {array.shape} {digest}"
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        fields = {name: described(getattr(result, name)) for name in result._fields}
        description = {"type": type(result).__name__} | fields
    elif isinstance(result, tuple | list):
        description = [type(result).__name__, *map(described, result)]
    elif isinstance(result, dict):
        description = {str(name): described(entry) for name, entry in result.items()}
    else:
        description = {"type": type(result).__name__, "repr": shortened(repr(result)), "str": shortened(str(result))}
    return description


def shortened(text: str) -> str:
    """The text, or its beginning and a digest of it."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}… {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, raises, and warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            given = described(call())
        except Exception as error:
            given = {"raised": type(error).__name__, "message": shortened(str(error))}
    said = [f"{warning.category.__name__}: {shortened(str(warning.message))}" for warning in caught]
    return {"given": given, "warned": said} if said else given


# ---------------------------------------------------------------------------------------------------------- drawn calls


def pick(random: Random, *choices: Any) -> Any:
    """Draw one of the choices."""
    return choices[random.integers(len(choices))]


def mostly(random: Random, choices: tuple[Any, ...], wrong: Any) -> Any:
    """Draw one of the choices, or now and then what is refused."""
    return wrong if random.random() < 0.03 else pick(random, *choices)


def drawn_loss(random: Random, classes: int) -> Any:
    """Draw a loss with settings of any kind; some are refused."""
    settings: dict[str, Any] = {"reduction": pick(random, "mean", "sum", "none")}
    name = pick(random, *NAMES, "ArcFace")
    while name == "AccuracyWarning":
        name = pick(random, "CrossEntropy", "SoftmaxLoss", "Triplet")
    if name == "Triplet":
        return lambda: refloss.Triplet(
            m=mostly(random, (0.0, 0.2, 1.0, 1e-20), -1.0), squared=bool(random.random() < 0.5), **settings
        )
    if random.random() < 0.4:
        settings["label_smoothing"] = mostly(random, (0.1, 0.5, 1.0, 1e-17), 1.5)
    if random.random() < 0.3:
        weights = [float(pick(random, 1.0, 0.0, 2.0, 0.5, -1.0)) for _ in range(classes)]
        settings["class_weight"] = weights + mostly(random, ([],), [1.0])
    if random.random() < 0.2:
        settings["ignore_index"] = pick(random, 0, 1, -1)
    if name not in ("CrossEntropy", "SoftmaxLoss"):
        settings["gradient"] = mostly(random, ("exact", "exact", "detached"), "other")
    if name not in ("CrossEntropy", "SoftmaxLoss", "ModifiedSoftmax"):
        settings["s"] = mostly(random, (64.0, 8.0, 1.0, None, None, 1e-3, 1e30), 0.0)
    if name in ("ArcFace", "CombinedMargin"):
        settings["boundary"] = mostly(random, RULES[:-1], RULES[-1])
    if name in ("CosFace", "AMSoftmax"):
        settings["boundary"] = mostly(random, ("none", "none", "conditional"), "hard")
        settings["m"] = mostly(random, (0.35, 0.1, 1.0), 3.0)
    if name in ("ASoftmax", "SphereFace"):
        settings["m"] = pick(random, 1.0, 2.0, 3.0, 4.0, 1.5, 29.7)
        settings["annealing"] = mostly(random, (0.0, 0.0, 5.0), -1.0)
        settings["boundary"] = mostly(random, ("monotone", "none"), "easy")
    if name == "ArcFace":
        settings["m"] = mostly(random, (0.5, 1.0, 3.0, 0.3), 28.6)
    if name == "CombinedMargin":
        settings |= {"m1": pick(random, 1.0, 1.35, 3.0, 12.3), "m2": pick(random, 0.1, 0.3, 2.0)}
        settings["m3"] = pick(random, 0.1, 0.2, 1.0)
    return lambda: getattr(refloss, name)(**settings)


def numbers(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Draw an array: ordinary, of short decimals, equal, huge, tiny, or with something in it that is refused."""
    kind = random.random()
    found = random.standard_normal(shape)
    if kind < 0.2:
        found = np.round(found, 1)
    elif kind < 0.3:
        found = found * 10.0 ** random.uniform(-150.0, 150.0)
    elif kind < 0.4:
        found = found * 10.0 ** random.uniform(-30.0, 30.0, shape)
    elif kind < 0.45:
        found = np.ones(shape) * found.flat[0]
    elif kind < 0.48 and found.size:
        found.flat[random.integers(found.size)] = pick(random, np.nan, np.inf, -np.inf, 0.0)
    elif kind < 0.5:
        found[0] = 0.0
    form = random.random()
    if form < 0.15:
        with np.errstate(over="ignore"):
            return found.astype(np.float32 if form < 0.1 else np.float16)
    if form < 0.2:
        return np.asfortranarray(found)
    if form < 0.25:
        wider = np.zeros((*shape[:-1], 2 * shape[-1]))
        wider[..., ::2] = found
        return wider[..., ::2]
    if form < 0.3:
        return found.tolist()
    return found


def labels(random: Random, n: int, c: int) -> Any:
    """Draw labels; now and then ignored, negative, too large, fractions or a list."""
    y: Any = random.integers(0, c, n)
    kind = random.random()
    if kind < 0.2:
        y[random.random(n) < 0.4] = -100
    elif kind < 0.22:
        y[random.integers(n)] = pick(random, -1, c)
    elif kind < 0.25:
        y = y + pick(random, 0.0, 0.5)
    elif kind < 0.35:
        y = y.tolist()
    return y


def drawn_inputs(random: Random, name: str, n: int, c: int, d: int) -> tuple[Any, ...]:
    """Draw what a loss is called with."""
    if name == "Triplet":
        return tuple(numbers(random, (n, d)) for _ in range(3))
    if name == "CrossEntropy":
        if random.random() < 0.3:
            return numbers(random, (n, c)), random.dirichlet(np.ones(c), n)
        if random.random() < 0.15:
            return numbers(random, (n, 2, c)), random.integers(0, c, (n, 2))
        return numbers(random, (n, c)), labels(random, n, c)
    wrong = random.random() < 0.03
    found = (numbers(random, (n, d)), numbers(random, (d, c) if wrong else (c, d)), labels(random, n, c))
    if name == "SoftmaxLoss" and random.random() < 0.5:
        return (*found, numbers(random, (c,)))
    return found


def drawn_options(random: Random, loss: Any, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Draw how a loss is called."""
    options: dict[str, Any] = {"engine": mostly(random, (*ENGINES, "chain", "fused", "fused"), "fusion")}
    if random.random() < 0.35:
        options["dtype"] = mostly(random, (np.float32, "float32", np.float64), "float16")
    if random.random() < 0.4:
        rows = np.shape(inputs[0])[:-1] if loss.reduction == "none" else ()
        options["upstream"] = mostly(random, (random.standard_normal(rows),), np.ones((7, 7)))
    return options


def in_float32(random: Random, options: dict[str, Any]) -> dict[str, Any]:
    """An engine that knows float32, mostly, where float32 is asked for."""
    if "32" in str(options.get("dtype")):
        options["engine"] = "fused" if random.random() < 0.9 else options["engine"]
    return options


SMALL = [(1, 6, 1, 6, 1, 5)] * 30 + [(30, 90, 40, 130, 8, 40)] * 2
"""Ranges of N, C and D."""
LARGE = [(3, 60, 3000, 9000, 2, 6)] * 10 + [(2500, 3000, 6000, 6500, 2, 4)]
"""Several blocks of classes, and now and then several groups of samples."""


def call(number: int, sizes: list[tuple[int, ...]]) -> tuple[str, Callable[[], Any]]:
    """The call of this number, and what it is."""
    random = np.random.default_rng([18, number])
    low = sizes[random.integers(len(sizes))]
    n, c, d = (int(random.integers(low[2 * place], low[2 * place + 1])) for place in range(3))
    make = drawn_loss(random, c)
    try:
        loss = make()
    except (ValueError, TypeError):
        return "settings", make
    name = type(loss).__name__
    inputs = drawn_inputs(random, name, n, c, d)
    options = in_float32(random, drawn_options(random, loss, inputs))
    if n > 6 and options["engine"] == "certified":
        options["engine"] = "dd"
    if sizes is LARGE:
        options["engine"] = "fused"
    what = pick(random, "value", "grad", "grad", "grad", "wrt", "out", "trace", "bound", "enclose", "budget", "curve")

    def run() -> Any:  # noqa: PLR0911  # one return for each way of calling
        if what == "value":
            return loss(*inputs, **{it: options[it] for it in options if it != "upstream"})
        if what in ("wrt", "out"):
            fields = [it for it in ("x", "w", "b", "z", "anchor", "positive", "negative") if it in field_names(loss)]
            some = pick(random, *fields, "y")
            if what == "wrt":
                return loss.value_and_grad(*inputs, wrt=[some], **options)
            taken = np.empty(np.shape(inputs[0]), dtype=pick(random, np.float64, np.float32))
            given = loss.value_and_grad(*inputs, out={some: taken}, **options)
            return given, taken
        if what == "trace" and c < 1000:
            return loss.trace(*inputs, **{it: options[it] for it in options if it == "upstream"})
        if what == "bound" and c < 1000:
            return refloss.error_bound(loss, *inputs, **options)
        if what == "enclose" and n <= 6:
            return refloss.enclose(loss, *inputs, digits=int(random.integers(10, 40)))
        if what == "budget" and n <= 6:
            return testing.budget(loss, *inputs, dtype=pick(random, "float16", "bfloat16", "float32", "float64"))
        if what == "curve" and hasattr(loss, "target_logit"):
            theta = np.append(random.uniform(0.0, np.pi, 20), [0.0, np.pi, np.pi - 1e-9])
            return loss.target_logit(theta), loss.target_slope(theta)
        return loss.value_and_grad(*inputs, **options)

    return f"{loss} {what} {options.get('engine')} {options.get('dtype')}", run


def field_names(loss: Any) -> tuple[str, ...]:
    """Names of the gradients."""
    return {"CrossEntropy": ("z",), "SoftmaxLoss": ("x", "w", "b"), "Triplet": ("anchor", "positive", "negative")}.get(
        type(loss).__name__, ("x", "w")
    )


def functions(number: int) -> tuple[str, Callable[[], Any]]:
    """A call of the functions that are no losses."""
    random = np.random.default_rng([19, number])
    name = pick(random, "softmax", "log_softmax", "logsumexp", "ulp_error")
    if name == "ulp_error":
        one = random.standard_normal() * 10.0 ** random.uniform(-30, 30)
        other = pick(random, one * (1.0 + 1e-15), 0.0, np.nan, np.inf, "1.5", [one], np.float32(one))
        return name, lambda: refloss.ulp_error(one, other)
    shape = tuple(random.integers(1, 5, random.integers(1, 4)))
    z = numbers(random, shape)
    return name, lambda: getattr(refloss, name)(z, axis=int(random.integers(-3, 3)))


# -------------------------------------------------------------------------------------------------------------- reports


def textbook(x: Any, w: Any, y: Any, *, s: float = 64.0, m: float = 0.5) -> tuple[Any, ...]:
    """ArcFace as many write it, with arccos of a clipped cosine: value, dx, dw, and what goes into them."""
    x, w = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    length_x, length_w = (np.linalg.norm(it, axis=1, keepdims=True) for it in (x, w))
    u, v = x / length_x, w / length_w
    cosine, rows = np.clip(u @ v.T, -1.0, 1.0), np.arange(len(x))
    theta = np.arccos(cosine[rows, y])
    z = s * cosine
    z[rows, y] = s * np.cos(theta + m)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    value = -np.log(p[rows, y]).mean()
    g = p / len(x)
    g[rows, y] -= 1.0 / len(x)
    g = s * g
    with np.errstate(all="ignore"):
        g[rows, y] *= np.sin(theta + m) / np.sin(theta)
    along_x, along_w = g @ v, g.T @ u
    dx = (along_x - (along_x * u).sum(axis=1, keepdims=True) * u) / length_x
    dw = (along_w - (along_w * v).sum(axis=1, keepdims=True) * v) / length_w
    return value, dx, dw


def broken() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Code that is wrong, each in another way; the first is the textbook's."""

    def changed(change: Callable[..., Any], **settings: float) -> Callable[..., Any]:
        return lambda x, w, y: change(*textbook(x, w, y, **settings), y)

    yield "arccos", textbook
    yield "sum", changed(lambda v, dx, dw, y: (v * len(y), dx * len(y), dw * len(y)))
    yield "scale", changed(lambda v, dx, dw, y: (v, dx, dw), s=63.9)
    yield "margin", changed(lambda v, dx, dw, y: (v, dx, dw), m=0.0)
    yield "sign", changed(lambda v, dx, dw, y: (v, dx, -dw))
    yield "zero", changed(lambda v, dx, dw, y: (v, dx * 0.0, dw))
    yield "constant", changed(lambda v, dx, dw, y: (v + 0.1, dx, dw))
    yield "NaN", changed(lambda v, dx, dw, y: (v, dx * np.nan, dw))
    yield "shape", changed(lambda v, dx, dw, y: (v, dx.T, dw))
    yield "no gradients", changed(lambda v, dx, dw, y: v)
    yield "raises", lambda x, w, y: 1 / 0
    yield "writes", lambda x, w, y: (x.__imul__(2.0), textbook(x, w, y))[1]


def command(*words: str) -> tuple[str, Callable[[], Any]]:
    """A command line: what it prints, and how it ends."""

    def run() -> Any:
        from refloss import cli

        printed, told, status = io.StringIO(), io.StringIO(), 0
        argv, sys.argv = sys.argv, ["refloss", *words]
        try:
            with redirect_stdout(printed), redirect_stderr(told):
                cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        finally:
            sys.argv = argv
        return {"status": status, "printed": printed.getvalue(), "told": told.getvalue()}

    return f"refloss {' '.join(words)}", run


def reports() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Reports of whole checks, and what the command line prints."""
    arcface, small = refloss.ArcFace(), {"shapes": [(4, 5, 16)]}
    for name, fn in broken():
        for dtype in ("float32", "float64"):
            yield (
                f"check {name} {dtype}",
                lambda fn=fn, dtype=dtype: testing.check(fn, arcface, dtype=dtype, framework="numpy", **small),
            )
    for name, fn in list(broken())[1:6:2]:
        yield f"properties {name}", lambda fn=fn: testing.properties(fn, arcface, examples=1)
    for loss in (refloss.CrossEntropy(), refloss.SoftmaxLoss(), refloss.CosFace(), refloss.Triplet()):
        call_it = loss.value_and_grad
        for dtype in ("float32", "float64", "float16"):
            yield (
                f"check {loss} {dtype}",
                lambda fn=call_it, loss=loss, dtype=dtype: testing.check(fn, loss, dtype=dtype, framework="numpy"),
            )
        yield f"cases {loss}", lambda loss=loss: [described(list(case)) for case in testing.cases(loss)]
    for setting in (
        {"groups": "ordnary"},
        {"cases": []},
        {"standard": "exact"},
        {"accumulate": "float8"},
        {"dtype": 3},
    ):
        yield f"check {setting}", lambda setting=setting: testing.check(textbook, arcface, **setting)
    x, w, y = [[1.0, 2.0]], [[1.0, 0.0], [0.5, 1.0]], [1]
    value, gradient = arcface.value_and_grad(x, w, y)
    for off in (0.0, 1e-7, 1e-3):
        yield (
            f"assert_close {off}",
            lambda off=off: testing.assert_close(
                arcface, x, w, y, value=value + off, grad_x=gradient.x, dtype="float32"
            ),
        )
    yield command("losses")
    yield command("losses", "--json")
    yield command("demo")
    yield command("cases", "ArcFace")
    yield command("cases", "CrossEntropy", "--json")
    yield command("budget", "ArcFace")
    yield command("budget", "ArcFace", "--json")
    yield command("check", "refloss.testing.naive:arcface", "ArcFace")
    yield command("check", "no.such:code", "ArcFace")
    yield command("--help")
    for name in ("check", "budget", "cases", "demo", "losses"):
        yield command(name, "--help")


def everything() -> dict[str, Any]:
    """Outcomes of all calls, by what they are."""
    found: dict[str, Any] = {}
    for number in range(DRAWN):
        name, run = call(number, SMALL)
        found[f"{number} {name}"] = outcome(run)
    for number in range(LARGE_DRAWN):
        name, run = call(number, LARGE)
        found[f"large {number} {name}"] = outcome(run)
    for number in range(300):
        name, run = functions(number)
        found[f"function {number} {name}"] = outcome(run)
    for name, run in reports():
        found[name] = outcome(run)
    return found


def main() -> int:
    """Record, or compare and say what differs."""
    what, path = sys.argv[1], Path(sys.argv[2])
    now = everything()
    if what == "record":
        path.write_text(json.dumps(now, indent=0))
        raised = sum(isinstance(it, dict) and "raised" in it for it in now.values())
        print(f"{len(now)} calls recorded, {raised} of them refused")
        return 0
    before = json.loads(path.read_text())
    now = json.loads(json.dumps(now))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    for name in differing[:20]:
        print(f"{name}\n  was {before.get(name)}\n  is  {now.get(name)}")
    print(f"{len(before)} calls before, {len(now)} now, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
