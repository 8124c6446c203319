"""Products: pieces of any width and sums of any length are within the contract; no bit depends on a BLAS's threads."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.fused import heads, products
from support import checks, exact
from support.checks import agree_with_chain as agree
from support.fused_cases import BLOCKED, U, few_kept, in_blocks, ordinary, path_to_refloss, promised, unit


def test_products_are_cut_into_halves_of_whole_pieces(monkeypatch):
    """Of integers, whose sums are exact; and no piece is longer than it may be."""
    terms = []
    real = np.matmul
    monkeypatch.setattr(
        products.np, "matmul", lambda a, b, out=None: (terms.append(a.shape[1]), real(a, b, out=out))[1]
    )
    monkeypatch.setattr(products, "MAX_TERMS", 4)
    random = np.random.default_rng(0)
    for k in (1, 4, 5, 8, 9, 23):
        a, b = random.integers(-9, 9, (3, k)).astype(float), random.integers(-9, 9, (k, 2)).astype(float)
        terms.clear()
        out = np.empty((3, 2))
        assert products.product(a, b, out) is out
        assert np.array_equal(out, a @ b)
        assert sum(terms) == k
        assert max(terms) <= 4
        assert len(terms) == -(-k // 4)


def test_dots_of_pairs_are_those_of_the_kernel():
    a, b = np.random.default_rng(0).standard_normal((2, 5, 9))
    dots = products.pair_dots(a, b)
    for n in range(5):
        true = sum(map(Fraction.__mul__, map(Fraction, a[n]), map(Fraction, b[n])))
        size = float(np.abs(a[n] * b[n]).sum())
        assert abs(Fraction(dots.hi[n]) + Fraction(dots.lo[n]) - true) <= 22.0 * U * U * size  # (6 + 4 log2 D) u²


@pytest.mark.parametrize("width", [1, 2, 3])
def test_pieces_of_any_width_make_the_same_sums(width, monkeypatch):
    in_blocks(monkeypatch, 3)
    few_kept(monkeypatch, width)
    monkeypatch.setattr(heads, "PLAIN_GROUPS", width)
    for loss in BLOCKED:
        x, w, y = ordinary(17, 7, 5)
        for some in (1, 17):
            agree(loss, x[:some], w, y[:some])
    x, w, y = ordinary(17, 7, 5)
    agree(refloss.SoftmaxLoss(label_smoothing=0.2), x, w, y, np.linspace(-1.0, 1.0, 7))


@pytest.mark.parametrize("groups", [False, True])
def test_a_bias_of_many_equal_samples(groups, monkeypatch):
    """The mean over N equal samples is that of one: p - [k = y] for b, and (p - [k = y]) x for w."""
    n = 80000
    if groups:
        few_kept(monkeypatch)
        n = 4000
    x, w = np.full((n, 8), 0.1), np.outer(np.arange(8.0) - 3.0, np.ones(8)) * 0.1
    _, grad = refloss.SoftmaxLoss().value_and_grad(x, w, np.zeros(n, int), np.zeros(8), engine="fused")
    assert abs(grad.b[0] - -0.9070955448157113) <= promised(n, 8, 8)[1] * U * 2.0 * 0.907
    truth = refloss.SoftmaxLoss().value_and_grad(x[:1], w, [0], np.zeros(8), engine="certified")[1]
    for gradient, true in ((grad.b, truth.b), (grad.w, truth.w)):  # one sample: what is added up is the truth itself
        assert (np.abs(gradient - true) <= promised(n, 8, 8)[1] * U * np.abs(true)).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_many_equal_samples_are_as_one(smoothing, groups, dtype, monkeypatch):
    n = 20000
    if groups:
        few_kept(monkeypatch)
        n = 2000
    random = np.random.default_rng(4)
    x, w = random.standard_normal((1, 5)).astype(dtype), random.standard_normal((7, 5)).astype(dtype)
    for loss in (
        refloss.NormFace(s=1.0, label_smoothing=smoothing),
        refloss.SoftmaxLoss(reduction="sum", label_smoothing=smoothing),
    ):
        some = np.full(n, 3)
        value, grad = loss.value_and_grad(np.repeat(x, n, 0), w, some, engine="fused", dtype=dtype)
        truth, true = loss.value_and_grad(x, w, [3], engine="certified")
        s = max(1.0, checks.scale_of(loss, x, w))
        of_value, of_gradient = promised(n, 7, 5, s)
        scale = n if loss.reduction == "sum" else 1
        assert abs(value - truth * scale) <= of_value * unit(dtype) * truth * scale
        terms = {name: np.array(rows, float)[:, None] for name, rows in exact.absolute_terms(loss, x, w, [3]).items()}
        allowed = 2.0 * of_gradient * unit(dtype)  # 2: terms of targets and others are counted apart
        assert (np.abs(grad.w - true.w * scale) <= allowed * scale * terms["w"]).all()
        assert (np.abs(grad.x - true.x * scale / n) <= allowed * scale / n * terms["x"]).all()


def test_many_equal_classes_share_one_probability():
    """C equal classes: L = log C, p = 1/C, and the gradient of x adds up to 0."""
    c, x, w = 100_000, np.array([[0.3, -0.7, 0.2]]), np.array([[1.0, 2.0, -0.5]])
    loss = refloss.NormFace(s=1.0)
    value, grad = loss.value_and_grad(x, np.repeat(w, c, 0), [0], engine="fused")
    of_value, of_gradient = promised(1, c, 3)
    assert abs(value - np.log(c)) <= of_value * U * value
    one = 2.0 * loss.value_and_grad(x, np.repeat(w, 2, 0), [0], engine="certified")[1].w[1]  # 1/2 of the tangent
    terms = 1.0 / np.linalg.norm(w)
    assert np.abs(grad.w[1:] * c - one).max() <= of_gradient * U * terms
    assert np.abs(grad.w[0] + one * (1.0 - 1.0 / c)).max() <= of_gradient * U * terms
    assert np.abs(grad.x).max() <= of_gradient * U * 2.0 / np.linalg.norm(x)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows", [1, 300])
def test_sums_of_lanes_are_no_longer_than_sections(dtype, rows):
    """Confident samples have no loss but the sum over 40,000 equal classes, 1.2e-5 of the target."""
    c, d = 40_000, 4
    x, w = np.zeros((rows, d), dtype), np.full((c, d), 0.5, dtype)
    x[:, 0], w[0] = 1.0, [1.0, 0.0, 0.0, 0.0]
    s = 44.0
    value = refloss.NormFace(s=s)(x, w, np.zeros(rows, int), engine="fused", dtype=dtype)
    true = np.log1p((c - 1.0) * np.exp(-s / 2.0))
    assert abs(value - true) <= promised(rows, c, d, s)[0] * unit(dtype) * true


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sums_over_thousands_of_dimensions(dtype):
    """Constant vectors, of which a plain sum may lose D u; the truth from the few different entries there are."""
    d, half = 16384, 8192
    x, w = np.full((3, d), 0.1, dtype), np.full((2, d), 0.3, dtype)
    w[1, half:] = 0.1
    loss = refloss.NormFace(s=16.0)
    value, grad = loss.value_and_grad(x, w, [0, 0, 1], engine="fused", dtype=dtype)
    with mp.workdps(40):
        a, b = mpf(float(w[1, 0])), mpf(float(w[1, -1]))
        length = mp.sqrt(half * (a * a + b * b))
        cos = half * (a + b) / (mp.sqrt(d) * length)
        p = 1 / (1 + mp.exp(16 * (cos - 1)))  # of the class along x
        loss_of = [-mp.log(p), -mp.log(p), -mp.log(1 - p)]
        true = mp.fsum(loss_of) / 3
        of_value, of_gradient = promised(3, 2, d, 16.0)
        assert abs(mpf(float(value)) - true) <= of_value * unit(dtype) * true
        dcos = 16 * (2 * (1 - p) - p) / 3
        terms = 16 * (2 * (1 - p) + p) / 3 / length
        for i, entry in ((0, a), (d - 1, b)):
            tangent = 1 / mp.sqrt(d) - cos * entry / length
            assert abs(mpf(float(grad.w[1, i])) - dcos / length * tangent) <= of_gradient * unit(dtype) * terms


BLAS_THREADS = """
import hashlib
import numpy as np
import refloss

random = np.random.default_rng(0)
x, w = random.standard_normal((3, 20001)), random.standard_normal((5, 20001))
digest = hashlib.sha256()
for loss in (refloss.ArcFace(), refloss.SoftmaxLoss(), refloss.ModifiedSoftmax()):
    for dtype in (np.float64, np.float32):
        value, grad = loss.value_and_grad(x / 100.0, w / 100.0, [0, 1, 4], engine="fused", dtype=dtype)
        for part in (value, grad.x, grad.w):
            digest.update(part.tobytes())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_the_threads_of_the_blas():
    digests = {
        subprocess.run(
            [sys.executable, "-c", BLAS_THREADS],
            env=path_to_refloss(OPENBLAS_NUM_THREADS=threads, OMP_NUM_THREADS=threads),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(digests) == 1
