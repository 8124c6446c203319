"""MkDocs hook: a line `::picture` becomes the picture of the chain, each box a link to its stage.

Drawn twice, across for wide windows and down for narrow ones. On a stage's own page its box is marked.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from mkdocs.utils import get_relative_url

DIRECTIVE = re.compile(r"^::picture$", re.MULTILINE)
ALTERNATIVE = (
    "x and W go through normalize, cosine, sub_centers, negatives and class_angles, the wide branch with every class; "
    "x and w_y through angle and margin, the narrow branch with the target class only. Both meet in logits, then "
    "log_softmax, cross_entropy, loss. Only some losses have quality, from the length of x to margin, sub_centers, "
    "which keeps the nearest center of a class, negatives, to which margin gives thresholds, and class_angles, which "
    "changes the angles of other classes; all others leave these out. Some go from logits through bias and "
    "binary_cross_entropy to the loss instead. The plain softmax head has linear in place of both branches, then "
    "softcap, which goes on to log_softmax and to logsumexp; that goes through z_loss to cross_entropy. The triplet "
    "loss goes from three embeddings through triplet to the loss, a divergence from two rows of logits through "
    "divergence."
)


class Spot(NamedTuple):
    """A place on the grid: how far along the chain, and in which row."""

    along: float
    row: float


BOXES = {
    "normalize": Spot(1, 0),
    "cosine": Spot(2, 0),
    "angle": Spot(1, 1),
    "margin": Spot(2, 1),
    "quality": Spot(2, 2),
    "sub_centers": Spot(3, 0),
    "negatives": Spot(4, 0),
    "class_angles": Spot(5, 0),
    "logits": Spot(6, 0.5),
    "log_softmax": Spot(7, 1),
    "cross_entropy": Spot(8, 1),
    "bias": Spot(7, 0),
    "binary_cross_entropy": Spot(8, 0),
    "linear": Spot(2, 3),
    "softcap": Spot(6, 3),
    "logsumexp": Spot(7, 3),
    "z_loss": Spot(8, 3),
    "triplet": Spot(1, 4),
    "divergence": Spot(7, 4),
}
WORDS = {
    "x, W": Spot(0, 0),
    "x, w_y": Spot(0, 1),
    "‖x‖": Spot(0, 2),
    "x, W, b": Spot(0, 3),
    "a, p, n": Spot(0, 4),
    "z, target": Spot(6, 4),
}
ENDS = {"loss": Spot(8.8, 0.5), "loss ": Spot(2, 4), "loss  ": Spot(8, 4)}
OF_SOME = ("quality", "sub_centers", "negatives", "class_angles", "bias", "binary_cross_entropy")
"""Boxes that only some losses on directions have."""
ARROWS = [
    ("x, W", "normalize"),
    ("normalize", "cosine"),
    ("cosine", "sub_centers"),
    ("sub_centers", "negatives"),
    ("negatives", "class_angles"),
    ("class_angles", "logits"),
    ("x, w_y", "angle"),
    ("angle", "margin"),
    ("margin", "logits"),
    ("‖x‖", "quality"),
    ("quality", "margin"),
    ("margin", "negatives"),
    ("logits", "log_softmax"),
    ("log_softmax", "cross_entropy"),
    ("cross_entropy", "loss"),
    ("logits", "bias"),
    ("bias", "binary_cross_entropy"),
    ("binary_cross_entropy", "loss"),
    ("x, W, b", "linear"),
    ("linear", "softcap"),
    ("softcap", "log_softmax"),
    ("softcap", "logsumexp"),
    ("logsumexp", "z_loss"),
    ("z_loss", "cross_entropy"),
    ("a, p, n", "triplet"),
    ("triplet", "loss "),
    ("z, target", "divergence"),
    ("divergence", "loss  "),
]
SPOTS = BOXES | WORDS | ENDS
OTHER = {"x, W, b", "linear", "softcap", "logsumexp", "z_loss", "a, p, n", "triplet", "z, target", "divergence"}
"""Where dashed arrows start: those of other heads, and of what only heads on logits have."""
DASHED = {("‖x‖", "quality"), ("quality", "margin"), ("margin", "negatives"), ("logits", "bias")}
DASHED |= {("bias", "binary_cross_entropy"), ("binary_cross_entropy", "loss")}
"""Dashed arrows of boxes that only some losses have."""
TURN = 2.25  # the row in which the arrow from softcap runs along the chain


class Layout(NamedTuple):
    """How the grid lies on the page, in units of the drawing."""

    name: str
    along: float
    row: float
    width: float
    down: bool

    def centre(self, spot: Spot) -> tuple[float, float]:
        """Where a spot is."""
        along, row = (spot.along + 0.5) * self.along, (spot.row + 0.5) * self.row
        return (row, along) if self.down else (along, row)


LAYOUTS = (Layout("across", 134, 62, 118, False), Layout("down", 62, 122, 118, True))
START, END = 0.15, 9.5  # where words begin and end along the chain
HALF = 19  # half the height of a box
LONGEST, LINE = 14, 8  # letters of a name on one line; how far two lines are from the middle


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the picture in."""
    stage = page.file.src_uri.removeprefix("stages/").removesuffix(".md")

    def drawn(match: re.Match[str]) -> str:
        return '<div class="picture">' + "".join(_svg(layout, page.url, stage) for layout in LAYOUTS) + "</div>"

    return DIRECTIVE.sub(drawn, markdown)


