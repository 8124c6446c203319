"""Measures what `diagnose` says of right code: the first part of the record diagnose.md, and its page.

Configurations are drawn over losses, rules, gradient conventions, scales, margins, reductions and dtypes. Their code is
that of tests/support/right_codes/, which does not call refloss.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pages
from pages import Measured, Rows

import refloss
from refloss.stages.margin import RULES, RULES_ON_ANGLE
from refloss.testing import diagnose
from refloss.testing.black_box.deviations import Expected
from refloss.testing.black_box.measure import Box
from refloss.testing.black_box.verify import held_out, held_out_linear, held_out_logits
from refloss.testing.budgets import arithmetic
from support.right_codes import torch_cross_entropy, torch_head, torch_linear
from support.right_codes.curve_codes import torch_curves
from support.right_codes.link_codes import torch_links
from support.right_codes.option_codes import torch_options
from support.right_codes.quality_codes import torch_family

SEEDS = range(20)
"""Rounds."""
PER_ROUND = 25
"""Configurations of a round."""


class Draw:
    """Draws settings; an impossible combination is drawn again."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 21])

    def choice(self, entries: Any) -> Any:
        """One of several."""
        return list(entries)[self.rng.integers(len(entries))]

    def number(self, low: float, high: float, digits: int = 2) -> float:
        """A number with few digits, or one in five times one with all."""
        number = float(self.rng.uniform(low, high))
        return number if self.rng.random() < 0.2 else round(number, digits)

    def scale(self) -> float | None:
        """A scale, or None for the length of the embedding."""
        kind = self.rng.random()
        if kind < 0.15:
            return None
        return self.number(1.0, 128.0, 1) if kind < 0.5 else float(self.choice((1, 10, 16, 20, 30, 32, 64, 100, 128)))

    def reduction(self) -> dict[str, Any]:
        """A reduction."""
        return {"reduction": self.choice(("mean", "sum", "none"))}

    def common(self) -> dict[str, Any]:
        """A reduction and a gradient convention."""
        return self.reduction() | {"gradient": self.choice(("exact", "detached"))}

    def loss(self) -> Any:
        """A loss."""
        while True:
            try:
                return self._loss(self.choice(KINDS))
            except ValueError:  # a rule that cannot act
                continue

    def _loss(self, kind: Any) -> Any:
        angle = {"m": self.number(0.02, 3.1), "boundary": self.choice(RULES_ON_ANGLE)}
        options = {
            "label_smoothing": self.choice((0.0, 0.0, self.number(0.01, 0.5))),
            "logit_scale": self.choice((1.0, 1.0, self.number(0.1, 5.0))),
            "softcap": self.choice((None, None, self.number(5.0, 60.0, 0))),
            "z_loss": self.choice((0.0, 0.0, self.number(1e-4, 1e-2, 4))),
        }
        own: dict[Any, Any] = {
            refloss.CrossEntropy: lambda: options,
            refloss.SoftmaxLoss: lambda: options,
            refloss.ModifiedSoftmax: dict,
            refloss.NormFace: lambda: {"s": self.scale()},
            refloss.ASoftmax: lambda: {
                "s": self.scale(),
                "m": self.choice((2.0, 3.0, 4.0, self.number(1.1, 12.0))),
                "annealing": self.choice((0.0, 0.0, self.number(0.5, 20.0, 1))),
                "boundary": self.choice(("monotone", "none")),
            },
            refloss.CosFace: lambda: {
                "s": self.scale(),
                "m": self.number(0.05, 1.5),
                "boundary": self.choice(("none", "conditional")),
            },
            refloss.ArcFace: lambda: {"s": self.scale(), **angle},
            refloss.CombinedMargin: lambda: {
                "s": self.scale(),
                "m1": self.number(0.7, 3.0),
                "m2": self.number(0.0, 1.5),
                "m3": self.number(0.0, 0.6),
                "boundary": self.choice(RULES),
            },
            refloss.SphereFaceR: lambda: {
                "s": self.scale(),
                "m": self.number(1.1, 6.0),
                "version": self.choice((1, 2)),
            },
            refloss.CircleLoss: lambda: {"s": self.scale(), "m": self.number(0.05, 0.95)},
            refloss.InterTopK: lambda: {
                "s": self.scale(),
                "penalty": self.number(0.02, 0.6),
                "k": int(self.rng.integers(1, 9)),
                **angle,
                "m": self.number(0.05, 1.2),
            },
            refloss.CurricularFace: lambda: {"s": self.scale(), "t": self.number(-0.5, 1.0), **angle},
            refloss.MVSoftmax: lambda: {
                "s": self.scale(),
                "m": self.number(0.05, 1.0),
                "t": self.number(0.0, 1.5),
                "margin": self.choice(("am", "arc")),
                "boundary": self.choice(("easy", "none")),
            },
            refloss.AdaFace: lambda: {
                "s": self.scale(),
                "m": self.number(0.1, 0.9),
                "mean": self.number(5.0, 60.0, 0),
                "std": self.number(5.0, 100.0, 0),
            },
            refloss.MagFace: lambda: {
                "s": self.scale(),
                "l_a": self.number(1.0, 15.0, 0),
                "u_a": self.number(40.0, 150.0, 0),
                "l_m": self.number(0.2, 0.5),
                "u_m": self.number(0.55, 1.2),
                "regularizer": self.number(0.0, 40.0, 0),
                "boundary": self.choice(RULES_ON_ANGLE),
            },
            refloss.SphereFace2: lambda: {
                "s": self.number(5.0, 80.0, 0),
                "m": self.number(0.0, 0.8),
                "t": int(self.rng.integers(1, 6)),
                "alpha": self.number(0.2, 0.9),
                "weight": self.number(1.0, 60.0, 0),
            },
            refloss.UniFace: lambda: {
                "s": self.number(8.0, 100.0, 0),
                "m": self.number(0.0, 0.8),
                "l": self.number(0.2, 2.0, 1),
            },
        }
        settings = own[kind]()
        plain = kind in (refloss.CrossEntropy, refloss.SoftmaxLoss)
        return kind(**settings, **(self.reduction() if plain else self.common()))


