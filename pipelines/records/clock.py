"""How long each step of a case takes, and how much memory at most."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipelines.records.case import Timing


@dataclass
class Clock:
    """Wall seconds by step."""

    steps: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        before = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = round(self.steps.get(name, 0.0) + time.monotonic() - before, 3)

    def timing(self) -> Timing:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Timing(steps_s=self.steps, total_s=round(time.monotonic() - self.started, 3), peak_memory_mib=round(peak, 1))
