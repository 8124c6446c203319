"""The gallery: its gradients, the same numbers from a seed, and a record that belongs to the script as it is."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refloss
from support import checks
from support.sampled import chosen

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "gallery.py"
SPEC: Any = importlib.util.spec_from_file_location("gallery", SCRIPT)
gallery: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)

RECORD = json.loads((ROOT / "docs" / "records" / "gallery.json").read_text())
PANELS = [(title, dimensions) for dimensions in gallery.DIMENSIONS for title in gallery.LOSSES]
H = 2.0**-24
"""The step of differences. Of 16,000 units that may pass their kink, one in a thousand batches has one that does."""


@pytest.fixture(scope="module")
def data():
    return gallery.digits(0)


@pytest.fixture
def one_epoch(monkeypatch):
    monkeypatch.setattr(gallery, "EPOCHS", 1)


def _watched(title, dimensions, train):
    """The first, a middle and the last step of a training."""
    count = gallery.number_of_steps(train)
    training = gallery.training(gallery.LOSSES[title], dimensions, train, 0)
    return [step for step in training if step.number in (0, count // 2, count - 1)]


def _random(step, dimensions, train):
    """The generator as it is when the step begins to compute its loss: triplets are drawn from it."""
    random = np.random.default_rng([0, dimensions])
    gallery.initial(step.loss, dimensions, random)
    for number in range(step.number + 1):
        if number % (len(train.labels) // gallery.BATCH) == 0:
            random.permutation(len(train.labels))
        if number < step.number and isinstance(step.loss, refloss.Triplet):
            random.random((gallery.BATCH, gallery.BATCH))
    return random


def _against_certified(step, random):
    """The gradients of the loss itself, within the contract, and that they are those that the step has used."""
    x, y = step.embeddings, step.batch.labels
    if isinstance(step.loss, refloss.Triplet):
        unit, keys, same = gallery.unit(x), random.random((len(y), len(y))), y[:, None] == y
        np.fill_diagonal(keys, 0.0)
        positive = np.where(same, keys, -1.0).argmax(axis=1)
        negative = np.where(same, -1.0, keys).argmax(axis=1)
        assert (y[positive] == y).all()
        assert (y[negative] != y).all()
        assert (positive != np.arange(len(y))).all()
        checks.against_certified(step.loss, unit, unit[positive], unit[negative])
        return
    of_classes = [step.parameters[name] for name in ("w", "b") if name in step.parameters]
    inputs = (x, of_classes[0], y, *of_classes[1:])
    checks.against_certified(step.loss, *inputs)
    gradients = step.loss.value_and_grad(*inputs)[1]
    for name in set(step.parameters) & {"w", "b"}:
        assert np.array_equal(step.gradients[name], getattr(gradients, name))


def _differences(step, dimensions, train, name, direction):
    """Slope of the whole loss as one of the parameters moves, by central differences, and what rounding may add to it.

    Each of three layers sums 64 products and a bias, so embeddings are within 195u of their absolute terms, and the sum
    below adds at most 21u of them (NumPy's sums are pairwise). Where weights of classes move, embeddings are the same
    at both ends. A value of the loss is within its contract. All of it enters at both ends, 2H apart. Truncation, H²/6
    of the third derivative, is far below. A detached gradient is no slope of the value; there the gradient of the
    embeddings, held as it is, stands for the loss.
    """
    detached = getattr(step.loss, "gradient", "exact") == "detached"
    values, kinks = [], []
    x, inputs = gallery.embed(step.parameters, step.batch.pixels)
    random = _random(step, dimensions, train)
    _, upstream, _ = gallery.loss_and_gradients(step.loss, x, step.batch.labels, step.parameters, random)
    for shift in (-H, H):
        moved = step.parameters | {name: step.parameters[name] + shift * direction}
        x, inputs = gallery.embed(moved, step.batch.pixels)
        random = _random(step, dimensions, train)
        value, _, _ = gallery.loss_and_gradients(step.loss, x, step.batch.labels, moved, random)
        values.append((upstream * x).sum() if detached else value)
        kinks.append([entry > 0.0 for entry in inputs[1:]])
    assert all(np.array_equal(*pair) for pair in zip(*kinks, strict=True)), "a unit passes its kink"
    absolute = {key: np.abs(entry) for key, entry in step.parameters.items()}
    terms, _ = gallery.embed(absolute, np.abs(step.batch.pixels))
    rounding = 0.0 if name in ("w", "b") else 216.0 * checks.U * (np.abs(upstream) * terms).sum()
    rounding += 0.0 if detached else _contract(step, values[0])
    return (values[1] - values[0]) / (2.0 * H), rounding / H


def _contract(step, value):
    """How far a value like that of the step may be from the truth."""
    if isinstance(step.loss, refloss.Triplet):
        return 64.0 * checks.U  # squared distances are up to 4
    bits, _ = checks.allowed(step.loss, step.embeddings, step.parameters["w"], step.batch.labels)
    return bits * checks.U * abs(float(value))


def _check(step, dimensions, train):
    """Every parameter's gradient against differences, along a random direction that has a part along the gradient."""
    for number, (name, gradient) in enumerate(step.gradients.items()):
        if name in ("w", "b") and getattr(step.loss, "gradient", "exact") == "detached":
            continue  # that of a detached head is compared with `certified` alone
        direction = np.random.default_rng(number).normal(size=gradient.shape)
        direction = direction / np.linalg.norm(direction) + gradient / (np.linalg.norm(gradient) or 1.0)
        slope, allowed = _differences(step, dimensions, train, name, direction)
        off = abs(float((gradient * direction).sum()) - slope)
        assert off <= allowed, f"{name}, step {step.number}: {off:.2g} from differences, allowed {allowed:.2g}"


@pytest.mark.parametrize(("title", "dimensions"), PANELS)
def test_gradients_pass_the_checks_at_the_first_a_middle_and_the_last_step(data, monkeypatch, title, dimensions):
    """In a whole training of the panels that this run draws, in one of a single epoch of the others."""
    if not chosen(f"{title}, {dimensions}"):
        monkeypatch.setattr(gallery, "EPOCHS", 1)
    for step in _watched(title, dimensions, data[0]):
        _against_certified(step, _random(step, dimensions, data[0]))
        _check(step, dimensions, data[0])


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.001])
@pytest.mark.parametrize("name", ["a0", "c0", "a1", "c1", "a2", "c2", "w"])
def test_wrong_gradients_are_rejected(data, one_epoch, name, factor):
    step = _watched("ArcFace, exact", 2, data[0])[0]
    wrong = step._replace(gradients=step.gradients | {name: factor * step.gradients[name]})
    with pytest.raises(AssertionError, match=f"{name}, step"):
        _check(wrong, 2, data[0])


