"""Public losses: the loss of refloss that each is, and in each dtype the standard that it meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import refloss
from refloss.testing import known
from support.real_code.adapters import (
    accumulated,
    am_softmax,
    causal_lm,
    clip_loss,
    cross_entropy,
    half_multinomial,
    jax_linear,
    jax_log_softmax,
    jax_log_sum_exp,
    kl_div,
    label_smoother,
    linear_cross_entropy,
    linear_head,
    log_loss,
    masked_lm,
    of_module,
    one_hot,
    onnx_cross_entropy,
    onnx_reference,
    optax_labels,
    optax_triplet,
    optax_triplet_default,
    pml,
    pml_triplet,
    scipy_log_softmax,
    scipy_log_sum_exp,
    sequence_classification,
    timm_smoothed,
    timm_soft,
    token_classification,
    triplet,
    triplet_default,
    triplet_with_distance,
    upcast,
)
from support.real_code.files import (
    catalyst,
    catalyst_curricular,
    open_clip,
    pml_sub_centers,
    smp_cross_entropy,
    speechbrain,
)
from support.real_code.kernels import cut_cross_entropy, keras_loss, liger_cross_entropy, liger_linear, tinygrad_loss

DTYPES = ("float16", "bfloat16", "float32", "float64")


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


class Library(NamedTuple):
    """How a library is tested."""

    framework: str
    """Whose arrays it takes."""
    packages: tuple[str, ...]
    """Names that have to be importable."""
    shapes: Any = None
    """Of the cases in the tests; the default ones if left out."""


FEW = ((9, 7, 13), (2, 2, 3))  # for JAX, which compiles for each shape, and for margins, which take time

LIBRARIES = {
    "PyTorch": Library("torch", ("torch",)),
    "pytorch-metric-learning": Library("torch", ("pytorch_metric_learning",)),
    "timm": Library("torch", ("timm",)),
    "Transformers": Library("torch", ("transformers",)),
    "SpeechBrain": Library("torch", ("speechbrain",)),
    "Catalyst": Library("torch", ("catalyst",)),
    "OpenCLIP": Library("torch", ("open_clip",), FEW),
    "segmentation-models-pytorch": Library("torch", ("segmentation_models_pytorch",)),
    "Liger": Library("torch", ("liger_kernel", "triton"), ((5, 35, 9), (19, 3, 5))),
    "Cut Cross-Entropy": Library("torch", ("cut_cross_entropy", "triton")),
    "Keras": Library("torch", ("keras",)),
    "tinygrad": Library("numpy", ("tinygrad",), ((9, 7, 13),)),
    "JAX": Library("jax", ("jax",), FEW),
    "optax": Library("jax", ("optax",), FEW),
    "SciPy": Library("numpy", ("scipy",)),
    "scikit-learn": Library("numpy", ("sklearn",)),
    "ONNX Runtime": Library("numpy", ("onnxruntime", "onnx")),
    "ONNX, the reference evaluator": Library("numpy", ("onnx",)),
}


def without(dtype: str, standards: dict[str, str]) -> dict[str, str]:
    return {name: standard for name, standard in standards.items() if name != dtype}


STABLE = dict.fromkeys(DTYPES, "stable")
WORKING = dict.fromkeys(DTYPES, "working")
HALVES_MIXED = STABLE | {"float16": "mixed", "bfloat16": "mixed"}
HALVES_FUSED = STABLE | {"float16": "fused", "bfloat16": "fused"}
HALVES_STABLE = {"float16": "stable", "bfloat16": "stable"}
IN_FLOAT32 = {"float16": "mixed", "bfloat16": "mixed", "float32": "stable"}
EXACT = {"float32": "stable", "float64": "stable"}

ONE = {"shapes": ((9, 7, 13),)}
SOFT, NO_IGNORED, VALUE = {"soft": True}, {"ignored": False}, {"gradients": False}
AWAY_FROM_0 = NO_IGNORED | {"groups": ("ordinary", "boundary")}
MASKED = {"boundary-masked": "0 times the log of a probability of 0 is NaN"}
VANISHING = {"hard-wrong-120": "the log of a probability of 0", "hard-wrong-800": "the log of a probability of 0"}
OVERFLOW = {"hard-offset-exact": "a sum over all rows and classes is beyond float16"}
COINCIDING = dict.fromkeys(
    ("boundary-edge-0.75", "boundary-edge-1.25", "hard-on-positive", "hard-on-negative", "hard-all-one"),
    "the slope of the root at 0 is infinite, and times 0 it is NaN",
)

CrossEntropy, SoftmaxLoss = refloss.CrossEntropy, refloss.SoftmaxLoss
WEIGHT = (1.0, 0.5, 2.0, 0.0, 3.0)

STATED = {(row.library, row.code): row.loss for row in known() if row.status == "run"}
"""What refloss.testing.known says that the code equals."""
KNOWN = object()
"""In place of the loss of a row: that of `STATED`."""
HARD_ARCFACE = STATED["pytorch-metric-learning", "ArcFaceLoss(margin=28.6, scale=64)"]

TABLE: dict[str, list[tuple[Any, ...]]] = {
    "PyTorch": [
        ("F.cross_entropy(z, y)", cross_entropy(), KNOWN, STABLE, SOFT),
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
        ("F.linear_cross_entropy(x, w, y)", linear_cross_entropy(), KNOWN, STABLE),
        (
            "F.linear_cross_entropy(x, w, y, options=O())",
            linear_cross_entropy(options={}),
            SoftmaxLoss(),
            HALVES_MIXED,
        ),
        (
            "F.linear_cross_entropy(x, w, y, options=O(chunking_method=None))",
            linear_cross_entropy(options={"chunking_method": None}),
            SoftmaxLoss(),
            HALVES_FUSED | {"bfloat16": "mixed"},
        ),
        (
            'F.linear_cross_entropy(x, w, y, reduction="none", options=O(chunking_method=None))',
            linear_cross_entropy(reduction="none", options={"chunking_method": None}),
            SoftmaxLoss(reduction="none"),
            HALVES_FUSED,
        ),
        *(
            (
                f'F.linear_cross_entropy(x, w, y, options=O(acc_policy="{policy}"))',
                linear_cross_entropy(options={"acc_policy": policy}),
                SoftmaxLoss(),
                STABLE,
            )
            for policy in ("accurate", "balanced", "compact")
        ),
        *(
            (
                f'F.linear_cross_entropy(x, w, y, options=O(acc_policy="{policy}", acc_dtype=torch.float32))',
                linear_cross_entropy(options={"acc_policy": policy, "acc_dtype": "float32"}),
                SoftmaxLoss(),
                {"float16": in_float16, "bfloat16": "mixed"},
            )
            for policy, in_float16 in (("accurate", "mixed"), ("balanced", "stable"), ("compact", "stable"))
        ),
        (
            "F.linear_cross_entropy(x, w, y, weight=v)",
            linear_cross_entropy(WEIGHT),
            SoftmaxLoss(class_weight=WEIGHT),
            STABLE,
        ),
        (
            "F.linear_cross_entropy(x, w, y, weight=v, options=O())",
            linear_cross_entropy(WEIGHT, options={}),
            SoftmaxLoss(class_weight=WEIGHT),
            HALVES_FUSED | {"bfloat16": "mixed"},
        ),
        *(
            (
                "F.linear_cross_entropy(x, w, y, label_smoothing=0.1)",
                linear_cross_entropy(label_smoothing=0.1),
                SoftmaxLoss(label_smoothing=0.1),
                *meets,
            )
            for meets in ((without("float16", STABLE),), ({"float16": "stable"}, {"xfail": OVERFLOW}))
        ),
        ("nn.LinearCrossEntropyLoss(D, C)", of_module(linear_head, "linear.weight"), KNOWN, STABLE),
        ("F.triplet_margin_loss(a, p, n, margin=0.2, eps=0)", triplet, KNOWN, WORKING),
        (
            "F.triplet_margin_with_distance_loss(a, p, n, distance_function=squared, margin=0.2)",
            triplet_with_distance,
            KNOWN,
            WORKING,
        ),
        (
            'F.kl_div(F.log_softmax(z, 1), F.log_softmax(target, 1), reduction="batchmean", log_target=True)',
            kl_div,
            KNOWN,
            STABLE,
        ),
    ],
    "pytorch-metric-learning": [
        ("CosFaceLoss(margin=0.35, scale=64)", pml("CosFaceLoss"), KNOWN, STABLE, NO_IGNORED),
        (
            "NormalizedSoftmaxLoss(temperature=1 / 64)",
            pml("NormalizedSoftmaxLoss", temperature=1 / 64),
            KNOWN,
            STABLE,
            NO_IGNORED,
        ),
        (
            "ArcFaceLoss(margin=28.6, scale=64)",
            pml("ArcFaceLoss"),
            KNOWN,
            STABLE,
            AWAY_FROM_0,
        ),
        ("SphereFaceLoss(margin=4, scale=1)", pml("SphereFaceLoss"), KNOWN, STABLE, NO_IGNORED),
        (
            "SubCenterArcFaceLoss(margin=28.6, scale=64, sub_centers=3)",
            pml_sub_centers(3),
            KNOWN,
            EXACT,
            AWAY_FROM_0,
        ),
        (
            "TripletMarginLoss(margin=0.2, distance=LpDistance(normalize_embeddings=False), reducer=MeanReducer())",
            pml_triplet,
            KNOWN,
            {"float32": "working", "float64": "working"},
            {"shapes": ((5, 1, 9), (2, 1, 3))},
        ),
    ],
    "timm": [
        ("LabelSmoothingCrossEntropy()", timm_smoothed, KNOWN, STABLE, NO_IGNORED),
        ("SoftTargetCrossEntropy()", timm_soft, KNOWN, STABLE, NO_IGNORED | SOFT | {"xfail": MASKED}),
    ],
    "Transformers": [
        ("fixed_cross_entropy(z, y, num_items_in_batch=n)", accumulated, KNOWN, STABLE),
        ("ForCausalLMLoss(z, y, vocab_size=C)", causal_lm, KNOWN, IN_FLOAT32),
        ("ForMaskedLMLoss(z, y, vocab_size=C)", masked_lm, KNOWN, IN_FLOAT32),
        ("ForTokenClassification(z, y, config)", token_classification, KNOWN, IN_FLOAT32),
        ("ForSequenceClassificationLoss(y, z, config)", sequence_classification, KNOWN, STABLE),
        (
            'LabelSmoother()({"logits": z}, y)',
            label_smoother,
            KNOWN,
            without("float64", STABLE),
        ),
        (
            "AMSoftmaxLoss(D, C)",
            of_module(am_softmax, "weight", turned=True),
            KNOWN,
            STABLE,
            NO_IGNORED,
        ),
        ("image_text_contrastive_loss(s * normalize(w) @ normalize(x).T)", clip_loss, KNOWN, EXACT, {"shapes": FEW}),
    ],
    "SpeechBrain": [
        (
            f"LogSoftmaxWrapper({name}(margin=0.2, scale=30))(cos, y)",
            speechbrain(name, margin=0.2, scale=30),
            KNOWN,
            {"float32": "stable"},
            AWAY_FROM_0,
        )
        for name in ("AdditiveAngularMargin", "AngularMargin")
    ],
    "Catalyst": [
        ("ArcFace(D, C)", catalyst("arcface", "ArcFace"), KNOWN, EXACT, AWAY_FROM_0),
        ("SubCenterArcFace(D, C)", catalyst("arcface", "SubCenterArcFace", "(K, D, C)"), KNOWN, EXACT, AWAY_FROM_0),
        ("CosFace(D, C)", catalyst("cosface", "CosFace"), KNOWN, EXACT, NO_IGNORED),
        ("AMSoftmax(D, C)", catalyst("amsoftmax", "AMSoftmax"), KNOWN, EXACT, AWAY_FROM_0),
        ("CurricularFace(D, C)", catalyst_curricular, KNOWN, EXACT, AWAY_FROM_0),
        (
            "ArcMarginProduct(D, C)",
            catalyst("arcmargin", "ArcMarginProduct"),
            KNOWN,
            dict.fromkeys(EXACT, "relative"),
            NO_IGNORED,
        ),
    ],
    "OpenCLIP": [
        ("ClipLoss()(x, w, s)", open_clip("ClipLoss"), KNOWN, EXACT),
        ("SigLipLoss()(x, w, t, b)", open_clip("SigLipLoss"), KNOWN, dict.fromkeys(EXACT, "relative")),
    ],
    "segmentation-models-pytorch": [
        ("SoftCrossEntropyLoss(smooth_factor=0.1)", smp_cross_entropy(smooth_factor=0.1), KNOWN, EXACT, NO_IGNORED),
    ],
    "Liger": [
        *(
            (
                f"liger_cross_entropy(z, y{said})",
                liger_cross_entropy(**settings),
                loss,
                {"float16": "stable", "float32": in_float32},
                {"overwrites": ("z",)},
            )
            for said, settings, loss, in_float32 in (
                ("", {}, KNOWN, "working"),
                (', reduction="none"', {"reduction": "none"}, CrossEntropy(reduction="none"), "working"),
                (", label_smoothing=0.1", {"label_smoothing": 0.1}, CrossEntropy(label_smoothing=0.1), "working"),
                (", lse_square_scale=0.01", {"lse_square_scale": 0.01}, CrossEntropy(z_loss=0.01), "relative"),
            )
        ),
        *(
            (
                f"liger_fused_linear_cross_entropy(x, w, y{said})",
                liger_linear(**settings),
                loss,
                {"float16": "mixed", "float32": in_float32},
            )
            for said, settings, loss, in_float32 in (
                ("", {}, KNOWN, "stable"),
                (", accum_dtype=torch.float32", {"accumulate": "float32"}, SoftmaxLoss(), "stable"),
                (', reduction="none"', {"reduction": "none"}, SoftmaxLoss(reduction="none"), "working"),
            )
        ),
    ],
    "Cut Cross-Entropy": [
        (
            f'linear_cross_entropy(x, w, y, impl="torch_compile"{said})',
            cut_cross_entropy(**settings),
            loss,
            IN_FLOAT32,
        )
        for said, settings, loss in (
            ("", {}, KNOWN),
            (', reduction="sum"', {"reduction": "sum"}, SoftmaxLoss(reduction="sum")),
            (', reduction="none"', {"reduction": "none"}, SoftmaxLoss(reduction="none")),
        )
    ],
    "Keras": [
        (
            "SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)(y, z)",
            keras_loss("SparseCategoricalCrossentropy", ignore_class=-100),
            KNOWN,
            without("float64", STABLE),
        ),
        (
            "SparseCategoricalCrossentropy(from_logits=True, reduction=None)(y, z)",
            keras_loss("SparseCategoricalCrossentropy", reduction=None),
            CrossEntropy(reduction="none"),
            STABLE,
            NO_IGNORED,
        ),
        (
            "CategoricalCrossentropy(from_logits=True)(t, z)",
            keras_loss("CategoricalCrossentropy"),
            KNOWN,
            without("float64", STABLE),
            NO_IGNORED | SOFT | {"xfail": MASKED},
        ),
        (
            "CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(t, z)",
            keras_loss("CategoricalCrossentropy", label_smoothing=0.1),
            CrossEntropy(label_smoothing=0.1),
            without("float64", STABLE),
            NO_IGNORED | SOFT,
        ),
    ],
    "tinygrad": [
        *(
            (
                "z.sparse_categorical_crossentropy(y, ignore_index=-100)",
                tinygrad_loss("sparse_categorical_crossentropy", ignore_index=-100),
                KNOWN,
                *meets,
            )
            for meets in (({"float32": "stable", "float64": "stable"},), (HALVES_STABLE, {"xfail": MASKED} | ONE))
        ),
        *(
            ("z.cross_entropy(t)", tinygrad_loss("cross_entropy"), KNOWN, *meets)
            for meets in (
                ({"float32": "stable", "float64": "stable"}, NO_IGNORED | SOFT),
                (HALVES_STABLE, NO_IGNORED | SOFT | {"xfail": MASKED} | ONE),
            )
        ),
    ],
    "JAX": [
        ("-jax.nn.log_softmax(z)[each, y].mean()", jax_log_softmax, KNOWN, STABLE, NO_IGNORED),
        ("(jax.nn.logsumexp(z, axis=1) - z[each, y]).mean()", jax_log_sum_exp, KNOWN, WORKING, NO_IGNORED),
        ("-jax.nn.log_softmax(x @ w.T + b)[each, y].mean()", jax_linear, KNOWN, STABLE, NO_IGNORED),
    ],
    "optax": [
        (
            "softmax_cross_entropy_with_integer_labels(z, y)",
            optax_labels,
            KNOWN,
            WORKING,
            NO_IGNORED,
        ),
        (
            "softmax_cross_entropy(z, t)",
            one_hot("softmax_cross_entropy"),
            KNOWN,
            STABLE,
            NO_IGNORED | SOFT | {"xfail": MASKED},
        ),
        (
            "safe_softmax_cross_entropy(z, t)",
            one_hot("safe_softmax_cross_entropy"),
            KNOWN,
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
            KNOWN,
            WORKING,
            {"xfail": COINCIDING},
        ),
    ],
    "SciPy": [
        (
            "-log_softmax(z, axis=1)[each, y].mean()",
            scipy_log_softmax,
            KNOWN,
            without("bfloat16", STABLE),
            NO_IGNORED,
        ),
        (
            "(logsumexp(z, axis=1) - z[each, y]).mean()",
            scipy_log_sum_exp,
            KNOWN,
            without("bfloat16", WORKING),
            NO_IGNORED,
        ),
    ],
    "scikit-learn": [
        (
            "HalfMultinomialLoss(n_classes=C).loss_gradient(y, z)",
            half_multinomial,
            KNOWN,
            {"float32": "working", "float64": "working"},
            NO_IGNORED,
        ),
    ],
    "ONNX Runtime": [
        ("SoftmaxCrossEntropyLoss", onnx_cross_entropy(), KNOWN, without("bfloat16", STABLE), VALUE),
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
    "ONNX, the reference evaluator": [
        (
            f"SoftmaxCrossEntropyLoss{said}",
            onnx_reference(**attributes),
            loss,
            {"float32": "stable"},
            VALUE | NO_IGNORED | {"xfail": VANISHING},
        )
        for said, attributes, loss in (
            ("", {}, KNOWN),
            ('(reduction="none")', {"reduction": "none"}, CrossEntropy(reduction="none")),
        )
    ],
}
ROWS = [
    Row(library, code, fn, STATED[library, code] if loss is KNOWN else loss, *rest)
    for library, rows in TABLE.items()
    for code, fn, loss, *rest in rows
]


DIFFERENT: dict[tuple[str, str], tuple[Callable[..., Any], dict[str, Any]]] = {
    ("PyTorch", "F.triplet_margin_loss(a, p, n, margin=0.2)"): (triplet_default, {}),
    ("optax", "triplet_margin_loss(a, p, n, margin=0.2)"): (optax_triplet_default, {"shapes": FEW}),
    ("scikit-learn", "log_loss(y, softmax(z))"): (log_loss, {"dtype": "float64"} | NO_IGNORED | VALUE),
}
"""What differs from the nearest loss, by library and code: the function, and settings of `check`."""


BESIDE: dict[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(
        ("ArcFace", "CurricularFace"), lambda loss: {"boundary": "keep" if loss.boundary == "hard" else "hard"}
    ),
    **dict.fromkeys(
        ("CrossEntropy", "SoftmaxLoss"), lambda loss: {"label_smoothing": float(loss.label_smoothing) + 1e-3}
    ),
    "ASoftmax": lambda loss: {"boundary": "none"},
    **dict.fromkeys(("CosFace", "SubCenterArcFace"), lambda loss: {"m": float(loss.m) + 1e-3}),
    "NormFace": lambda loss: {"s": 1.001 * float(loss.s)},
    "Triplet": lambda loss: {"squared": not loss.squared},
    "InfoNCE": lambda loss: {"ways": 1},
    "SigLIP": lambda loss: {"reduction": "sum"},
    "KLDivergence": lambda loss: {"form": "reverse"},
}
"""By loss, the settings of one beside it: another rule where it has one, or a number a little off."""


def neighbour(loss: Any) -> Any:
    return replace(loss, **BESIDE[type(loss).__name__](loss))
