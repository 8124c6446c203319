"""What goes wrong in code of losses: one table, from which causes are named and code with a defect is emulated.

A row has a name, a sentence for the user, where it applies, and what code with it computes: a loss of refloss with
other settings, the same loss of other inputs, a changed step, or a changed gradient. `check` tries rows by themselves
and, where none explains what it saw, in pairs. `Emulated` puts defects into a loss.
"""

from refloss.testing.defects.emulated import Emulated
from refloss.testing.defects.row import KINDS, Defect
from refloss.testing.defects.table import TABLE, combined, defects

__all__ = ["KINDS", "TABLE", "Defect", "Emulated", "combined", "defects"]