def test_exact_and_detached_differ_in_the_gradient_alone():
    for title, loss in gallery.LOSSES.items():
        if title.endswith(", exact"):
            other = gallery.LOSSES[title.replace("exact", "detached")]
            assert replace(loss, gradient="detached") == other


def test_held_out_digits_are_not_trained_on(data):
    train, held_out = data
    assert (len(train.labels), len(held_out.labels)) == (1797 - gallery.HELD_OUT, gallery.HELD_OUT)
    rows = {row.tobytes() for row in np.round(train.pixels, 9)}
    assert len(rows & {row.tobytes() for row in np.round(held_out.pixels, 9)}) == 0
    assert set(held_out.labels) == set(range(10))


RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("gallery", sys.argv[1])
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)
gallery.EPOCHS = 1
gallery.LOSSES = {title: gallery.LOSSES[title] for title in ("ArcFace, exact", "Triplet")}
sys.argv = ["gallery.py", "--out", sys.argv[2]]
gallery.main()
"""


def test_the_script_writes_the_same_bits_whatever_the_threads(data, one_epoch, tmp_path):
    printed = []
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "COLUMNS": "100"}
        command = [sys.executable, "-c", RUN, str(SCRIPT), str(tmp_path / threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        printed.append(done.stdout[done.stdout.index("┏") :])
    assert printed[0] == printed[1]
    pages = [(tmp_path / threads).read_text() for threads in ("1", "2")]
    assert pages[0] == pages[1]
    here = [
        gallery.trained(title, dimensions, data, 0, lambda step: None)
        for dimensions in gallery.DIMENSIONS
        for title in ("ArcFace, exact", "Triplet")
    ]
    assert "".join(map(gallery.figure, here)) in pages[0]


def test_angles_and_accuracy_are_what_they_are_said_to_be():
    """Ten classes, 36° apart on the circle, two digits of each 3° to both sides of the center; one is misplaced."""
    y = np.repeat(np.arange(10), 2)
    turn = np.radians(36.0 * y + np.tile([-3.0, 3.0], 10))
    identity = {"a0": np.eye(2), "a1": np.eye(2), "a2": np.eye(2), "c0": np.full(2, 2.0), "c1": np.zeros(2)}
    identity["c2"] = np.full(2, -2.0)
    pixels = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    known = gallery.Digits(pixels, y)
    numbers = gallery.measured(identity, known, known)
    for name, expected in {"within": 3.0, "between": 100.0, "nearest": 36.0, "accuracy": 1.0}.items():
        assert numbers[name] == pytest.approx(expected, rel=1e-12), name
    seen = gallery.Digits(pixels, np.where(np.arange(20) == 0, 5, y))
    assert gallery.measured(identity, known, seen)["accuracy"] == 0.95


def test_the_map_of_the_sphere_keeps_areas():
    """The determinant of the map, over longitude and the sine of the latitude, is the same everywhere: 2π / 4π."""

    def placed(v):
        return np.array(gallery.placed(np.asarray(v))) / 1000.0

    def mapped(longitude, sine):
        across = np.sqrt(1.0 - sine**2)
        return placed(np.stack([across * np.cos(longitude), across * np.sin(longitude), sine], axis=-1))

    poles = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    assert placed(poles).tolist() == [[0, 0], [0, 1], [0, -1]]
    longitude, sine = (grid.ravel() for grid in np.meshgrid([-2.5, -1.0, 0.3, 2.0], [-0.7, 0.0, 0.6]))
    step = 0.05
    ends = [
        (mapped(longitude + a, sine + b) - mapped(longitude - a, sine - b)) / (2.0 * step)
        for a, b in ((step, 0.0), (0.0, step))
    ]
    area = ends[0][:, 0] * ends[1][:, 1] - ends[0][:, 1] * ends[1][:, 0]
    # both ends are rounded to 1/2000, and truncation is of the size of the square of the step
    assert np.abs(area - 0.5).max() < 0.05


def test_the_record_is_of_the_script_as_it_is():
    """It is digested up to its drawing, which may change; `.ci/record gallery` writes the record anew."""
    text, drawing, _ = SCRIPT.read_text().partition("- the drawing\n")
    assert drawing
    assert RECORD["script"] == hashlib.sha256(text.encode()).hexdigest()
    assert [(panel["title"], panel["dimensions"]) for panel in RECORD["panels"]] == PANELS
    page = (ROOT / "docs" / "records" / "gallery.md").read_text()
    assert RECORD["facts"] in page
    for panel in RECORD["panels"]:
        assert panel["loss"] == str(gallery.LOSSES[panel["title"]])
        assert len(panel["points"]) == len(panel["labels"]) == gallery.HELD_OUT
        tables = page.partition("## Two dimensions")[2].partition("## Three dimensions")
        (row,) = re.findall(
            rf"^\| {re.escape(panel['title'])}: .*$", tables[panel["dimensions"] - 2 and 2], re.MULTILINE
        )
        for name, factor in (("within", 1.0), ("between", 1.0), ("nearest", 1.0), ("accuracy", 100.0)):
            assert f" {factor * panel[name]:.1f} (" in row
