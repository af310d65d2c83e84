"""The ledger: the only state of the nights. SQLite in WAL mode, written by the night's own process alone.

States and their ways out are one table, the same as in the design; an illegal step raises.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

MOST_ATTEMPTS = 3


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
    State.HELD: frozenset({State.READY, State.REFUSED, State.HELD}),
    State.READY: frozenset({State.RUNNING, State.READY, State.HELD}),
    State.RUNNING: frozenset({State.DONE, State.REVIEW, State.REFUSED, State.FAILED, State.READY}),
    State.DONE: frozenset({State.READY, State.HELD}),
    State.REVIEW: frozenset({State.READY, State.HELD}),
    State.REFUSED: frozenset({State.READY, State.HELD}),
    State.FAILED: frozenset({State.READY, State.HELD}),
}
FINISHED = frozenset({State.DONE, State.REVIEW, State.REFUSED, State.FAILED})

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    image TEXT PRIMARY KEY, casename TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, reasons TEXT NOT NULL,
    attempts INTEGER NOT NULL, first_seen REAL NOT NULL, changed REAL NOT NULL, heartbeat REAL);
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, image TEXT NOT NULL REFERENCES jobs(image), key TEXT NOT NULL, started REAL NOT NULL,
    ended REAL, outcome TEXT, detail TEXT);
CREATE TABLE IF NOT EXISTS outputs (
    id INTEGER PRIMARY KEY, image TEXT NOT NULL REFERENCES jobs(image), key TEXT NOT NULL, folder TEXT NOT NULL,
    rtstruct_uid TEXT NOT NULL, state TEXT NOT NULL, reasons TEXT NOT NULL, published REAL);
CREATE TABLE IF NOT EXISTS fractions (
    image TEXT PRIMARY KEY REFERENCES jobs(image), patient TEXT NOT NULL, plan TEXT NOT NULL, acquired TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS contents (place BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS attempts_of ON attempts(image);
CREATE INDEX IF NOT EXISTS outputs_of ON outputs(image);
"""
_PATHS = "SELECT 1 FROM sqlite_master WHERE name = 'digests'"
"""A table of earlier versions, which held paths as text: they may hold a patient's name."""
_FORGET_PATHS = "PRAGMA secure_delete=ON; DROP TABLE digests; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)"


@dataclass(frozen=True)
class Job:
    """One row: `image` is a hash of the series' UID, `key` of everything that decides its result.

    `changed` says when it came into its state.
    """

    image: str
    case: str
    key: str
    state: State
    reasons: tuple[str, ...]
    attempts: int
    first_seen: float
    changed: float


@dataclass(frozen=True)
class Placed:
    """A fraction's place: its image (as `Job.image`), hash of its patient, UID of its plan, and when it was acquired."""

    image: str
    patient: str
    plan: str
    acquired: str


