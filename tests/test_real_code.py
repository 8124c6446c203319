"""Public code tested against refloss, unchanged: each loss at its own standard, and the known failures by name.

`ROWS` holds what conforms, in which dtype and by which standard. The page docs/testing/libraries.md shows the same
rows, and a test compares the two. The failures follow, each with what the report has to say of it.
"""

from __future__ import annotations

import importlib.util
import math
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial, wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import refloss
from refloss.testing import Report, Shape, assert_conforms, cases, check

PAGE = Path(__file__).parents[1] / "docs/testing/libraries.md"
DTYPES = ("float16", "bfloat16", "float32", "float64")


# -------------------------------------------------------------------------------- how each library's losses are called


def of_module(make: Callable[[int, int], Any], name: str, turned: bool = False) -> Callable[..., Any]:
    """Call a module that owns its weights with other weights in their place.

    `make` builds the module for C classes and D dimensions, `name` is the parameter, and `turned` says that it is
    (D, C).
    """
    module_of = cache(make)

    def fn(x, w, y):
        import torch

        module = module_of(w.shape[0], w.shape[1])
        return torch.func.functional_call(module, {name: w.T if turned else w}, (x, y))

    return fn


def functional() -> Any:
    import torch

    return torch.nn.functional


def cross_entropy(weight: tuple[float, ...] = (), **settings: Any) -> Callable[..., Any]:
    def fn(z, y):
        weighted = {"weight": z.new_tensor(weight)} if weight else {}
        return functional().cross_entropy(z, y, **settings, **weighted)

    return fn


def linear_cross_entropy(reduction: str = "mean", **options: Any) -> Callable[..., Any]:
    """torch's fused head; without options it is a linear layer and a cross entropy."""

    def fn(x, w, y, b=None):
        import torch

        chosen = torch.nn.LinearCrossEntropyOptions(**options) if options else None
        return functional().linear_cross_entropy(x, w, y, linear_bias=b, reduction=reduction, options=chosen)

    return fn


def linear_head(c: int, d: int) -> Any:
    import torch

    return torch.nn.LinearCrossEntropyLoss(d, c)


def upcast(z, y):
    return functional().cross_entropy(z.float(), y)


def triplet(a, p, n):
    return functional().triplet_margin_loss(a, p, n, margin=0.2, eps=0.0)


def kl_div(z, target):
    log_q, log_p = (functional().log_softmax(logits, 1) for logits in (z, target))
    return functional().kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def triplet_with_distance(a, p, n):
    def squared(a, b):
        return (a - b).square().sum(-1)

    return functional().triplet_margin_with_distance_loss(a, p, n, distance_function=squared, margin=0.2)


def pml(name: str, **settings: Any) -> Callable[..., Any]:
    """A loss of pytorch-metric-learning, whose weights are (D, C)."""

    def make(c, d):
        from pytorch_metric_learning import losses

        return getattr(losses, name)(num_classes=c, embedding_size=d, **settings)

    inner = of_module(make, "W", turned=True)

    def fn(x, w, y):
        with warnings.catch_warnings():  # numpy 2 wants more arguments of __array_wrap__ than torch's has
            warnings.simplefilter("ignore", DeprecationWarning)
            return inner(x, w, y)

    return fn


def pml_triplet(a, p, n):
    """pytorch-metric-learning's triplets by their indices, over all of them and not those above 0 alone."""
    import torch
    from pytorch_metric_learning import distances, losses, reducers

    loss = losses.TripletMarginLoss(
        margin=0.2, distance=distances.LpDistance(normalize_embeddings=False), reducer=reducers.MeanReducer()
    )
    first = torch.arange(len(a))
    return loss(torch.cat([a, p, n]), indices_tuple=(first, first + len(a), first + 2 * len(a)))


