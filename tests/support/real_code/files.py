"""Losses of packages whose import asks for more than torch: the file that has them is run alone, unchanged."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from support.real_code.adapters import functional, of_module


@cache
def module_of(package: str, file: str, *stand_ins: tuple[str, str]) -> ModuleType:
    """Run a file of an installed package, without the package.

    A file `__init__.py` may import what stands beside it. `stand_ins` are functions, by module and name, that the file
    imports and its losses do not call.
    """
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    path = Path(folder) / file
    beside = [str(path.parent)] if path.name == "__init__.py" else None
    name = f"alone_{package}_{path.parent.name}_{path.stem.strip('_')}"
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=beside)
    module = importlib.util.module_from_spec(spec)
    others = {place: ModuleType(place) for place in (*([package] if stand_ins else ()), *dict(stand_ins))}
    for place, function in stand_ins:
        setattr(others[place], function, mock.Mock())
    with warnings.catch_warnings(), mock.patch.dict(sys.modules, others):
        warnings.simplefilter("ignore")  # of backslashes in docstrings
        sys.modules[name] = module  # until it has imported what stands beside it
        spec.loader.exec_module(module)
    return module


def cosines(x: Any, w: Any) -> Any:
    f = functional()
    return f.linear(f.normalize(x), f.normalize(w))


def catalyst(file: str, name: str, weights: str = "(C, D)") -> Callable[..., Any]:
    """A layer of Catalyst, which returns logits; weights are (C, D), (D, C), or (K, D, C) of w (C, K, D)."""

    def fn(x, w, y):
        import torch

        layer = getattr(module_of("catalyst", f"contrib/layers/{file}.py"), name)(w.shape[-1], len(w))
        turned = w if weights == "(C, D)" else w.T if weights == "(D, C)" else w.permute(1, 2, 0)
        inputs = (x,) if name == "ArcMarginProduct" else (x, y)
        return functional().cross_entropy(torch.func.functional_call(layer, {"weight": turned}, inputs), y)

    return fn


def catalyst_curricular(x, w, y):
    """Catalyst's CurricularFace with t = 0 in this step, from the t before it and the mean of the targets' cosines."""
    import torch

    layer = module_of("catalyst", "contrib/layers/curricularface.py").CurricularFace(w.shape[1], len(w)).to(x.dtype)
    mean = cosines(x, w).detach().gather(1, y[:, None]).mean()
    named = {"weight": w.T, "t": -mean[None] * 0.01 / 0.99}
    return functional().cross_entropy(torch.func.functional_call(layer, named, (x, y)), y)


def speechbrain(name: str, **settings: Any) -> Callable[..., Any]:
    """A margin of SpeechBrain, which takes cosines (N, 1, C) and labels (N, 1)."""

    def fn(x, w, y):
        losses = module_of(
            "speechbrain",
            "nnet/losses.py",
            ("speechbrain.dataio.dataio", "length_to_mask"),
            ("speechbrain.decoders.ctc", "filter_ctc_output"),
            ("speechbrain.utils.data_utils", "unsqueeze_as"),
            ("speechbrain.utils.logger", "get_logger"),
        )
        loss = losses.LogSoftmaxWrapper(getattr(losses, name)(**settings))
        return loss(cosines(x, w)[:, None], y[:, None])

    return fn


def open_clip(name: str) -> Callable[..., Any]:
    """A loss of OpenCLIP, of embeddings at unit length, on one device."""

    def fn(x, w, *settings):
        f = functional()
        return getattr(module_of("open_clip", "loss.py"), name)()(f.normalize(x), f.normalize(w), *settings)

    return fn


def smp_cross_entropy(**settings: Any) -> Callable[..., Any]:
    def fn(z, y):
        return module_of("segmentation_models_pytorch", "losses/__init__.py").SoftCrossEntropyLoss(**settings)(z, y)

    return fn


def pml_sub_centers(centers: int) -> Callable[..., Any]:
    """pytorch-metric-learning's sub-centers, whose weights are (D, C K)."""

    def make(c, d):
        from pytorch_metric_learning import losses

        return losses.SubCenterArcFaceLoss(num_classes=c // centers, embedding_size=d, sub_centers=centers)

    inner = of_module(make, "W", turned=True)

    def fn(x, w, y):
        return inner(x, w.reshape(-1, w.shape[-1]), y)

    return fn