class Ledger:
    """Open with `with`; every step is one transaction, on disk when it returns."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        how = "?mode=ro" if read_only else ""
        if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
            how = "?immutable=1"  # WAL needs a file beside, which a read-only disk has no place for.
        self._db = sqlite3.connect(f"file:{quote(str(path))}{how}", uri=True, isolation_level=None, timeout=30.0)
        self._db.row_factory = sqlite3.Row
        if not read_only:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            if self._db.execute(_PATHS).fetchone():
                self._db.executescript(_FORGET_PATHS)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    @contextmanager
    def _step(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # A full disk has rolled it back already.
                self._db.execute("ROLLBACK")
            raise

    def job(self, image: str) -> Job | None:
        """The job of an image, if there is one."""
        row = self._db.execute("SELECT * FROM jobs WHERE image = ?", (image,)).fetchone()
        return _job(row) if row else None

    def jobs(self, *states: State) -> list[Job]:
        """Jobs in any of the states (all without), oldest first."""
        rows = self._db.execute("SELECT * FROM jobs ORDER BY first_seen, casename").fetchall()
        return [job for job in map(_job, rows) if not states or job.state in states]

    def move(self, image: str, to: State, *, case: str = "", key: str = "", reasons: Sequence[str] = ()) -> None:
        """Put a job into another state; a new image becomes a job by it.

        A new key (other inputs or configuration) starts its attempts anew.

        Raises:
            ValueError: the table of transitions does not allow the step.
        """
        with self._step() as db:
            _move(db, image, to, case, key, reasons)

    def start(self, image: str) -> int:
        """ready -> running: the attempt's number over all nights."""
        with self._step() as db:
            _move(db, image, State.RUNNING, "", "", ())
            db.execute("UPDATE jobs SET attempts = attempts + 1, heartbeat = ? WHERE image = ?", (time.time(), image))
            key = db.execute("SELECT key FROM jobs WHERE image = ?", (image,)).fetchone()["key"]
            made = db.execute("INSERT INTO attempts (image, key, started) VALUES (?, ?, ?)", (image, key, time.time()))
            return int(made.lastrowid or 0)

    def beat(self, images: Sequence[str]) -> None:
        """These are still being worked on."""
        with self._step() as db:
            db.executemany("UPDATE jobs SET heartbeat = ? WHERE image = ?", [(time.time(), image) for image in images])

    def end(self, image: str, attempt: int, to: State, reasons: Sequence[str], detail: str = "") -> None:
        """running -> finished, without an output."""
        with self._step() as db:
            _move(db, image, to, "", "", reasons)
            db.execute(
                "UPDATE attempts SET ended = ?, outcome = ?, detail = ? WHERE id = ?", (time.time(), to, detail, attempt)
            )

    def intend(self, image: str, folder: str, rtstruct_uid: str, to: State, reasons: Sequence[str]) -> int:
        """Say what is about to be published, before it is: a night that dies in between is read rightly by the next."""
        with self._step() as db:
            key = db.execute("SELECT key FROM jobs WHERE image = ?", (image,)).fetchone()["key"]
            made = db.execute(
                "INSERT INTO outputs (image, key, folder, rtstruct_uid, state, reasons) VALUES (?, ?, ?, ?, ?, ?)",
                (image, key, folder, rtstruct_uid, to, json.dumps(list(reasons))),
            )
            return int(made.lastrowid or 0)

    def published(self, output: int, attempt: int | None = None) -> None:
        """What was intended is now in the outbox: the job is done or to review."""
        with self._step() as db:
            row = db.execute("SELECT * FROM outputs WHERE id = ?", (output,)).fetchone()
            db.execute("UPDATE outputs SET published = ? WHERE id = ?", (time.time(), output))
            _move(db, row["image"], State(row["state"]), "", "", json.loads(row["reasons"]))
            db.execute(
                "UPDATE attempts SET ended = ?, outcome = ? WHERE id = ? OR (? IS NULL AND image = ? AND ended IS NULL)",
                (time.time(), row["state"], attempt, attempt, row["image"]),
            )

    def recover(self, cases: Path) -> list[Job]:
        """After a night that died: what it had published is recorded, what it had running is ready again, or failed at last.

        Called with the outbox locked: nobody else can be working on these jobs.
        """
        for row in self._db.execute("SELECT id, folder FROM outputs WHERE published IS NULL").fetchall():
            if (cases / row["folder"]).is_dir():
                self.published(int(row["id"]))
            else:
                with self._step() as db:
                    db.execute("DELETE FROM outputs WHERE id = ?", (row["id"],))
        lost = self.jobs(State.RUNNING)
        for job in lost:
            with self._step() as db:
                db.execute(
                    "UPDATE attempts SET ended = ?, outcome = 'lost' WHERE image = ? AND ended IS NULL",
                    (time.time(), job.image),
                )
                if job.attempts < MOST_ATTEMPTS:
                    _move(db, job.image, State.READY, "", "", ())
                else:
                    _move(db, job.image, State.FAILED, "", "", (f"the worker was lost {job.attempts} times",))
        return lost

    def place(self, fraction: Placed) -> None:
        """Say which plan an image is a fraction of; what was said before is forgotten."""
        said = (fraction.image, fraction.patient, fraction.plan, fraction.acquired)
        row = self._db.execute("SELECT * FROM fractions WHERE image = ?", (fraction.image,)).fetchone()
        if row is None or tuple(row) != said:
            with self._step() as db:
                db.execute("INSERT OR REPLACE INTO fractions VALUES (?, ?, ?, ?)", said)

    def displace(self, image: str) -> None:
        """An image is no fraction, or no longer."""
        if self._db.execute("SELECT 1 FROM fractions WHERE image = ?", (image,)).fetchone():
            with self._step() as db:
                db.execute("DELETE FROM fractions WHERE image = ?", (image,))

    def fractions(self, *, patient: str = "", plan: str = "") -> list[Placed]:
        """Fractions of all nights, of a patient or plan where one is given, in order of acquisition."""
        rows = self._db.execute(
            "SELECT * FROM fractions WHERE (?1 = '' OR patient = ?1) AND (?2 = '' OR plan = ?2) ORDER BY acquired, image",
            (patient, plan),
        )
        return [Placed(*row) for row in rows]

    def digests(self, paths: Sequence[Path]) -> list[bytes]:
        """SHA-256 of files; one that looks as it did (size, times, inode) is not read again.

        What a course's night costs would otherwise grow with every image that was ever given. A path is kept as its hash:
        it may hold a patient's name, and need not be text.
        """
        found, new = list[bytes](), list[tuple[bytes, str, bytes]]()
        for path in paths:
            state = path.stat()
            stamp = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
            place = hashlib.sha256(os.fsencode(path.resolve())).digest()
            row = self._db.execute("SELECT digest FROM contents WHERE place = ? AND stamp = ?", (place, stamp)).fetchone()
            if row is None:
                with path.open("rb") as file:
                    new.append((place, stamp, hashlib.file_digest(file, "sha256").digest()))
            found.append(row["digest"] if row is not None else new[-1][2])
        if new:
            with self._step() as db:
                db.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", new)
        return found

    def outputs(self, image: str) -> list[str]:
        """Folders of everything that was published of an image, oldest first."""
        rows = self._db.execute("SELECT folder FROM outputs WHERE image = ? AND published IS NOT NULL ORDER BY id", (image,))
        return [str(row["folder"]) for row in rows]

    def last_output(self, image: str) -> tuple[str, str]:
        """Folder and RTSTRUCT UID of the newest published output of an image; empty where there is none."""
        row = self._db.execute(
            "SELECT folder, rtstruct_uid FROM outputs WHERE image = ? AND published IS NOT NULL ORDER BY id DESC LIMIT 1",
            (image,),
        ).fetchone()
        return (str(row["folder"]), str(row["rtstruct_uid"])) if row else ("", "")


def _move(db: sqlite3.Connection, image: str, to: State, case: str, key: str, reasons: Sequence[str]) -> None:
    row = db.execute("SELECT * FROM jobs WHERE image = ?", (image,)).fetchone()
    before = State(row["state"]) if row else None
    if to not in TRANSITIONS[before]:
        raise ValueError(f"a job that is {before or 'new'} cannot become {to}")
    now, said = time.time(), json.dumps(list(reasons))
    if row is None:
        db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, 0, ?, ?, NULL)", (image, case, key, to, said, now, now))
        return
    again = bool(key) and key != row["key"]
    since = row["changed"] if before is to else now
    db.execute(
        "UPDATE jobs SET state = ?, reasons = ?, changed = ?, key = ?, casename = ?, attempts = ? WHERE image = ?",
        (to, said, since, key or row["key"], case or row["casename"], 0 if again else row["attempts"], image),
    )


def _job(row: sqlite3.Row) -> Job:
    return Job(
        row["image"],
        row["casename"],
        row["key"],
        State(row["state"]),
        tuple(json.loads(row["reasons"])),
        int(row["attempts"]),
        float(row["first_seen"]),
        float(row["changed"]),
    )
