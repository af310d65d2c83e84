"""What is to be done about each image of an inbox: it is held, due, or left as it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patient.read.index import SeriesEntry
from pipelines.configuration import Configuration
from pipelines.job_key import case_name, image_key
from pipelines.ledger import FINISHED, MOST_ATTEMPTS, Ledger, State
from pipelines.night_record import CaseLine
from pipelines.pairing import PairedFraction


@dataclass(eq=False)
class Worklist:
    """Of one night.

    Args:
        lines: what the night says of each image, by its key in the ledger.
        entries: the images that are due, by the same key.
        images: their keys, by case.
        unchanged: images about which there was nothing to do.
    """

    ledger: Ledger
    configuration: Configuration
    lines: dict[str, CaseLine] = field(default_factory=dict)
    entries: dict[str, SeriesEntry] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0

    def settled(self, entry: SeriesEntry, paths: Sequence[Path]) -> bool:
        """Whether all files of a case have been quiet for long enough; holds it where not."""
        quiet = (time.time() - max(path.stat().st_mtime for path in paths)) / 60.0
        if quiet < self.configuration.settle_minutes:
            self.hold(entry, f"files still arriving: quiet for {quiet:.1f} of {self.configuration.settle_minutes:g} minutes")
            return False
        return True

    def hold(self, entry: SeriesEntry, reason: str) -> None:
        """Wait with an image, and not for ever."""
        image, case, state = image_key(entry), case_name(entry), State.HELD
        job = self.ledger.job(image)
        over = f"not whole after {self.configuration.hold_days:g} days: {reason}"
        if job is not None and job.state is State.REFUSED and job.reasons == (over,):
            self.leave()
            return
        since = job.changed if job is not None and job.state is State.HELD else time.time()
        self.ledger.move(image, State.HELD, case=case, reasons=(reason,))
        if (time.time() - since) / 86400.0 > self.configuration.hold_days:
            state, reason = State.REFUSED, over
            self.ledger.move(image, State.REFUSED, reasons=(reason,))
        self.lines[image] = CaseLine(case=case, state=state, reasons=(reason,))

    def leave(self) -> None:
        """There is nothing to do about an image."""
        self.unchanged += 1

    def due(self, entry: SeriesEntry, key: str, fraction: PairedFraction | None = None) -> bool:
        """Whether there is something to do about an image: its key is new, or it failed and may be tried again."""
        image, case = image_key(entry), case_name(entry)
        job = self.ledger.job(image)
        given_up = job is not None and (job.state is not State.FAILED or job.attempts >= MOST_ATTEMPTS)
        if job is not None and job.key == key and job.state in FINISHED and given_up:
            self.leave()
            return False
        self.ledger.move(image, State.READY, case=case, key=key)
        self.entries[image], self.images[case] = entry, image
        number, notes = (fraction.number, fraction.notes) if fraction else (None, ())
        self.lines[image] = CaseLine(case=case, state=State.READY, fraction=number, notes=notes)
        return True
