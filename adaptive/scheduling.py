"""Structures side by side, the largest first: begun last, a body would keep one core at work while the others wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from patient.parallel import each

Item = TypeVar("Item")
Result = TypeVar("Result")


def largest_first(function: Callable[[Item], Result], items: Sequence[Item], size: Callable[[Item], float]) -> list[Result]:
    """The function's results in the items' order. Raises as `each`."""
    order = sorted(range(len(items)), key=lambda n: -size(items[n]))
    found = dict(zip(order, each(lambda n: function(items[n]), order), strict=True))
    return [found[n] for n in range(len(items))]
