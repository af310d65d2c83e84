"""A job of the ledger, one image: its states, and from which of them it goes to which, as one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of a job: one image, planning CT or fraction."""

    HELD = "held"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    REVIEW = "review"
    REFUSED = "refused"
    FAILED = "failed"


TRANSITIONS: dict[State | None, frozenset[State]] = {
    None: frozenset({State.HELD, State.READY, State.REFUSED}),
    State.HELD: frozenset({State.READY, State.REFUSED, State.HELD, State.DONE, State.REVIEW}),
    State.READY: frozenset({State.RUNNING, State.READY, State.HELD, State.DONE, State.REVIEW}),
    State.RUNNING: frozenset({State.DONE, State.REVIEW, State.REFUSED, State.FAILED, State.READY}),
    State.DONE: frozenset({State.READY, State.HELD}),
    State.REVIEW: frozenset({State.READY, State.HELD}),
    State.REFUSED: frozenset({State.READY, State.HELD, State.DONE, State.REVIEW}),
    State.FAILED: frozenset({State.READY, State.HELD, State.DONE, State.REVIEW}),
}
"""A job that is held, ready, refused or failed is done without work where its newest output is of its very key."""
FINISHED = frozenset({State.DONE, State.REVIEW, State.REFUSED, State.FAILED})


@dataclass(frozen=True)
class Job:
    """One row: `image` is a hash of the series' UID, `key` of everything that decides its result.

    `changed` says when it came into its state; of a held one, when its files were last seen to change. `seen` is the key
    that these files had. `closed` says that a person has taken note of its failure.
    """

    image: str
    case: str
    key: str
    state: State
    reasons: tuple[str, ...]
    attempts: int
    first_seen: float
    changed: float
    seen: str
    closed: bool


@dataclass(frozen=True)
class Placed:
    """A fraction's place: its image (as `Job.image`), hash of its patient, UID of its plan, and when it was acquired."""

    image: str
    patient: str
    plan: str
    acquired: str
