"""Arguments and errors of kernels, for the tests of their modules."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from mpmath import mp

from refloss.engines.kernels import exponential, lanes, rows
from refloss.engines.kernels.lanes import LANES

BITS = {np.float64: 53, np.float32: 24}
LEAST = {np.float64: -1074, np.float32: -149}  # the exponent of the smallest subnormal number
NORMAL = {np.float64: (-708.39, 709.0), np.float32: (-87.33, 88.0)}  # where neither x nor exp(x) is subnormal
LENGTHS = (1, 2, LANES - 1, LANES, LANES + 1, 3 * LANES + 5)
both = pytest.mark.parametrize("dtype", [np.float64, np.float32])
lengths = pytest.mark.parametrize("n", LENGTHS)


def is_compiled():
    return isinstance(exponential.exp, numba.core.registry.CPUDispatcher)


def quiet():
    """Plain Python's NumPy numbers warn; compiled ones do not."""
    return np.errstate(all="ignore")


def depth(n):
    """How many additions an entry goes through at most: down its lane, then halves to halves; sections one by one."""
    return math.ceil(n / LANES) + math.ceil(math.log2(min(n, LANES)))


def error_of_sum(computed, terms, bits=53):
    """Error against the exact sum of the terms, in u of the sum of their sizes."""
    size = math.fsum(abs(term) for term in terms) or 1.0
    return abs(math.fsum([float(computed), *(-term for term in terms)])) / size * 2.0**bits


def exponentials_of(x):
    """The exponentials of a row; neither subtracting 0 nor a factor of 1 changes a bit."""
    out = x.copy()
    with quiet():
        if x.dtype == np.float64:
            lanes.exp_sum(out, 0.0, np.ones(len(out)), np.empty(LANES))
        else:
            rows._exp_row(out, np.float32(0.0), out[:0], 0, out, False, np.empty(LANES))
    return out


def arguments(dtype, random, count=1000):
    """Arguments anywhere, next to multiples of log(2) / 2, where the error is largest, and tiny."""
    low, high = NORMAL[dtype]
    halves = np.arange(int(low / math.log(2) * 2), int(high / math.log(2) * 2), 1 if count > 1000 else 7)
    ends = np.array([float(i * mp.log(2) / 2) for i in halves if i], dtype)
    ends = np.concatenate([ends, np.nextafter(ends, dtype(-np.inf)), np.nextafter(ends, dtype(np.inf))])
    worst = math.log(2) * (halves[::2] // 2 - 0.4999 + random.uniform(0.0, 0.02, halves[::2].shape))
    tiny = -np.ldexp(random.uniform(1.0, 2.0, 100), random.integers(-140 if dtype == np.float32 else -1070, 0, 100))
    anywhere = [random.uniform(low, 0.0, count), -random.uniform(0.0, 40.0, count), random.uniform(-1.0, high, count)]
    x = np.concatenate([*(part.astype(dtype) for part in (*anywhere, worst, tiny)), ends])
    return x[(x >= low) & (x <= high)]


def tile_of(random, n, dtype, classes):
    """Products, the factors that make logits of them, and the column of its label for every row except the first."""
    tile = random.standard_normal((n, classes)).astype(dtype)
    alpha = random.uniform(1.0, 20.0, n).astype(dtype)
    beta = random.uniform(0.5, 2.0, classes).astype(dtype)
    bias = random.standard_normal(classes).astype(dtype)
    label_columns = np.array([-1, *random.integers(0, classes, n - 1)])
    return tile, alpha, beta, bias, label_columns


def logits_of(random, dtype, n, classes):
    return (4.0 * random.standard_normal((n, classes))).astype(dtype)


def no_gradient_of_lse(random):
    """No gradient of the log-sum-exp of its own."""
    return np.empty(0), np.empty(0)


def gradient_of_lse(random):
    """Upstream gradients of log-sum-exps, and slopes of a z-loss."""
    return random.standard_normal((2, 6))


def cross_entropies(random, dtype, classes, of_lse=no_gradient_of_lse):
    """Arguments for every way through the kernel: labels, smoothed labels, probabilities; rows that are not kept."""
    for kind in ("labels", "smoothed", "probabilities"):
        for with_gradients in (True, False):
            z = logits_of(random, dtype, 6, classes)
            z[1, :: max(2, classes)], z[4, -1] = -np.inf, np.nan if classes == 1 else 3.0
            z[2] = -np.inf
            if classes > 1:
                z[3, 1] = np.nan
            label = random.integers(0, classes, 6) if kind != "probabilities" else np.full(6, -1)
            if kind != "probabilities":
                label[0] = z[0].argmax()
                label[5] = z[5].argmin()
            label_target = random.uniform(0.5, 2.0, 6).astype(dtype)
            label_target[[1, 2, 3]] = [0.0, 0.0, 1.0]  # of a class that weighs nothing
            targets = random.uniform(0.0, 1.0, ({"labels": 0, "smoothed": 1, "probabilities": 6}[kind], classes))
            targets[:, :: max(2, classes)] = 0.0  # at what is masked in row 1
            row_weight = random.standard_normal(6).astype(dtype)
            kept = np.array([of_lse is no_gradient_of_lse, True, True, True, True, kind != "smoothed"])
            dz = np.full((6 if with_gradients else 1, classes), 7.0, dtype)
            given = z, label, label_target, targets.astype(dtype), row_weight, *of_lse(random)
            yield *given, kept, with_gradients, np.empty(6), np.empty(6), dz
