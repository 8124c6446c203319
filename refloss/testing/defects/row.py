"""What a row of the table is, and how rows are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from refloss.testing.defects.emulations import Emulation, without_defects
from refloss.testing.signatures import Loss, with_settings

KINDS = ("setting", "step", "inputs", "gradient", "rounding")
"""Kinds of defects, in the order in which several are put into one loss."""


class Defect(NamedTuple):
    """One thing that goes wrong, and what code with it computes."""

    name: str
    """A few words, by which `Emulated` knows it."""
    sentence: str
    """What `check` says; ``{loss.m}`` stands for a setting of the loss, ``{other.m}`` for one of the loss with it."""
    applies: Callable[[Loss], bool]
    """Whether a loss can have it."""
    emulate: Callable[[Any], Any]
    """Return the loss with it, a loss of refloss or what is called as one; ValueError where that is refused."""
    kind: str = "setting"
    """One of `KINDS`."""
    whole: bool = True
    """Whether the sentence stands alone; else it goes on after "the gradient of x"."""

    def of(self, loss: Any) -> Any | None:
        """Return the loss with this defect; None where it cannot have it, alone or beside those that it has."""
        if self.kind == "setting" and isinstance(loss, Emulation):
            return None
        try:
            return self.emulate(loss) if self.applies(without_defects(loss)) else None
        except (ValueError, TypeError):
            return None

    def said(self, loss: Any, other: Any) -> str:
        """Return the sentence about a loss and the loss with this defect."""
        return self.sentence.format(loss=loss, other=without_defects(other))


Change = object | Callable[[Any], object]
"""A value of a setting, or a function of the loss that gives it."""


def setting(name: str, sentence: str, applies: Callable[[Any], bool], **changes: Change) -> Defect:
    """Return a row of other settings."""

    def emulate(loss: Any) -> Any:
        return with_settings(loss, **{key: to(loss) if callable(to) else to for key, to in changes.items()})

    return Defect(name, sentence, applies, emulate)


@lru_cache(maxsize=64)
def _listed(generator: Callable[[Any], Iterable[tuple[str, Any]]], loss: Any) -> dict[str, Any]:
    return dict(generator(loss))


def listed(
    generator: Callable[[Any], Iterable[tuple[str, Any]]],
    losses: Iterable[Any],
    kind: str = "setting",
    emulation: Callable[[Any, Any], Any] = lambda loss, other: other,
) -> tuple[Defect, ...]:
    """Return the rows of a function that yields sentences, and what each stands for, of some losses.

    The name of a row is what its sentence says before any colon.
    """
    sentences = dict.fromkeys(sentence for loss in losses for sentence in _listed(generator, loss))

    def row(sentence: str) -> Defect:
        def applies(loss: Any) -> bool:
            return sentence in _listed(generator, loss)

        def emulate(loss: Any) -> Any:
            if isinstance(loss, Emulation):
                raise TypeError("loss: expected a loss of refloss")
            return emulation(loss, _listed(generator, loss)[sentence])

        return Defect(sentence.partition(":")[0], sentence, applies, emulate, kind)

    return tuple(map(row, sentences))
