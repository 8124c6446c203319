"""Train a small network on handwritten digits with one loss after another, and draw its embeddings.

    pip install ".[cli]" scikit-learn  # in a copy of the repository
    python examples/gallery.py

writes gallery.html: a panel for every loss, with embeddings of two dimensions and of three, made of digits that the
network was not trained on. The losses and their gradients come from refloss; the network, its backward pass and the
optimizer (Adam) are written out below. Nothing is chosen for one loss alone except for the settings in `LOSSES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import refloss
from refloss.stages import normalize

CLASSES, WIDTH, EPOCHS, BATCH, RATE = 10, 64, 40, 128, 1e-2
HELD_OUT = 540  # of the 1797 digits
DIMENSIONS = (2, 3)
LOSSES: dict[str, Any] = {
    "Softmax": refloss.SoftmaxLoss(),
    "Modified softmax": refloss.ModifiedSoftmax(),
    "NormFace": refloss.NormFace(s=16.0),
    "CosFace": refloss.CosFace(s=16.0, m=0.2),
    "A-Softmax, exact": refloss.ASoftmax(m=2.0),
    "A-Softmax, detached": refloss.ASoftmax(m=2.0, gradient="detached"),
    "ArcFace, exact": refloss.ArcFace(s=16.0, m=0.3),
    "ArcFace, detached": refloss.ArcFace(s=16.0, m=0.3, gradient="detached"),
    "Combined margin, exact": refloss.CombinedMargin(s=16.0, m1=1.0, m2=0.2, m3=0.1),
    "Combined margin, detached": refloss.CombinedMargin(s=16.0, m1=1.0, m2=0.2, m3=0.1, gradient="detached"),
    "Sub-center ArcFace": refloss.SubCenterArcFace(s=16.0, m=0.3, centers=2),
    "CurricularFace": refloss.CurricularFace(s=16.0, m=0.3),
    "Circle loss": refloss.CircleLoss(s=16.0, m=0.25),
    "Triplet": refloss.Triplet(m=0.2),
}

Arrays = dict[str, Any]


class Digits(NamedTuple):
    """Images (N, 64), centred, and what they show, 0 to 9 (N,)."""

    pixels: Any
    labels: Any


class Step(NamedTuple):
    """One step of training: parameters as they were before it, and what was computed with them."""

    number: int
    loss: Any
    parameters: Arrays
    batch: Digits
    embeddings: Any
    value: Any
    gradients: Arrays
    updated: Arrays


def digits(seed: int) -> tuple[Digits, Digits]:
    """Return the digits of scikit-learn: those to train on, and those held out."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    held_out, train = np.split(np.random.default_rng(seed).permutation(len(labels)), [HELD_OUT])
    pixels = (pixels - pixels[train].mean(axis=0)) / 16.0
    return Digits(pixels[train], labels[train]), Digits(pixels[held_out], labels[held_out])


# ---------------------------------------------------------------------------------------------------------- the network


def initial(loss: Any, dimensions: int, random: np.random.Generator) -> Arrays:
    """Random weights: three layers, and those of the classes if the loss has them."""
    sizes = (64, WIDTH, WIDTH, dimensions)
    parameters: Arrays = {}
    for layer, (inner, outer) in enumerate(pairwise(sizes)):
        parameters[f"a{layer}"] = random.normal(size=(outer, inner)) * np.sqrt(2.0 / inner)
        parameters[f"c{layer}"] = np.zeros(outer)
    if isinstance(loss, refloss.SubCenterArcFace):
        parameters["w"] = random.normal(size=(CLASSES, loss.centers, dimensions))
    elif not isinstance(loss, refloss.Triplet):
        parameters["w"] = random.normal(size=(CLASSES, dimensions))
    if isinstance(loss, refloss.SoftmaxLoss):
        parameters["b"] = np.zeros(CLASSES)
    return parameters


