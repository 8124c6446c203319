"""The truth the suite compares against: every stage and every loss again, in mpmath, from the papers' definitions.

Nothing here comes from refloss: a loss object is read for its public parameters only, and no line is shared. No
derivative of a loss is written down either. Gradients are central differences of the value, (L(v + h) - L(v - h)) / 2h,
in as many digits as the case needs.

How a difference stays exact where the loss is hard:

- Inputs are float64 numbers, hence integers times a power of two. A row is held as integers (`Vector`), and so are the
  squares and dot products of a row and of the same row moved by one step. cos theta = x.w / (|x| |w|) and
  theta = atan2(sqrt(|x|^2 |w|^2 - (x.w)^2), x.w) then start from exact numbers: theta is right to all digits at every
  angle, and "exactly parallel" is the exact statement |x|^2 |w|^2 = (x.w)^2.
- A step is small against whatever the loss can change over: 1, 1/s, theta, pi - theta. Each pair of a sample and a
  class has its own.
- Which side of a boundary the target is on, which classes are hard or among the k nearest, which center is nearest and
  whether a length or a logit is beyond its bounds is decided once, at the unmoved inputs; the moved ones follow that
  branch. A length is compared with its bounds by its square, and a cosine with another one or with a number by the
  squares of both, rational numbers; a cosine with the threshold of hard classes by up to 1400 digits, of which equal
  ones differ in none.
  Exactly parallel to its class, a target has no direction to turn in: its angle is kept as it is. So is that of another
  class whose angle counts.
- softplus(a + h) - softplus(a - h) = log(1 + sigma(a - h) (exp(2h) - 1)), right relative to itself however small.
- With b a reference class (the label, where there is one), the loss of a row is
  L = T log(1 + sum over j != b of exp(z_j - z_b)) + sum over k of t_k (z_b - z_k), T = sum of t_k.
  In L(v + h) - L(v - h) the terms both have in common are left out, so a loss of 1e-300 has a gradient to all digits.

Definitions, with the numbers of papers and equations:

- cross entropy with smoothing, weights and ignore_index as in torch.nn.CrossEntropyLoss;
- softcap, Gemma 2, 2408.00118, section 2: K tanh(z / K); z-loss, PaLM, 2204.02311, section 5: lambda log^2 Z;
- L-Softmax, arXiv 1612.02295, eq. 4-7, and A-Softmax (SphereFace), 1704.08063, eq. 7: psi = (-1)^k cos(m theta) - 2k,
  annealed as (lambda cos theta + psi) / (1 + lambda); with m = 1 the modified softmax;
- NormFace, 1704.06369: s cos theta; CosFace, 1801.09414, eq. 4, and AM-Softmax, 1801.05599: s (cos theta - m);
- ArcFace, 1801.07698, eq. 3: s cos(theta + m), and its combined margin, eq. 4: s (cos(m1 theta + m2) - m3);
- AdaFace, 2204.00964, and MagFace, 2103.06627: margins that depend on the length of x, as clipped as in their code;
- CurricularFace, 2004.00288, and MV-Softmax, 1912.00833: hard classes, of which the cosine is above cos(theta + m) or
  cos theta - m, which classes these are a constant;
- SphereFace-R, 2109.05565: cos min(m theta, pi), or cos theta and cos(theta_j / m) of all other classes;
- circle loss with class weights, 2002.10857: m^2 - (1 - cos theta)^2, and (c_j + m)(c_j - m) of other classes above -m,
  0 of all others; detached, the first factors of (1 + m - c)(c - 1 + m) and of the latter are constants;
- inter-top-k, 2110.05042: cos(theta_j - m') of the k classes with the largest cosines, of equal ones the first, which
  these are a constant;
- SphereFace2, 2108.01513: binary cross entropy of r (g(c) - m) + b of the label and r (g(c) + m) + b of all others,
  with g(c) = 2 ((1 + c) / 2)^t - 1, and lw / r, alpha and 1 - alpha as weights, as in their code; detached, dg/dc is 1;
- UniFace (ICCV 2023), the unified cross-entropy loss of their code: s (c - m) - b and s c - b, held within s, the terms
  of others times l; SigLIP, 2303.15343: t c + b of pairs, both terms alike;
- InfoNCE, 1807.03748: cross entropy of s c of pairs; CLIP, 2103.00020: the mean of that of rows and that of columns;
- Sub-center ArcFace (ECCV 2020): of K centers of a class the one at the smallest angle stands for it, of equal ones
  the first, which one a constant;
- the detached margin, 2109.05565 ("characteristic gradient detachment"): cos theta + stopgrad(psi - cos theta);
- FaceNet's triplet loss, 1503.03832: max(0, |a - p|^2 - |a - n|^2 + m);
- the divergences of Kullback and Leibler, 1951, eq. 2.4, and of Jensen and Shannon (Lin 1991, eq. 4.1).
"""

from support.exact.errors import absolute_terms, row_error, value_error
from support.exact.losses import gradients, value
from support.exact.margins import curve, psi, psi_slope
from support.exact.numbers import GUARD, SMALLEST_NORMAL, UNIT, exact, rows
from support.exact.stages import (
    angle,
    cosine,
    cross_entropy,
    linear,
    log_softmax,
    logits,
    logsumexp,
    normalize,
    softcap,
    softmax,
    triplet,
)
from support.exact.triplets import Triple

__all__ = [
    "GUARD",
    "SMALLEST_NORMAL",
    "UNIT",
    "Triple",
    "absolute_terms",
    "angle",
    "cosine",
    "cross_entropy",
    "curve",
    "exact",
    "gradients",
    "linear",
    "log_softmax",
    "logits",
    "logsumexp",
    "normalize",
    "psi",
    "psi_slope",
    "row_error",
    "rows",
    "softcap",
    "softmax",
    "triplet",
    "value",
    "value_error",
]
