r"""How far each stage of a correct implementation may be from the truth, entry by entry.

A first-order analysis of the forward error of every stage of the picture. All magnitudes are those of the true values,
and every rounding is at its worst. Symbols are those of the stages. K_n is the error of a sum of n terms of one sign in
units of u: n, or less where sums are accumulated in a wider dtype. Where signs differ, no partial sum is larger than
the sum of the positive terms or that of the negative ones: see `Arithmetic.sum_error`. The page on budgets derives the
formulas, and the suite evaluates those that it shows.

These count as correct: any order of summation; cosines from rounded directions; an angle within a few u, as by atan2
(arccos is as good for angles that are not small); cos mθ from the angle or as a polynomial in cos θ; cos(θ+m) from the
angle or by the addition formula. An arccos near 0 or π does not, since it loses digits there that atan2 keeps. The
standard says how accurate log p, or a softplus, has to be: see `refloss.testing.budgets`.
"""

from refloss.testing.errors.angle import angle_error, arccos_error
from refloss.testing.errors.arithmetic import UNKNOWN, Arithmetic
from refloss.testing.errors.bias import Biased, bias_error
from refloss.testing.errors.binary_cross_entropy import Answers, binary_cross_entropy_error, total_error
from refloss.testing.errors.centers import Centers, Pairs, centers_error, turn
from refloss.testing.errors.class_angles import Others, Turned, class_angles_error, others_of, turned_error
from refloss.testing.errors.cosine import Head, cosine_error
from refloss.testing.errors.cross_entropy import Rows, cross_entropy_error, log_sum_exp_error
from refloss.testing.errors.divergence import Divergences, divergence_error
from refloss.testing.errors.margin import (
    POLYNOMIALS,
    TargetError,
    chord_error,
    circle_error,
    margin_error,
    polynomial_error,
)
from refloss.testing.errors.negatives import NegativesError, negatives_error, threshold_error
from refloss.testing.errors.normalize import Side, normalize_error, scale_error
from refloss.testing.errors.power import power_error
from refloss.testing.errors.quality import (
    Held,
    SampleMargins,
    length_error,
    margins_error,
    quality_error,
    regularizer_error,
)
from refloss.testing.errors.softcap import Capped, softcap_error
from refloss.testing.errors.triplet import Triplets, triplet_error
from refloss.testing.errors.two_way import Ways, two_way_error

__all__ = [
    "POLYNOMIALS",
    "UNKNOWN",
    "Answers",
    "Arithmetic",
    "Biased",
    "Capped",
    "Centers",
    "Divergences",
    "Head",
    "Held",
    "NegativesError",
    "Others",
    "Pairs",
    "Rows",
    "SampleMargins",
    "Side",
    "TargetError",
    "Triplets",
    "Turned",
    "Ways",
    "angle_error",
    "arccos_error",
    "bias_error",
    "binary_cross_entropy_error",
    "centers_error",
    "chord_error",
    "circle_error",
    "class_angles_error",
    "cosine_error",
    "cross_entropy_error",
    "divergence_error",
    "length_error",
    "log_sum_exp_error",
    "margin_error",
    "margins_error",
    "negatives_error",
    "normalize_error",
    "others_of",
    "polynomial_error",
    "power_error",
    "quality_error",
    "regularizer_error",
    "scale_error",
    "softcap_error",
    "threshold_error",
    "total_error",
    "triplet_error",
    "turn",
    "turned_error",
    "two_way_error",
]