def embed(parameters: Arrays, pixels: Any) -> tuple[Any, list[Any]]:
    """Embeddings of images, and the input of every layer: h' = max(0, A h + c), the last layer without the maximum."""
    inputs = [pixels]
    for layer in (0, 1):
        inputs.append(np.maximum(inputs[-1] @ parameters[f"a{layer}"].T + parameters[f"c{layer}"], 0.0))
    return inputs[-1] @ parameters["a2"].T + parameters["c2"], inputs


def embed_backward(upstream: Any, parameters: Arrays, inputs: list[Any]) -> Arrays:
    """Gradients of the layers' weights, from that of the embeddings."""
    gradients = {}
    for layer in (2, 1, 0):
        gradients[f"a{layer}"] = upstream.T @ inputs[layer]
        gradients[f"c{layer}"] = upstream.sum(axis=0)
        upstream = (upstream @ parameters[f"a{layer}"]) * (inputs[layer] > 0.0)
    return gradients


def loss_and_gradients(
    loss: Any, x: Any, y: Any, parameters: Arrays, random: np.random.Generator
) -> tuple[Any, Any, Arrays]:
    """Value of the loss, and its gradients by the embeddings and by the weights of the classes."""
    if isinstance(loss, refloss.Triplet):
        return *triplet_and_gradient(loss, x, y, random), {}
    of_classes = {name: parameters[name] for name in ("w", "b") if name in parameters}
    value, gradients = loss.value_and_grad(x, y=y, **of_classes)
    return value, gradients.x, {name: getattr(gradients, name) for name in of_classes}


def triplet_and_gradient(loss: Any, x: Any, y: Any, random: np.random.Generator) -> tuple[Any, Any]:
    """Each embedding, at length 1, as an anchor with a random positive and a random negative of the batch."""
    directions = normalize.forward(x)
    same, keys = y[:, None] == y, random.random((len(y), len(y)))
    np.fill_diagonal(keys, 0.0)  # an anchor is its own positive only where its class has no other
    positive, negative = np.where(same, keys, -1.0).argmax(axis=1), np.where(same, -1.0, keys).argmax(axis=1)
    value, gradients = loss.value_and_grad(directions.unit, directions.unit[positive], directions.unit[negative])
    upstream = np.array(gradients.anchor)
    np.add.at(upstream, positive, gradients.positive)
    np.add.at(upstream, negative, gradients.negative)
    return value, normalize.backward(upstream, directions)


# --------------------------------------------------------------------------------------------------------- the training


def number_of_steps(train: Digits) -> int:
    """How many batches all epochs have together."""
    return EPOCHS * (len(train.labels) // BATCH)


def training(loss: Any, dimensions: int, train: Digits, seed: int) -> Iterator[Step]:
    """Train with Adam, at a rate that falls to 0 as half a cosine, and yield every step."""
    random = np.random.default_rng([seed, dimensions])
    parameters = initial(loss, dimensions, random)
    mean = square = {name: np.zeros_like(entry) for name, entry in parameters.items()}
    per_epoch, steps = len(train.labels) // BATCH, number_of_steps(train)
    for number in range(steps):
        if number % per_epoch == 0:
            batches = random.permutation(len(train.labels))[: per_epoch * BATCH].reshape(per_epoch, BATCH)
        chosen = batches[number % per_epoch]
        batch = Digits(train.pixels[chosen], train.labels[chosen])
        x, inputs = embed(parameters, batch.pixels)
        if isinstance(loss, refloss.CurricularFace):  # it keeps a mean of the cosines of targets
            loss = loss.updated(x, parameters["w"], batch.labels)
        value, dx, gradients = loss_and_gradients(loss, x, batch.labels, parameters, random)
        gradients |= embed_backward(dx, parameters, inputs)
        mean = {name: 0.9 * mean[name] + 0.1 * gradients[name] for name in parameters}
        square = {name: 0.999 * square[name] + 0.001 * gradients[name] ** 2 for name in parameters}
        rate = RATE * (1.0 + np.cos(np.pi * number / steps)) / 2.0
        rate *= np.sqrt(1.0 - 0.999 ** (number + 1)) / (1.0 - 0.9 ** (number + 1))
        updated = {name: parameters[name] - rate * mean[name] / (np.sqrt(square[name]) + 1e-8) for name in parameters}
        yield Step(number, loss, parameters, batch, x, value, gradients, updated)
        parameters = updated


# -------------------------------------------------------------------------------------------------------- what came out


def trained(
    title: str, dimensions: int, data: tuple[Digits, Digits], seed: int, seen: Callable[[Step], object]
) -> dict[str, Any]:
    """Train with the loss of that title, show every step to `seen`, and return the panel with its numbers."""
    from threadpoolctl import threadpool_limits

    train, held_out = data
    with threadpool_limits(1):  # the same sums in the same order, whatever the number of cores
        for step in training(LOSSES[title], dimensions, train, seed):
            seen(step)
            parameters = step.updated
        return panel(title, parameters, held_out) | measured(parameters, train, held_out)


def unit(v: Any) -> Any:
    """Directions of rows."""
    return normalize.forward(v).unit


def angles(u: Any, v: Any) -> Any:
    """Angles between unit rows, in degrees; of small ones no digit is lost, as it would be by arccos."""
    return np.degrees(2.0 * np.arctan2(np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1)))