def _svg(layout: Layout, url: str, stage: str) -> str:
    start, length, across = START * layout.along, (END - START) * layout.along, 5 * layout.row
    sides = (0.0, start, across, length) if layout.down else (start, 0.0, length, across)
    view = " ".join(f"{side:g}" for side in sides)
    marker = f"tip-{layout.name}"
    tip = 'viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"'
    parts = [
        f'<svg class="{layout.name}" viewBox="{view}" role="group" aria-label="{ALTERNATIVE}">',
        f'<defs><marker id="{marker}" {tip}><path d="M0 0 10 5 0 10z"/></marker></defs>',
    ]
    parts += [_arrow(layout, *arrow, marker) for arrow in ARROWS]
    for name, spot in BOXES.items():
        x, y = layout.centre(spot)
        link = get_relative_url(f"stages/{name}/", url)
        classes = [*["here"] * (name == stage), *["some"] * (name in OF_SOME)]
        here = f' class="{" ".join(classes)}"' if classes else ""
        parts.append(
            f'<a href="{link}"{here}><rect x="{x - layout.width / 2:g}" y="{y - HALF}" width="{layout.width:g}" '
            f'height="{2 * HALF}" rx="5"/>{_name(name, x, y)}</a>'
        )
    for name, spot in (WORDS | ENDS).items():
        x, y = layout.centre(spot)
        parts.append(f'<text x="{x:g}" y="{y:g}">{name.strip()}</text>')
    return "".join(parts) + "</svg>"


def _name(name: str, x: float, y: float) -> str:
    """The name of a box, on two lines where it is longer than the box."""
    first, rest = name.split("_", 1) if len(name) > LONGEST else (name, "")
    if not rest:
        return f'<text x="{x:g}" y="{y:g}">{name}</text>'
    return "".join(
        f'<text x="{x:g}" y="{y + shift:g}">{line}</text>' for line, shift in ((f"{first}_", -LINE), (rest, LINE))
    )


def _arrow(layout: Layout, start: str, end: str, marker: str) -> str:
    """A line from the edge of one spot to the edge of the next; dashed where another head stands in."""
    half_box, side = (HALF, layout.width / 2) if layout.down else (layout.width / 2, HALF)
    half_word = 13 if layout.down else 40
    leave, enter = (half_box if name in BOXES else half_word for name in (start, end))
    # along the chain, and across it
    (a1, b1), (a2, b2) = (layout.centre(SPOTS[name])[:: -1 if layout.down else 1] for name in (start, end))
    if (start, end) == ("softcap", "log_softmax"):  # between the boxes, so that it crosses nothing
        between, turn = (a1 + a2) / 2, (TURN + 0.5) * layout.row
        points = [(a1 + leave, b1), (between, b1), (between, turn), (a2, turn), (a2, b2 + side)]
    elif (start, end) == ("margin", "negatives"):  # from below: the arrow from cosine comes from the side
        points = [(a1 + leave, b1), (a2, b2 + side)]
    elif a1 == a2:
        points = [(a1, b1 - side), (a2, b2 + side)]
    else:
        points = [(a1 + leave, b1), (a2 - enter, b2)]
    path = "L".join(" ".join(f"{place:g}" for place in (point[::-1] if layout.down else point)) for point in points)
    other = ' class="other"' if start in OTHER or (start, end) in DASHED else ""
    return f'<path{other} d="M{path}" marker-end="url(#{marker})"/>'
