"""Seconds and peak memory of calls, measured side by side in one run.

The machine's speed drifts, so contenders take turns in rounds, and what counts is the median over rounds of a
contender's seconds over the floor's in the same round.

What a call takes also depends on the call before it. When a library returns, its idle threads spin for up to 0.2 s and
take a core from whoever runs next; and the caches hold the other's arrays. `with_pauses` measures a contender alone: a
turn is a pause, a call that is not counted, and calls that are. `without_pauses` measures what a program has that calls
several libraries in turn: a turn is one call.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

Call = Callable[[], Any]
Calls = dict[str, Call]
Seconds = dict[str, list[float]]
"""By contender, an entry per round."""

PAUSE = 0.3  # s: longer than idle threads spin
SLOW = 2.0  # s: what takes longer is called once a turn, in the first two rounds only


def timed(call: Call) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def with_pauses(calls: Calls, rounds: int) -> Seconds:
    """Seconds of each contender as if alone; each round begins with another one."""
    slow = {name: timed(call) > SLOW for name, call in calls.items()}
    seconds: Seconds = {name: [] for name in calls}
    for number in range(rounds):
        for name in rotated(list(calls), number):
            if number < 2 or not slow[name]:
                seconds[name].append(_turn(calls[name], slow[name]))
    return seconds


def _turn(call: Call, slow: bool) -> float:
    """Pause, call once uncounted, then three times or for a second; the median of the seconds."""
    time.sleep(PAUSE)
    if slow:
        return timed(call)
    call()
    seconds: list[float] = []
    while len(seconds) < 3 and sum(seconds) < 1.0:
        seconds.append(timed(call))
    return statistics.median(seconds)


def without_pauses(calls: Calls, rounds: int) -> Seconds:
    """Seconds of one call right after another contender's; each follows each of the others equally often."""
    for call in calls.values():
        call()
    seconds: Seconds = {name: [] for name in calls}
    for number in range(rounds):
        for name in balanced(list(calls), number):
            seconds[name].append(timed(calls[name]))
    return seconds


def rotated(names: list[str], number: int) -> list[str]:
    """Names in their order, beginning with another one in each round."""
    first = number % len(names)
    return names[first:] + names[:first]


def balanced(names: list[str], number: int) -> list[str]:
    """Names in an order of their own for each round: a row of a Williams design, https://doi.org/10.1071/CH9490149.

    Over as many rounds as there are names (twice as many where that is odd) each name follows each other one equally
    often. In the first round the names are taken from both ends: 0, 1, n−1, 2, n−2, …
    """
    count = len(names)
    steps = [(k + 1) // 2 if k % 2 else -(k // 2) for k in range(count)]
    order = [names[(number + step) % count] for step in steps]
    return order[::-1] if count % 2 and number // count % 2 else order


def ratios(seconds: Seconds, name: str, over: str = "floor") -> list[float]:
    """A contender's seconds over another's, round by round; a slow contender has fewer rounds."""
    return [a / b for a, b in zip(seconds.get(name, ()), seconds[over], strict=False)]


def peak_memory(call: Call) -> int:
    """Peak bytes of what NumPy and Python hold beyond inputs and outputs, as tracemalloc counts them."""
    gc.collect()
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gradients = result[1] if isinstance(result, tuple) else ()
    return peak - sum(array.nbytes for array in gradients if array is not None)