def centers(directions: Any, labels: Any) -> Any:
    """Mean direction of each class."""
    return unit(np.stack([directions[labels == k].mean(axis=0) for k in range(CLASSES)]))


def measured(parameters: Arrays, train: Digits, held_out: Digits) -> dict[str, float]:
    """Angles in degrees among held-out digits, and how many are nearest to the center of their class in training."""
    known = centers(unit(embed(parameters, train.pixels)[0]), train.labels)
    directions = unit(embed(parameters, held_out.pixels)[0])
    own = centers(directions, held_out.labels)
    between = angles(own[:, None], own)[~np.eye(CLASSES, dtype=bool)].reshape(CLASSES, CLASSES - 1)
    return {
        "within": float(angles(directions, own[held_out.labels]).mean()),
        "between": float(between.mean()),
        "nearest": float(between.min(axis=1).mean()),
        "accuracy": float(((directions @ known.T).argmax(axis=1) == held_out.labels).mean()),
    }


def panel(title: str, parameters: Arrays, held_out: Digits) -> dict[str, Any]:
    """Where held-out digits, the centers of their classes and class weights are drawn, in thousandths.

    All are turned, or mirrored, alike: the center of class 0 lies to the right in the plane, and in the middle of the
    map of the sphere; that of class 1 above it, or to the right of it. Angles stay what they are.
    """
    x = embed(parameters, held_out.pixels)[0]
    middle = centers(unit(x), held_out.labels)
    q, r = np.linalg.qr(middle[: x.shape[1]].T)
    turn = q * np.sign(np.diagonal(r))
    weights = np.reshape(parameters.get("w", []), (-1, x.shape[1]))
    drawn = x / np.linalg.norm(x, axis=1).max() if x.shape[1] == 2 else unit(x)
    of_weights = np.repeat(np.arange(CLASSES), len(weights) // CLASSES)
    return {
        "title": title,
        "loss": str(LOSSES[title]),
        "dimensions": x.shape[1],
        "points": placed(drawn @ turn),
        "labels": held_out.labels.tolist(),
        "centers": placed(middle @ turn),
        "weights": placed(unit(weights) @ turn) if len(weights) else [],
        "classes of weights": of_weights.tolist(),
    }


def placed(v: Any) -> list[list[int]]:
    """Points of the plane as they are, directions in space on a map of the sphere on which areas are right (Hammer)."""
    if v.shape[1] == 3:
        longitude = np.arctan2(v[:, 1], v[:, 0]) / 2.0
        across = np.hypot(v[:, 0], v[:, 1])  # cosine of the latitude
        v = np.stack([2.0 * across * np.sin(longitude), v[:, 2]], axis=1)
        v /= np.sqrt(1.0 + across * np.cos(longitude))[:, None]
    return np.rint(1000.0 * v).astype(int).tolist()


# ---------------------------------------------------------------------------------------------------------- the drawing


def figure(panel: dict[str, Any]) -> str:
    """Draw a panel with its numbers: a dot per digit, a ring per row of class weights, each class at its center."""
    numbers = (
        f"within {panel['within']:.1f}°, between {panel['between']:.1f}°, nearest {panel['nearest']:.1f}°, "
        f"accuracy {100.0 * panel['accuracy']:.1f}\N{NARROW NO-BREAK SPACE}%"
    )
    flat = panel["dimensions"] == 2
    box = "-1250 -1250 2500 2500" if flat else "-2100 -1100 4200 2200"
    label = f"Held-out digits, embedded by {panel['title']}: {numbers}"
    parts = [f'<svg viewBox="{box}" role="img" aria-label="{label}">']
    parts.append(
        f'<ellipse rx="{1000 if flat else 2000}" ry="1000" fill="none" stroke="currentColor" stroke-width="8"/>'
    )
    for k, colour in enumerate(COLOURS):
        of_points = zip(panel["points"], panel["labels"], strict=True)
        of_weights = zip(panel["weights"], panel["classes of weights"], strict=True)
        dots = "".join(f"M{x} {-y}h0" for (x, y), own in of_points if own == k)  # lines of no length with round ends
        rings = "".join(f'<circle cx="{x}" cy="{-y}" r="60"/>' for (x, y), own in of_weights if own == k)
        parts.append(f'<g fill="none" stroke="{colour}" stroke-width="24">')
        parts.append(f'<path d="{dots}" style="stroke-linecap: round; stroke-width: 44"/>{rings}</g>')
    away = 1.15 if flat else 1.0
    for k, (x, y) in enumerate(panel["centers"]):
        parts.append(f'<text x="{away * x:.0f}" y="{-away * y:.0f}">{k}</text>')
    caption = f"<b>{panel['title']}</b> <code>{panel['loss']}</code> {numbers}"
    return f"<figure>{''.join(parts)}</svg><figcaption>{caption}</figcaption></figure>"


COLOURS = (
    *("#c4524f", "#b0682a", "#8a7d1f", "#4f8a34", "#1f8d6c"),
    *("#1c889c", "#3d78c4", "#7a66c4", "#a856ad", "#c04e83"),
)
STYLE = """
figure { display: inline-block; width: 18rem; margin: .5rem; vertical-align: top; font: .8rem sans-serif; }
text { font: bold 150px sans-serif; text-anchor: middle; dominant-baseline: central; paint-order: stroke;
       stroke: white; stroke-width: 40; }
"""


def main() -> None:
    """Train every panel, print its numbers, and write gallery.html."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    parser = argparse.ArgumentParser(
        description="Train a small network on digits with each loss, and draw gallery.html."
    )
    parser.add_argument("--seed", type=int, default=0, help="of the digits held out, the first weights and the batches")
    parser.add_argument("--out", type=Path, default=Path("gallery.html"))
    options = parser.parse_args()
    train, held_out = digits(options.seed)
    panels = []
    with Progress() as progress:
        task = progress.add_task("training", total=len(DIMENSIONS) * len(LOSSES) * number_of_steps(train))
        for dimensions in DIMENSIONS:
            for title in LOSSES:
                progress.update(task, description=f"{title}, {dimensions}-D")
                panels.append(
                    trained(title, dimensions, (train, held_out), options.seed, lambda step: progress.advance(task))
                )
    table = Table("dimensions", "loss", *("within", "between", "nearest", "accuracy"))
    for each in panels:
        table.add_row(
            str(each["dimensions"]),
            each["title"],
            *(f"{each[name]:.1f}°" for name in ("within", "between", "nearest")),
            f"{100.0 * each['accuracy']:.1f} %",
        )
    Console().print(table)
    options.out.write_text(
        f'<!doctype html><meta charset="utf-8"><title>Embeddings of digits</title><style>{STYLE}</style>'
        + "".join(figure(each) for each in panels)
    )


if __name__ == "__main__":
    main()