KINDS = (
    *(refloss.CrossEntropy, refloss.SoftmaxLoss, refloss.ModifiedSoftmax, refloss.NormFace, refloss.ASoftmax),
    *(refloss.CosFace, refloss.ArcFace, refloss.ArcFace, refloss.ArcFace, refloss.CombinedMargin),
    *(refloss.CombinedMargin, refloss.SphereFaceR, refloss.CircleLoss, refloss.InterTopK, refloss.CurricularFace),
    *(refloss.MVSoftmax, refloss.AdaFace, refloss.MagFace, refloss.SphereFace2, refloss.UniFace),
)


def code_of(loss: Any) -> Any:
    """A right implementation of a loss in torch."""
    if isinstance(loss, refloss.CrossEntropy | refloss.SoftmaxLoss):
        plain = not loss.z_loss and loss.softcap is None and loss.logit_scale == 1.0
        own = torch_cross_entropy(loss) if plain else torch_options(loss)
        return own if isinstance(loss, refloss.CrossEntropy) else torch_linear(own)
    if isinstance(loss, refloss.SphereFace2 | refloss.UniFace):
        return torch_links(loss)
    if isinstance(loss, refloss.SphereFaceR | refloss.CircleLoss | refloss.InterTopK):
        return torch_curves(loss)
    return torch_head(loss) if loss.spec.is_plain else torch_family(loss)


def same(loss: Any, other: Any, dtype: str) -> bool:
    """Whether two losses are the same function: both within two budgets of each other, on inputs of either."""
    if other.spec.head != loss.spec.head:
        return False
    fields = ("z",) if loss.spec.head == "logits" else ("x", "w")
    box, a = Box(print, "numpy", dtype, None, fields), arithmetic(dtype)
    inputs = {"logits": held_out_logits, "linear": held_out_linear}.get(loss.spec.head)
    several = inputs(box, 77) if inputs else [*held_out(loss, box, 77), *held_out(other, box, 78)]
    for entry in several:
        (ours, allowed), (theirs, _) = (Expected(each).at(entry, None, a, "chain") for each in (loss, other))
        for name, part in ours.items():
            if part.shape != theirs[name].shape or (np.abs(part - theirs[name]) > 2.0 * allowed[name]).any():
                return False
    return True


def outcome(loss: Any, diagnosis: Any, dtype: str) -> str:
    """Whether a diagnosis is "right", "unknown" or "wrong"."""
    if not diagnosis:
        return "unknown"
    named = within_errors(diagnosis, loss)
    return "right" if named == loss or same(loss, named, dtype) else "wrong"


