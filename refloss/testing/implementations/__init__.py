"""Public implementations by name: which loss each of them is.

`run` has those that the tests run; `read_torch`, `read_pairs` and `read_others` those that were read at a commit.
"""

from __future__ import annotations

import refloss
from refloss.losses import LOSSES, Loss
from refloss.messages import shown
from refloss.testing.implementations import read_others, read_pairs, read_torch, run
from refloss.testing.implementations.row import Implementation

ROWS = (*run.ROWS, *read_torch.ROWS, *read_pairs.ROWS, *read_others.ROWS)


def known(loss: Loss | type[Loss] | str | None = None, framework: str | None = None) -> list[Implementation]:
    """Return public implementations, each with the loss that it is.

    Parameters
    ----------
    loss
        A loss, for implementations that equal it; a class of losses or its name, for all of that class; None for all.
    framework
        "torch", "jax", "numpy", "tensorflow", "paddle", "mxnet", "oneflow", "mindspore" or "caffe"; None for all.

    Returns
    -------
    list of Implementation
        Those that the tests run come first.

    Raises
    ------
    ValueError, TypeError
        For a loss or a framework that is none.
    """
    if framework is not None and framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}; got {shown(framework)}")
    wanted = _wanted(loss)
    return [row for row in ROWS if framework in (None, row.framework) and _is(row, wanted)]


FRAMEWORKS = tuple(dict.fromkeys(row.framework for row in ROWS))


def _wanted(loss: object) -> Loss | type[Loss] | None:
    """Return the loss, or the class that a name stands for."""
    if isinstance(loss, str):
        names: dict[str, type[Loss]] = {
            name: getattr(refloss, name) for name in refloss.__all__ if getattr(refloss, name) in LOSSES
        }
        if loss not in names:
            raise ValueError(f"loss must be one of {', '.join(names)}; got {shown(loss)}")
        return names[loss]
    if loss is None or isinstance(loss, Loss) or loss in LOSSES:
        return loss
    raise TypeError(f"loss must be a loss, a class of losses, its name or None; got {shown(loss)}")


def _is(row: Implementation, loss: Loss | type[Loss] | None) -> bool:
    """Whether an implementation is one that was asked for."""
    if loss is None:
        return True
    return isinstance(row.loss, loss) if isinstance(loss, type) else row.equal and row.loss == loss
