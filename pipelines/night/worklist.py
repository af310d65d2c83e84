"""What is to be done about each image of an inbox: it is held, due, or left as it is. Bytes decide, not times."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from patient.errors import InputError, RecontourError
from patient.read.index import SeriesEntry
from pipelines.configuration import Configuration
from pipelines.night.pairing import PairedFraction
from pipelines.outbox.job import FINISHED, Job, State
from pipelines.outbox.job_key import case_name, image_key
from pipelines.outbox.ledger import MOST_ATTEMPTS, Ledger
from pipelines.records.night import CaseLine

Slices = Mapping[str, Sequence[bytes]]
"""Slices of each series that a result stands on, by the series' key, as `job_key.slices` tells them."""
_GONE = "its files have left the inbox"
_NEVER_WHOLE = "never whole"
"""Key of what was refused without having been worked on: whatever comes is new."""


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
    _left: set[str] = field(default_factory=set)

    def leaves(self, entry: SeriesEntry, slices: Slices) -> bool:
        """Whether slices that are stood on have gone and nothing else came: a purge goes on, or an image is damaged.

        It waits, however long; what was made of it stays and goes on counting, and nothing is made from fewer slices.
        """
        image, case = image_key(entry), case_name(entry)
        for series, its in slices.items():
            gone, of = self.ledger.slices_gone(series, its)
            if gone:
                whose = "" if series == image else "its planning CT: "
                reason = f"{whose}{gone} of {of} slices have left the inbox: nothing is made from fewer"
                self._wait_beside_output(image, case, reason)
                return True
        return False

    def _wait_beside_output(self, image: str, case: str, reason: str) -> None:
        if made := self.ledger.key_of_output(image):
            self.ledger.hold(image, case, reason, made)
            self.lines[image] = CaseLine(case=case, state=State.HELD, reasons=(reason,))
        else:
            self._hold(image, case, reason)

    def due(
        self, entry: SeriesEntry, key: str, paths: Sequence[Path], slices: Slices, fraction: PairedFraction | None = None
    ) -> bool:
        """Whether there is something to do about an image: its key is new, or it failed and may be tried again.

        Args:
            key: of everything that decides its result.
            paths: its files, and those of what it stands on; a new key waits until they have been quiet for long enough.
            slices: that it stands on.
        """
        image, case = image_key(entry), case_name(entry)
        job = self.ledger.job(image)
        if self.ledger.done_before(image, key) or (job is not None and job.key == key and _is_over(job)):
            self.leave(image)
            return False
        if not self._settled(job, key, paths):
            minutes = self.configuration.settle_minutes
            self._hold(image, case, f"files still arriving: quiet for less than {minutes:g} minutes", key)
            return False
        for series, its in slices.items():
            self.ledger.stands_on(key, series, its)
        self.ledger.move(image, State.READY, case=case, key=key)
        self.entries[image], self.images[case] = entry, image
        number, notes = (fraction.number, fraction.notes) if fraction else (None, ())
        self.lines[image] = CaseLine(case=case, state=State.READY, fraction=number, notes=notes)
        return True

    def hold(self, entry: SeriesEntry, reason: str) -> None:
        """Wait with an image, and not for ever; what is done already stays as it is."""
        if self._stands(image_key(entry)):
            self.leave(image_key(entry))
        else:
            self._hold(image_key(entry), case_name(entry), reason)

    @contextmanager
    def own_fault_of(self, entry: SeriesEntry) -> Iterator[None]:
        """Whatever is raised about an image's files is that image's: it waits, the others do not.

        Raises:
            RecontourError, sqlite3.Error: what is wrong with the outbox or the ledger is everybody's.
        """
        try:
            yield
        except OSError as error:  # Files may go while the night looks.
            self.hold(entry, f"its files or those that it stands on cannot be read: {error.strerror}")
        except InputError as error:
            self.hold(entry, error.public)
        except (RecontourError, sqlite3.Error):
            raise
        except Exception as error:
            self.hold(entry, f"it cannot be looked at: unexpected {type(error).__name__}")

    def leave(self, image: str) -> None:
        """There is nothing to do about an image; one that failed for good is told until a person has taken note of it."""
        self._stands(image)
        job = self.ledger.job(image)
        if job is not None and job.state is State.FAILED and not job.closed:
            self.lines[image] = CaseLine(case=job.case, state=job.state, reasons=(*job.reasons, _until_when(job)))
        elif job is not None and job.state not in FINISHED:
            self.lines[image] = CaseLine(case=job.case, state=job.state, reasons=job.reasons)
        else:
            self._left.add(image)
            self.unchanged += 1

    def close(self, here: Collection[str]) -> None:
        """Tell what is unfinished and nobody has asked about tonight; what is not in the inbox any more waits for its files.

        Args:
            here: images of the inbox.
        """
        for job in self.ledger.jobs(State.READY, State.HELD, State.FAILED):
            if job.image in self.lines or job.image in self._left:
                continue
            if job.state is State.FAILED or (job.image not in here and self._stands(job.image)):
                self.leave(job.image)
            elif job.image in here:
                self.lines[job.image] = CaseLine(case=job.case, state=job.state, reasons=job.reasons)
            else:
                self._hold(job.image, job.case, _GONE)

    def _stands(self, image: str) -> bool:
        """Whether an image's output is of its newest inputs; where its slices leave, it is again what its output is."""
        job = self.ledger.job(image)
        if job is not None and job.state is State.HELD and job.seen:
            return self.ledger.done_before(image, job.seen)
        return job is not None and job.state in (State.DONE, State.REVIEW)

    def _settled(self, job: Job | None, key: str, paths: Sequence[Path]) -> bool:
        """Whether files have been quiet for long enough: by their own times, or as they were seen at an earlier look."""
        now, wanted = time.time(), 60.0 * self.configuration.settle_minutes
        if now - max(path.stat().st_mtime for path in paths) >= wanted:
            return True
        return job is not None and job.state is State.HELD and job.seen == key and now - job.changed >= wanted

    def _hold(self, image: str, case: str, reason: str, seen: str = "") -> None:
        job, state = self.ledger.job(image), State.HELD
        over = f"not whole after {self.configuration.hold_days:g} days: {reason}"
        if job is not None and job.state is State.REFUSED and job.reasons == (over,) and job.seen == seen:
            self.leave(image)
            return
        self.ledger.hold(image, case, reason, seen)
        held = self.ledger.job(image)
        if held is not None and (time.time() - held.changed) / 86400.0 > self.configuration.hold_days:
            state, reason = State.REFUSED, over
            self.ledger.move(image, State.REFUSED, key=_NEVER_WHOLE, reasons=(reason,))
        self.lines[image] = CaseLine(case=case, state=state, reasons=(reason,))


def _is_over(job: Job) -> bool:
    """Whether the same inputs are not worked on again."""
    return job.state in FINISHED and job.attempts > 0 and (job.state is not State.FAILED or job.attempts >= MOST_ATTEMPTS)


def _until_when(job: Job) -> str:
    return f"tried {job.attempts} times: told until `recontour status OUTBOX` is given --retry or --close {job.case}"