def within_errors(diagnosis: Any, loss: Any) -> Any:
    """The named loss with the drawn settings where they are within the stated errors."""
    own = {}
    for name, text in diagnosis.settings.items():
        value, _, error = text.partition(" ± ")
        if error and abs(float(value) - getattr(loss, name, math.inf)) <= 2.0 * float(error):
            own[name] = getattr(loss, name)
    return replace(diagnosis.loss, **own)


def measured(seed: int) -> Rows:
    """Draw configurations and diagnose them."""
    import torch

    torch.set_num_threads(1)
    draw = Draw(seed)
    rows: Rows = []
    for _ in range(PER_ROUND):
        loss, dtype = draw.loss(), draw.choice(("float32", "float64"))
        start = time.process_time()
        diagnosis = diagnose(code_of(loss), framework="torch", dtype=dtype, logits=loss.spec.head == "logits")
        seconds = time.process_time() - start
        rows.append(
            {
                "loss": repr(loss),
                "dtype": dtype,
                "named": repr(diagnosis.loss),
                "settings": diagnosis.settings,
                "deviations": [deviation.sentence for deviation in diagnosis.deviations],
                "residual": diagnosis.residual if math.isfinite(diagnosis.residual) else None,
                "outcome": outcome(loss, diagnosis, dtype),
                "seconds": seconds,
            }
        )
    return rows


def write(configurations: Measured, planted: Measured, commit: str, folder: Path) -> None:
    """Write diagnose.md: outcomes of configurations by loss and of defects by kind, and each that is not right."""
    rows, checks = configurations.rows, planted.rows
    both = Measured([*rows, *checks], configurations.rounds + planted.rounds, configurations.seconds + planted.seconds)
    others = [
        (f"`{row['loss']}`", row["dtype"], row["outcome"], f"`{row['named']}`")
        for row in rows
        if row["outcome"] != "right"
    ]
    not_named = [
        (f"`{row['loss']}`", row["dtype"], _listed(row["names"]), row["outcome"], _listed(row["causes"]) or "none")
        for row in checks
        if row["outcome"] != "named"
    ]
    pages.write(
        folder,
        "diagnose.md",
        number=len(rows),
        total=Counter(row["outcome"] for row in rows),
        largest=f"{max((row['residual'] for row in rows if row['outcome'] == 'right'), default=0.0):.2f}",
        times=_times([row["seconds"] for row in rows]),
        by_loss=_outcomes("loss", [(row["loss"].partition("(")[0], row["outcome"]) for row in rows], OUTCOMES),
        others=pages.table(("loss", "dtype", "outcome", "named"), others, words=4) if others else "None.",
        defects=len(checks),
        in_torch=sum(row["code"] == "torch" for row in checks),
        of_defects=Counter(row["outcome"] for row in checks),
        check_times=_times([row["seconds"] for row in checks]),
        explaining_times=_times([row["explaining"] for row in checks]),
        by_kind=_outcomes("kind", [(" and ".join(row["kinds"]), row["outcome"]) for row in checks], OF_DEFECTS),
        not_named=pages.table(("loss", "dtype", "defect", "outcome", "`check` says"), not_named, words=5)
        if not_named
        else "None.",
        facts=pages.facts(both, commit, ("numpy", "torch")),
    )


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(pages.escaped(text) for text in texts)


def _times(seconds: Iterable[float]) -> str:
    each = sorted(seconds)
    return f"median {each[len(each) // 2]:.1f}, largest {each[-1]:.1f}"


def _outcomes(title: str, rows: Iterable[tuple[str, str]], outcomes: Sequence[str]) -> str:
    """A table of how many rows have which outcome, by what they are named."""
    counts: dict[str, Counter[str]] = {}
    for name, outcome in rows:
        counts.setdefault(name, Counter())[outcome] += 1
    lines = [(name, *(str(count[each]) for each in outcomes)) for name, count in sorted(counts.items())]
    return pages.table((title, *outcomes), lines)


OUTCOMES = ("right", "unknown", "wrong")
"""Outcomes of a diagnosis."""
OF_DEFECTS = ("named", "in part", "none", "wrong")
"""Outcomes of a check of code with a defect."""
