"""Threads for work that goes plane by plane: as many as this process may use, results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads() -> int:
    """Threads of this process: OMP_NUM_THREADS where somebody set it (a night sets it for its workers), else all cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(said)) if said.isdigit() else (os.cpu_count() or 1)


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The function's results in the items' order. numpy, scipy, shapely and edt let go of the GIL at work.

    Raises:
        Whatever the function raises, of the first item that does.
    """
    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(function, items))
