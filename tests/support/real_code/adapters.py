"""How each library's losses are called: what its user writes, as a function that `check` calls."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


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


def linear_cross_entropy(
    weight: tuple[float, ...] = (), options: dict[str, Any] | None = None, **settings: Any
) -> Callable[..., Any]:
    """torch's fused head; without options it is a linear layer and a cross entropy."""

    def fn(x, w, y, b=None):
        import torch

        named = dict(options or {})
        if "acc_dtype" in named:
            named["acc_dtype"] = getattr(torch, named["acc_dtype"])
        chosen = None if options is None else torch.nn.LinearCrossEntropyOptions(**named)
        weighted = {"weight": x.new_tensor(weight)} if weight else {}
        return functional().linear_cross_entropy(x, w, y, linear_bias=b, options=chosen, **settings, **weighted)

    return fn


def linear_head(c: int, d: int) -> Any:
    import torch

    return torch.nn.LinearCrossEntropyLoss(d, c)


def upcast(z, y):
    return functional().cross_entropy(z.float(), y)


def triplet(a, p, n):
    return functional().triplet_margin_loss(a, p, n, margin=0.2, eps=0.0)


def triplet_default(a, p, n):
    return functional().triplet_margin_loss(a, p, n, margin=0.2)


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


def clip_loss(x, w, s):
    from transformers.models.clip import modeling_clip

    f = functional()
    return modeling_clip.image_text_contrastive_loss(s * f.normalize(w) @ f.normalize(x).T)


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
def optax_triplet_default(a, p, n):
    import optax

    return optax.losses.triplet_margin_loss(a, p, n, margin=0.2)


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


def log_loss(z, y):
    """scikit-learn's metric of probabilities, a value without a gradient."""
    from scipy.special import softmax
    from sklearn import metrics

    return metrics.log_loss(y, softmax(z, axis=1), labels=np.arange(z.shape[1]))


def onnx_model(kind: Any, weight: tuple[float, ...], attributes: dict[str, Any]) -> Any:
    """The operator SoftmaxCrossEntropyLoss of ONNX, as a model of one node."""
    from onnx import helper

    number = helper.np_dtype_to_tensor_dtype(kind)
    whole = helper.np_dtype_to_tensor_dtype(np.dtype("int64"))
    node = helper.make_node("SoftmaxCrossEntropyLoss", ["z", "y", "v"][: 3 if weight else 2], ["loss"], **attributes)
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def onnx_cross_entropy(weight: tuple[float, ...] = (), **attributes: Any) -> Callable[..., Any]:
    """ONNX Runtime's SoftmaxCrossEntropyLoss, on the CPU."""

    @cache
    def session(kind):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what it raises is enough
        model = onnx_model(kind, weight, attributes).SerializeToString()
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def fn(z, y):
        return session(z.dtype).run(None, {"z": z, "y": y.astype(np.int64)})[0]

    return fn


def onnx_reference(**attributes: Any) -> Callable[..., Any]:
    """The same operator by the reference evaluator of ONNX."""

    @cache
    def evaluator(kind):
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(onnx_model(kind, (), attributes))

    def fn(z, y):
        return evaluator(z.dtype).run(None, {"z": z, "y": y.astype(np.int64)})[0]

    return fn