@cache
def timm_losses() -> ModuleType:
    """timm's file of these losses: it needs torch alone, while `import timm` wants torchvision too."""
    folder = Path(importlib.util.find_spec("timm").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("timm_cross_entropy", folder / "loss" / "cross_entropy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timm_smoothed(z, y):
    return timm_losses().LabelSmoothingCrossEntropy(smoothing=0.1)(z, y)


def timm_soft(z, y):
    """Labels as rows of 0 and 1, which is how this loss takes them."""
    t = y if y.is_floating_point() else functional().one_hot(y, z.shape[1]).to(z.dtype)
    return timm_losses().SoftTargetCrossEntropy()(z, t)


def hugging_face(name: str) -> Callable[..., Any]:
    from transformers.loss import loss_utils

    return getattr(loss_utils, name)


def causal_lm(z, y):
    """A sequence whose labels are shifted by one place: the last logits belong to none."""
    sequence, labels = functional().pad(z, (0, 0, 0, 1)), functional().pad(y, (1, 0), value=-100)
    return hugging_face("ForCausalLMLoss")(sequence[None], labels[None], vocab_size=z.shape[1])


def masked_lm(z, y):
    return hugging_face("ForMaskedLMLoss")(z, y, vocab_size=z.shape[1])


def accumulated(z, y):
    """As the Trainer has it: the sum, over the number of labels that count in all batches of the step."""
    return hugging_face("fixed_cross_entropy")(z, y, num_items_in_batch=(y != -100).sum())


def sequence_classification(z, y):
    return hugging_face("ForSequenceClassificationLoss")(
        y, z, SimpleNamespace(num_labels=z.shape[1], problem_type="single_label_classification")
    )


def token_classification(z, y):
    return hugging_face("ForTokenClassification")(z, y, SimpleNamespace(num_labels=z.shape[1]))


def label_smoother(z, y):
    from transformers.trainer_pt_utils import LabelSmoother

    return LabelSmoother(epsilon=0.1)({"logits": z}, y)


def am_softmax(c: int, d: int) -> Any:
    from transformers.models.wavlm.modeling_wavlm import AMSoftmaxLoss

    return AMSoftmaxLoss(input_dim=d, num_labels=c)


def jitted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn under jax.jit, which takes less time to compile than its operations one by one."""

    @cache
    def compiled():
        import jax

        return jax.jit(fn)

    @wraps(fn)
    def call(*arrays):
        return compiled()(*arrays)

    return call


@jitted
def optax_labels(z, y):
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(z, y)


def one_hot(name: str, smoothing: float = 0.0) -> Callable[..., Any]:
    """A loss of optax that takes probabilities: labels become rows of 0 and 1."""

    @jitted
    def of_probabilities(z, t):
        import optax

        return getattr(optax, name)(z, optax.smooth_labels(t, smoothing) if smoothing else t)

    def fn(z, y):  # one_hot under the same jax.jit would be fused with the product: a mask's NaN is then not seen
        import jax

        return of_probabilities(z, y if y.ndim == z.ndim else jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype))

    return fn


@jitted
def optax_triplet(a, p, n):
    import optax

    return optax.losses.triplet_margin_loss(a, p, n, margin=0.2, eps=0.0)


@jitted
def jax_log_softmax(z, y):
    import jax

    return -jax.nn.log_softmax(z)[jax.numpy.arange(len(z)), y].mean()


@jitted
def jax_log_sum_exp(z, y):
    import jax

    return (jax.nn.logsumexp(z, axis=-1) - z[jax.numpy.arange(len(z)), y]).mean()


@jitted
def jax_linear(x, w, y, b=0.0):
    return jax_log_softmax(x @ w.T + b, y)


def on_labels(z, y):
    return z[np.arange(len(y)), y]


def scipy_gradient(z, y):
    from scipy import special

    return (special.softmax(z, axis=1) - np.eye(z.shape[1], dtype=z.dtype)[y]) / z.dtype.type(len(y))


def scipy_log_softmax(z, y):
    from scipy import special

    return -on_labels(special.log_softmax(z, axis=1), y).mean(), scipy_gradient(z, y)


def scipy_log_sum_exp(z, y):
    from scipy import special

    return (special.logsumexp(z, axis=1) - on_labels(z, y)).mean(), scipy_gradient(z, y)


def half_multinomial(z, y):
    """scikit-learn's loss of logistic regression and gradient boosting: labels are of the dtype of the logits."""
    from sklearn._loss import HalfMultinomialLoss

    return HalfMultinomialLoss(n_classes=z.shape[1]).loss_gradient(y.astype(z.dtype), np.ascontiguousarray(z))


def onnx_cross_entropy(weight: tuple[float, ...] = (), **attributes: Any) -> Callable[..., Any]:
    """The operator SoftmaxCrossEntropyLoss of ONNX, as a model of one node, on the CPU."""

    @cache
    def session(kind):
        import onnxruntime
        from onnx import helper

        number = helper.np_dtype_to_tensor_dtype(kind)
        whole = helper.np_dtype_to_tensor_dtype(np.dtype("int64"))
        node = helper.make_node(
            "SoftmaxCrossEntropyLoss", ["z", "y", "v"][: 3 if weight else 2], ["loss"], **attributes
        )
        graph = helper.make_graph(
            [node],
            "one node",
            [
                helper.make_tensor_value_info("z", number, ["N", "C"]),
                helper.make_tensor_value_info("y", whole, ["N"]),
            ],
            [helper.make_tensor_value_info("loss", number, ["N"] if attributes.get("reduction") == "none" else [])],
            [helper.make_tensor("v", number, [len(weight)], weight)] if weight else [],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what it raises is enough
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def fn(z, y):
        return session(z.dtype).run(None, {"z": z, "y": y.astype(np.int64)})[0]

    return fn


# ----------------------------------------------------------------------------------------------------- what conforms


class Row(NamedTuple):
    """A public loss, the loss of refloss that it is, and the standard that it meets."""

    library: str
    """The heading it stands under on the page."""
    code: str
    """What a user of the library writes."""
    fn: Callable[..., Any]
    """The same, as `check` calls it."""
    loss: Any
    standards: dict[str, str]
    """By dtype."""
    settings: dict[str, Any] = {}  # noqa: RUF012 (nothing writes into it)
    """Of `check`."""


LIBRARIES = {  # heading: framework, packages
    "PyTorch": ("torch", "torch"),
    "pytorch-metric-learning": ("torch", "pytorch_metric_learning"),
    "timm": ("torch", "timm"),
    "Transformers": ("torch", "transformers"),
    "JAX": ("jax", "jax"),
    "optax": ("jax", "optax"),
    "SciPy": ("numpy", "scipy"),
    "scikit-learn": ("numpy", "sklearn"),
    "ONNX Runtime": ("numpy", "onnxruntime", "onnx"),
}


def without(dtype: str, standards: dict[str, str]) -> dict[str, str]:
    return {name: standard for name, standard in standards.items() if name != dtype}


STABLE = dict.fromkeys(DTYPES, "stable")
WORKING = dict.fromkeys(DTYPES, "working")
HALVES_MIXED = STABLE | {"float16": "mixed", "bfloat16": "mixed"}
HALVES_FUSED = STABLE | {"float16": "fused", "bfloat16": "fused"}
IN_FLOAT32 = {"float16": "mixed", "bfloat16": "mixed", "float32": "stable"}

FEW = ((9, 7, 13), (2, 2, 3))  # for JAX, which compiles for each shape, and for margins, which take time
SOFT, NO_IGNORED, VALUE = {"soft": True}, {"ignored": False}, {"gradients": False}
MASKED = {"boundary-masked": "0 times the log of a probability of 0 is NaN"}
COINCIDING = dict.fromkeys(
    ("boundary-edge-0.75", "boundary-edge-1.25", "hard-on-positive", "hard-on-negative", "hard-all-one"),
    "the slope of the root at 0 is infinite, and times 0 it is NaN",
)

CrossEntropy, SoftmaxLoss, Triplet = refloss.CrossEntropy, refloss.SoftmaxLoss, refloss.Triplet
WEIGHT = (1.0, 0.5, 2.0, 0.0, 3.0)
HARD_ARCFACE = refloss.ArcFace(m=math.radians(28.6), boundary="hard")

TABLE: dict[str, list[tuple[Any, ...]]] = {
    "PyTorch": [
        ("F.cross_entropy(z, y)", cross_entropy(), CrossEntropy(), STABLE, SOFT),
        *(
            (f"F.cross_entropy(z, y, {said})", cross_entropy(**settings), CrossEntropy(**settings), STABLE, SOFT)
            for said, settings in (
                ('reduction="sum"', {"reduction": "sum"}),
                ('reduction="none"', {"reduction": "none"}),
                ("label_smoothing=0.1", {"label_smoothing": 0.1}),
            )
        ),
        ("F.cross_entropy(z, y, ignore_index=3)", cross_entropy(ignore_index=3), CrossEntropy(ignore_index=3), STABLE),
        (
            "F.cross_entropy(z, y, weight=v)",
            cross_entropy(weight=WEIGHT),
            CrossEntropy(class_weight=WEIGHT),
            STABLE,
            SOFT,
        ),
        ("F.cross_entropy(z.float(), y)", upcast, CrossEntropy(), IN_FLOAT32, SOFT),
        ("F.linear_cross_entropy(x, w, y)", linear_cross_entropy(), SoftmaxLoss(), STABLE),
        (
            "F.linear_cross_entropy(x, w, y, options=O())",
            linear_cross_entropy(acc_policy="auto"),
            SoftmaxLoss(),
            HALVES_MIXED,
        ),
        (
            "F.linear_cross_entropy(x, w, y, options=O(chunking_method=None))",
            linear_cross_entropy(chunking_method=None),
            SoftmaxLoss(),
            HALVES_FUSED | {"bfloat16": "mixed"},
        ),
        (
            'F.linear_cross_entropy(x, w, y, reduction="none", options=O(chunking_method=None))',
            linear_cross_entropy(reduction="none", chunking_method=None),
            SoftmaxLoss(reduction="none"),
            HALVES_FUSED,
        ),
        *(
            (
                f'F.linear_cross_entropy(x, w, y, options=O(acc_policy="{policy}"))',
                linear_cross_entropy(acc_policy=policy),
                SoftmaxLoss(),
                STABLE,
            )
            for policy in ("accurate", "balanced", "compact")
        ),
        ("nn.LinearCrossEntropyLoss(D, C)", of_module(linear_head, "linear.weight"), SoftmaxLoss(), STABLE),
        ("F.triplet_margin_loss(a, p, n, margin=0.2, eps=0)", triplet, Triplet(squared=False), WORKING),
        (
            "F.triplet_margin_with_distance_loss(a, p, n, distance_function=squared, margin=0.2)",
            triplet_with_distance,
            Triplet(),
            WORKING,
        ),
        (
            'F.kl_div(F.log_softmax(z, 1), F.log_softmax(target, 1), reduction="batchmean", log_target=True)',
            kl_div,
            refloss.KLDivergence(),
            STABLE,
        ),
    ],
    "pytorch-metric-learning": [
        ("CosFaceLoss(margin=0.35, scale=64)", pml("CosFaceLoss"), refloss.CosFace(), STABLE, NO_IGNORED),
        (
            "NormalizedSoftmaxLoss(temperature=1 / 64)",
            pml("NormalizedSoftmaxLoss", temperature=1 / 64),
            refloss.NormFace(),
            STABLE,
            NO_IGNORED,
        ),
        (
            "ArcFaceLoss(margin=28.6, scale=64)",
            pml("ArcFaceLoss"),
            HARD_ARCFACE,
            STABLE,
            NO_IGNORED | {"groups": ("ordinary", "boundary")},
        ),
        ("SphereFaceLoss(margin=4, scale=1)", pml("SphereFaceLoss"), refloss.ASoftmax(), STABLE, NO_IGNORED),
        (
            "TripletMarginLoss(margin=0.2, distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer())",
            pml_triplet,
            Triplet(squared=False),
            {"float32": "working", "float64": "working"},
            {"shapes": ((5, 1, 9), (2, 1, 3))},
        ),
    ],
    "timm": [
        ("LabelSmoothingCrossEntropy()", timm_smoothed, CrossEntropy(label_smoothing=0.1), STABLE, NO_IGNORED),
        ("SoftTargetCrossEntropy()", timm_soft, CrossEntropy(), STABLE, NO_IGNORED | SOFT | {"xfail": MASKED}),
    ],
    "Transformers": [
        ("fixed_cross_entropy(z, y, num_items_in_batch=n)", accumulated, CrossEntropy(), STABLE),
        ("ForCausalLMLoss(z, y, vocab_size=C)", causal_lm, CrossEntropy(), IN_FLOAT32),
        ("ForMaskedLMLoss(z, y, vocab_size=C)", masked_lm, CrossEntropy(), IN_FLOAT32),
        ("ForTokenClassification(z, y, config)", token_classification, CrossEntropy(), IN_FLOAT32),
        ("ForSequenceClassificationLoss(y, z, config)", sequence_classification, CrossEntropy(), STABLE),
        (
            'LabelSmoother()({"logits": z}, y)',
            label_smoother,
            CrossEntropy(label_smoothing=0.1),
            without("float64", STABLE),
        ),
        (
            "AMSoftmaxLoss(D, C)",
            of_module(am_softmax, "weight", turned=True),
            refloss.AMSoftmax(s=30, m=0.4),
            STABLE,
            NO_IGNORED,
        ),
    ],
    "JAX": [
        ("-jax.nn.log_softmax(z)[each, y].mean()", jax_log_softmax, CrossEntropy(), STABLE, NO_IGNORED),
        ("(jax.nn.logsumexp(z, axis=1) - z[each, y]).mean()", jax_log_sum_exp, CrossEntropy(), WORKING, NO_IGNORED),
        ("-jax.nn.log_softmax(x @ w.T + b)[each, y].mean()", jax_linear, SoftmaxLoss(), STABLE, NO_IGNORED),
    ],
    "optax": [
        (
            "softmax_cross_entropy_with_integer_labels(z, y)",
            optax_labels,
            CrossEntropy(reduction="none"),
            WORKING,
            NO_IGNORED,
        ),
        (
            "softmax_cross_entropy(z, t)",
            one_hot("softmax_cross_entropy"),
            CrossEntropy(reduction="none"),
            STABLE,
            NO_IGNORED | SOFT | {"xfail": MASKED},
        ),
        (
            "safe_softmax_cross_entropy(z, t)",
            one_hot("safe_softmax_cross_entropy"),
            CrossEntropy(reduction="none"),
            STABLE,
            NO_IGNORED | SOFT,
        ),
        (
            "softmax_cross_entropy(z, smooth_labels(t, 0.1))",
            one_hot("softmax_cross_entropy", smoothing=0.1),
            CrossEntropy(reduction="none", label_smoothing=0.1),
            STABLE,
            NO_IGNORED | SOFT,
        ),
        (
            "triplet_margin_loss(a, p, n, margin=0.2, eps=0)",
            optax_triplet,
            Triplet(squared=False, reduction="none"),
            WORKING,
            {"xfail": COINCIDING},
        ),
    ],
    "SciPy": [
        (
            "-log_softmax(z, axis=1)[each, y].mean()",
            scipy_log_softmax,
            CrossEntropy(),
            without("bfloat16", STABLE),
            NO_IGNORED,
        ),
        (
            "(logsumexp(z, axis=1) - z[each, y]).mean()",
            scipy_log_sum_exp,
            CrossEntropy(),
            without("bfloat16", WORKING),
            NO_IGNORED,
        ),
    ],
    "scikit-learn": [
        (
            "HalfMultinomialLoss(n_classes=C).loss_gradient(y, z)",
            half_multinomial,
            CrossEntropy(reduction="none"),
            {"float32": "working", "float64": "working"},
            NO_IGNORED,
        ),
    ],
    "ONNX Runtime": [
        ("SoftmaxCrossEntropyLoss", onnx_cross_entropy(), CrossEntropy(), without("bfloat16", STABLE), VALUE),
        (
            'SoftmaxCrossEntropyLoss(reduction="none")',
            onnx_cross_entropy(reduction="none"),
            CrossEntropy(reduction="none"),
            without("bfloat16", STABLE | {"float16": "mixed"}),
            VALUE,
        ),
        (
            "SoftmaxCrossEntropyLoss(weights=v)",
            onnx_cross_entropy(WEIGHT),
            CrossEntropy(class_weight=WEIGHT),
            without("bfloat16", STABLE),
            VALUE,
        ),
        (
            "SoftmaxCrossEntropyLoss(ignore_index=3)",
            onnx_cross_entropy(ignore_index=3),
            CrossEntropy(ignore_index=3),
            without("bfloat16", STABLE),
            VALUE,
        ),
    ],
}
ROWS = [Row(library, *row) for library, rows in TABLE.items() for row in rows]


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Make a library ready, or skip; its framework comes back."""

    def ready(name: str) -> str:
        framework, *packages = LIBRARIES[name]
        for package in packages:
            if importlib.util.find_spec(package) is None:  # one that is there and does not load is a failure
                pytest.skip(f"{package} is not installed")
        if framework != "numpy":
            request.getfixturevalue(framework)
        return framework

    return ready


@pytest.mark.parametrize(
    ("row", "dtype"),
    [pytest.param(row, dtype, id=f"{row.library}-{row.code}-{dtype}") for row in ROWS for dtype in row.standards],
)
def test_it_conforms_at_its_standard(row, dtype, library):
    framework, standard = library(row.library), row.standards[dtype]
    few = {"shapes": FEW} if framework == "jax" or row.loss.spec.head == "margin" else {}
    report = check(row.fn, row.loss, framework=framework, dtype=dtype, standard=standard, **few, **row.settings)
    assert report.passed, str(report)
    if row.settings != VALUE:  # a value alone often meets the next standard too, by chance
        assert report.meets == standard, str(report)


# ------------------------------------------------------------------------------------------- known failures, by name


def causes(report: Report) -> list[str]:
    """What a report takes for the causes, without the advice."""
    return [said.split(":")[0] for said in report.diagnoses]


def failed(report: Report) -> set[str]:
    """Names of the cases that failed, `range` aside."""
    return {result.case.name for result in report.results if result.status == "failed" and result.case.group != "range"}


def test_jax_knows_no_ignored_labels_and_optax_loses_what_is_small(library):
    loss = refloss.CrossEntropy(reduction="none")
    report = check(optax_labels, loss, framework=library("optax"), shapes=FEW)
    assert failed(report) == {"boundary-ignored", "boundary-all-ignored"}
    assert any("labels are to be ignored" in said for said in report.diagnoses)
    assert "boundary-ignored" in failed(check(jax_log_softmax, refloss.CrossEntropy(), framework="jax", shapes=FEW))
    report = check(optax_labels, loss, framework="jax", standard="relative", shapes=FEW, **NO_IGNORED)
    assert "hard-confident-30" in failed(report)  # 0 where the truth is 1e-13


def test_masked_classes_are_nan_where_their_probability_is_multiplied(library):
    report = check(timm_soft, refloss.CrossEntropy(), framework=library("timm"), groups="boundary", **NO_IGNORED)
    assert failed(report) == {"boundary-masked"}
    assert "NaN" in str(report)


def test_pytorch_metric_learning_counts_ignored_rows(library):
    fn = pml("NormalizedSoftmaxLoss", temperature=1 / 64)
    report = check(fn, refloss.NormFace(), framework=library("pytorch-metric-learning"), groups="boundary")
    assert causes(report) == ["ignored rows are counted in the mean"]


def test_the_arccos_of_pytorch_metric_learning_is_found_and_named(library):
    settings = {"framework": library("pytorch-metric-learning"), "shapes": FEW} | NO_IGNORED
    report = check(pml("ArcFaceLoss"), HARD_ARCFACE, **settings)
    assert report.verdicts["hard"] == "failed"
    assert all(name.startswith(("hard-theta", "hard-rivals")) for name in failed(report))
    assert causes(report) == ["only where targets are within 0.3 rad of their class or its opposite"]
    other = check(pml("ArcFaceLoss"), refloss.ArcFace(m=HARD_ARCFACE.m), groups=("ordinary", "boundary"), **settings)
    assert any("boundary='hard'" in said for said in other.diagnoses)


def test_the_distances_of_pytorch_metric_learning_differ_with_dtype_and_number(library):
    """Nine triplets are 27 points: torch.cdist then takes |a|² + |p|² - 2 a·p, which near points do not survive."""
    settings = {"framework": library("pytorch-metric-learning"), "shapes": ((9, 1, 13), (5, 1, 9))}
    report = check(pml_triplet, refloss.Triplet(squared=False), **settings)
    assert {"hard-near", "hard-far"} <= failed(report)
    assert all(result.case.id.endswith("-9x1x13") for result in report.results if result.status == "failed")
    report = check(pml_triplet, refloss.Triplet(squared=False), dtype="float16", standard="mixed", **settings)
    assert "hard-near" in failed(report)  # 1e-6 in every coordinate
    few = settings | {"shapes": (5, 1, 9)}
    report = check(pml_triplet, refloss.Triplet(squared=False), dtype="bfloat16", **few)
    assert all("not implemented" in result.error for result in report.results)


@pytest.mark.parametrize("fn", [causal_lm, masked_lm, token_classification])
def test_transformers_computes_float64_in_float32(fn, library):
    report = check(fn, refloss.CrossEntropy(), framework=library("Transformers"), dtype="float64")
    assert "ordinary-random" in failed(report)
    assert causes(report)[0] == "as float32 would give"


def test_transformers_adds_up_smoothed_targets_in_float32(library):
    settings = {"framework": library("Transformers"), "dtype": "float64", "groups": "ordinary"}
    assert not check(label_smoother, refloss.CrossEntropy(label_smoothing=0.1), **settings)


@pytest.mark.parametrize("function", ["triplet_margin_loss", "triplet_margin_with_distance_loss"])
def test_torch_adds_1e_6_to_every_coordinate(function, library):
    framework = library("PyTorch")
    default = partial(getattr(functional(), function), margin=0.2)
    report = check(default, refloss.Triplet(squared=False), framework=framework)
    assert {"ordinary-random", "hard-near"} <= failed(report)


def test_log_loss_of_probabilities_is_cut_off(library):
    """scikit-learn's metric takes probabilities, none of them below eps: no loss is above 36."""
    library("scikit-learn")

    def fn(z, y):
        from scipy.special import softmax
        from sklearn.metrics import log_loss

        return log_loss(y, softmax(z, axis=1), labels=np.arange(z.shape[1]))

    report = check(fn, refloss.CrossEntropy(), dtype="float64", **NO_IGNORED, **VALUE)
    assert failed(report) == {"hard-wrong-120", "hard-wrong-800"}
    assert "probabilities vanish: take log_softmax, not the log of a softmax" in report.diagnoses[0]


def test_a_detached_margin_is_found_and_named(torch):
    def insightface(x, w, y):
        """As InsightFace's arcface_torch has it since 2022: the margin under no_grad, none of a rule."""
        f = torch.nn.functional
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            target = f.one_hot(y, len(w)).bool()
            moved = torch.where(target, torch.cos(torch.acos(cos) + 0.5), cos)
        return f.cross_entropy(64 * (cos + (moved - cos).detach()), y)

    settings = {"framework": "torch", "groups": ("ordinary", "boundary")} | NO_IGNORED
    report = check(insightface, refloss.ArcFace(), **settings)
    assert report.diagnoses[0].startswith("the gradient is that of the detached margin")
    assert_conforms(insightface, refloss.ArcFace(gradient="detached"), **settings)


# -------------------------------------------------------------------------------------------------- pages and recipes


@pytest.mark.parametrize("case", cases(refloss.CosFace(), shapes=[Shape(4, 5, 16)], ignored=False), ids=str)
def test_the_recipe_for_pytest(torch, case):
    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(16, 5, bias=False)

        def forward(self, x, y):
            cos = (x / row_length(x)) @ (self.linear.weight / row_length(self.linear.weight)).T
            return torch.nn.functional.cross_entropy(64 * (cos - 0.35 * torch.nn.functional.one_hot(y, 5)), y)

    def row_length(rows):
        return rows.norm(dim=1, keepdim=True)

    if set(case.flags) & {"zero vector", "overflow", "underflow"}:
        pytest.skip("this code takes no care of extreme lengths")
    fn = of_module(lambda c, d: Head(), "linear.weight")
    assert_conforms(fn, refloss.CosFace(), framework="torch", cases=[case])


def page_rows() -> Iterator[tuple[str, str, Any, dict[str, str], dict[str, Any]]]:
    """Rows of the page's tables: library, code, loss, standards, settings; the first block of code names things."""
    text = PAGE.read_text()
    library, names = "", {}
    exec(re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1], names)
    for line in text.splitlines():
        if line.startswith("## "):
            library = line.removeprefix("## ")
        if line.startswith("| `") and library in LIBRARIES:
            code, loss, standards, settings = (cell.strip("`– ") for cell in line.strip("|").split(" | "))
            by_dtype = {
                dtype: standard
                for standard, _, dtypes in (part.partition(": ") for part in standards.split("; "))
                for dtype in (dtypes.split(", ") if dtypes else DTYPES)
            }
            yield library, code, eval(loss, names), by_dtype, eval(f"dict({settings})", names)


def test_the_page_shows_these_rows():
    shown = list(page_rows())
    assert [row[:2] for row in shown] == [(row.library, row.code) for row in ROWS]
    for row, (_, code, *others) in zip(ROWS, shown, strict=True):
        assert others == [row.loss, row.standards, row.settings], code
