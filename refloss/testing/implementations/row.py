"""What is known of an implementation: where it is, which loss it is, and where it is another."""

from __future__ import annotations

from typing import NamedTuple

from refloss.losses import Loss
from refloss.testing.defects import Emulated


class Implementation(NamedTuple):
    """Public code that computes a loss, and the loss of refloss that equals it.

    Where the code returns logits, the loss is that of their cross entropy. Equal means by value and gradients in exact
    arithmetic; a bound that keeps cosines away from -1 and 1 by 1e-5 or less stands among the remarks.
    """

    library: str
    """As its users call it."""
    code: str
    """How it is called, with the settings that the loss is stated for."""
    repository: str
    """Owner and name on GitHub."""
    path: str
    """Of the file, in the repository or, for code that the tests run, in the installed package."""
    revision: str
    """The commit that was read, or the version of the package that the tests run."""
    framework: str
    loss: Loss
    """The loss that equals it; where `differs` says something, the nearest one."""
    package: str = ""
    """Name of the package, for code that the tests run; empty for what was read and not run."""
    differs: str = ""
    """Where value or gradients are not those of the loss; empty where they are."""
    defects: tuple[str, ...] = ()
    """Names of defects with which the loss is the code, where there are such names for all that differs."""
    defaults: str = ""
    """The settings that hold where none are given."""
    units: str = ""
    """Of a margin on the angle: "radians" or "degrees"."""
    remarks: str = ""

    @property
    def status(self) -> str:
        """Return "run" where refloss's tests run the code, and "read" where it was read at its revision."""
        return "run" if self.package else "read"

    @property
    def equal(self) -> bool:
        """Return whether the loss equals the code."""
        return not self.differs

    @property
    def emulated(self) -> Loss | Emulated | None:
        """Return what equals the code: the loss, or the loss with these defects; None where they are not said."""
        if self.defects:
            return Emulated(self.loss, *self.defects)
        return self.loss if self.equal else None

    @property
    def url(self) -> str:
        """Return the address of the file at its commit, or of the repository of a package."""
        address = f"https://github.com/{self.repository}"
        return address if self.package else f"{address}/blob/{self.revision}/{self.path}"
