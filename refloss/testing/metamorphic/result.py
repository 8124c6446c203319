"""The result of trying every property, and how it is printed."""

from __future__ import annotations

from typing import NamedTuple

from refloss.testing.signatures import Loss


class Properties(NamedTuple):
    """The outcome of every property, and how it is printed."""

    loss: Loss
    dtype: str
    framework: str
    held: tuple[str, ...]
    """Properties that no input broke."""
    broken: dict[str, str]
    """Properties that some input broke, with the simplest such input."""
    untried: dict[str, str]
    """Properties that could not be tried, with the reason."""
    undecided: tuple[str, ...]
    """Why the result is undecided although nothing is broken. A refusal of ignored labels is no reason."""

    @property
    def state(self) -> str:
        """One of "holds", "broken" and "undecided"."""
        return "broken" if self.broken else "undecided" if self.undecided else "holds"

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return self.state == "holds"

    def __bool__(self) -> bool:
        """Whether every property holds."""
        return self.passed

    def __str__(self) -> str:
        """List the properties, each broken one with the simplest input that breaks it."""
        count = len(self.held) + len(self.broken) + len(self.untried)
        verdict = {
            "holds": "all properties hold" if not self.untried else "all properties hold that were tried",
            "broken": f"{len(self.broken)} of {count} properties broken",
            "undecided": "undecided",
        }
        lines = [f"{self.loss} in {self.dtype}, {self.framework}: {verdict[self.state]}"]
        lines += [f"  holds: {name}" for name in self.held]
        lines += [f"  untried: {name}\n    {reason}" for name, reason in self.untried.items()]
        lines += [f"  undecided: {reason}" for reason in self.undecided if reason not in self.untried]
        lines += [f"  broken: {name}\n    {example}" for name, example in self.broken.items()]
        return "\n".join(lines)
