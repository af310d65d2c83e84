"""The ledger: the only state of the nights. SQLite in WAL mode, written by the night's own process alone.

States and their ways out are one table (`pipelines.outbox.job`); an illegal step raises.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from patient.durable import sync
from pipelines.outbox.job import TRANSITIONS, Job, Placed, State
from pipelines.outbox.ledger_file import back_up, damaged, is_damage, open_ledger

MOST_ATTEMPTS = 3
_SHORT = 16
"""Bytes of a slice's digest."""


class Ledger:
    """Open with `with`; every step is one transaction, on disk when it returns.

    Raises:
        InputError: the file is damaged, or was written by a newer version; on leaving, where damage was met on the way.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._db = open_ledger(path, read_only=read_only)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._db.close()
        if is_damage(error):
            raise damaged(self._path) from error

    @contextmanager
    def _step(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
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

        A new key (other inputs or configuration) starts its attempts again.

        Raises:
            ValueError: the table of transitions does not allow the step.
        """
        with self._step() as db:
            _move(db, image, to, case, key, reasons)

    def hold(self, image: str, case: str, reason: str, seen: str = "") -> None:
        """Let a job wait. How long it does is counted from when its files were last seen to change.

        Args:
            seen: the key that its files have; empty where they could not be read.
        """
        with self._step() as db:
            _move(db, image, State.HELD, case, "", (reason,))
            db.execute(
                "UPDATE jobs SET seen = ?1, changed = CASE WHEN seen = ?1 THEN changed ELSE ?2 END WHERE image = ?3",
                (seen, time.time(), image),
            )

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
        """running -> finished, without an output: what was intended is not."""
        with self._step() as db:
            _move(db, image, to, "", "", reasons)
            db.execute("DELETE FROM outputs WHERE image = ? AND published IS NULL", (image,))
            db.execute(
                "UPDATE attempts SET ended = ?, outcome = ?, detail = ? WHERE id = ?", (time.time(), to, detail, attempt)
            )

    def give_back(self, why: str) -> list[Job]:
        """running -> ready, of all that is running: nobody could work on it to its end, and it does not count as tried."""
        running = self.jobs(State.RUNNING)
        with self._step() as db:
            for job in running:
                _move(db, job.image, State.READY, "", "", (why,))
                db.execute("UPDATE jobs SET attempts = attempts - 1 WHERE image = ?", (job.image,))
                _close_attempts(db, job.image, "given back")
        return running

    def intend(self, image: str, folder: str, rtstruct_uid: str, to: State, reasons: Sequence[str]) -> int:
        """Say what is about to be published, before it is: a night that dies in between is read rightly by the next."""
        with self._step() as db:
            key = db.execute("SELECT key FROM jobs WHERE image = ?", (image,)).fetchone()["key"]
            made = db.execute(
                "INSERT INTO outputs (image, key, folder, rtstruct_uid, state, reasons) VALUES (?, ?, ?, ?, ?, ?)",
                (image, key, folder, rtstruct_uid, to, json.dumps(list(reasons))),
            )
            return int(made.lastrowid or 0)

    def published(self, output: int) -> None:
        """What was intended is now in the outbox: the job is done or to review, unless it is about other inputs by now."""
        with self._step() as db:
            row = db.execute("SELECT * FROM outputs WHERE id = ?", (output,)).fetchone()
            db.execute("UPDATE outputs SET published = ? WHERE id = ?", (time.time(), output))
            job = db.execute("SELECT key, state FROM jobs WHERE image = ?", (row["image"],)).fetchone()
            if job["key"] == row["key"] and job["state"] != row["state"]:
                _move(db, row["image"], State(row["state"]), "", "", json.loads(row["reasons"]))
            _close_attempts(db, row["image"], row["state"])

    def confirm(self, cases: Path) -> None:
        """Settle what was intended to be published: it is where its folder is in its place, and else it never was.

        Raises:
            OSError: the disk does not confirm a folder that is there.
        """
        for row in self._db.execute("SELECT id, folder FROM outputs WHERE published IS NULL").fetchall():
            if (cases / row["folder"]).is_dir():
                sync(cases)
                self.published(int(row["id"]))
            else:
                with self._step() as db:
                    db.execute("DELETE FROM outputs WHERE id = ?", (row["id"],))

    def recover(self, cases: Path) -> list[Job]:
        """After a night that died: what it had published is recorded, what it had running is ready again, or failed at last.

        Called with the outbox locked: nobody else can be working on these jobs.
        """
        self.confirm(cases)
        lost = self.jobs(State.RUNNING)
        for job in lost:
            with self._step() as db:
                _close_attempts(db, job.image, "lost")
                if job.attempts < MOST_ATTEMPTS:
                    _move(db, job.image, State.READY, "", "", ())
                else:
                    _move(db, job.image, State.FAILED, "", "", (f"the worker was lost {job.attempts} times",))
        return lost

    def done_before(self, image: str, key: str) -> bool:
        """Whether an image's newest output is of this very key; its job is then what that output is, whatever came since."""
        row = self._db.execute(
            "SELECT * FROM outputs WHERE image = ? AND published IS NOT NULL ORDER BY id DESC LIMIT 1", (image,)
        ).fetchone()
        if row is None or row["key"] != key:
            return False
        job = self.job(image)
        if job is not None and (job.state != row["state"] or job.key != key):
            with self._step() as db:
                if job.state in (State.DONE, State.REVIEW):
                    _move(db, image, State.READY, "", key, ())
                _move(db, image, State(row["state"]), "", key, json.loads(row["reasons"]))
        return True

    def close(self, image: str) -> None:
        """A person has taken note of a failure: it is not told any more, unless its inputs change."""
        with self._step() as db:
            db.execute("UPDATE jobs SET closed = 1 WHERE image = ? AND state = ?", (image, State.FAILED))

    def retry(self, image: str) -> None:
        """A person wants a failed case tried again, as if it never had been.

        Raises:
            ValueError: it has not failed.
        """
        with self._step() as db:
            if db.execute("SELECT state FROM jobs WHERE image = ?", (image,)).fetchone()["state"] != State.FAILED:
                raise ValueError("only a failed job can be tried again")
            _move(db, image, State.READY, "", "", ())
            db.execute("UPDATE jobs SET attempts = 0 WHERE image = ?", (image,))

    def folders(self) -> list[str]:
        """Of everything that was published."""
        return [str(row["folder"]) for row in self._db.execute("SELECT folder FROM outputs WHERE published IS NOT NULL")]

    def faults(self) -> list[str]:
        """What SQLite's whole check of the file finds, in its words."""
        return [said for (said,) in self._db.execute("PRAGMA integrity_check(20)") if said != "ok"]

    def back_up(self) -> None:
        """Keep a whole copy beside the ledger. Raises OSError or sqlite3.Error where that cannot be."""
        back_up(self._db, self._path.parent)

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

    def stands_on(self, key: str, series: str, slices: Sequence[bytes]) -> None:
        """Say which slices of a series the result of a key is made from."""
        digests = b"".join(sorted(_short(slices)))
        with self._step() as db:
            db.execute("INSERT OR REPLACE INTO slices VALUES (?, ?, ?)", (series, key, digests))

    def slices_gone(self, series: str, slices: Sequence[bytes]) -> tuple[int, int]:
        """How many of the slices have gone that a series' newest output stands on, and how many these were.

        None counts as gone where others came or changed: then it is another image.
        """
        row = self._db.execute(
            "SELECT digests FROM slices JOIN outputs USING (key) WHERE series = ? AND published IS NOT NULL "
            "ORDER BY id DESC LIMIT 1",
            (series,),
        ).fetchone()
        digests, here = row["digests"] if row else b"", _short(slices)
        before = {digests[at : at + _SHORT] for at in range(0, len(digests), _SHORT)}
        return (len(before - here) if here < before else 0), len(before)

    def key_of_output(self, image: str) -> str:
        """Of the newest published output of an image; empty where there is none."""
        row = self._db.execute(
            "SELECT key FROM outputs WHERE image = ? AND published IS NOT NULL ORDER BY id DESC LIMIT 1", (image,)
        ).fetchone()
        return str(row["key"]) if row else ""

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
        db.execute(
            "INSERT INTO jobs (image, casename, key, state, reasons, attempts, first_seen, changed) "
            "VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
            (image, case, key, to, said, now, now),
        )
        return
    again = bool(key) and key != row["key"]
    since = row["changed"] if before is to else now
    db.execute(
        "UPDATE jobs SET state = ?, reasons = ?, changed = ?, key = ?, casename = ?, attempts = ?, closed = 0 "
        "WHERE image = ?",
        (to, said, since, key or row["key"], case or row["casename"], 0 if again else row["attempts"], image),
    )


def _short(slices: Sequence[bytes]) -> set[bytes]:
    return {hashlib.blake2b(one, digest_size=_SHORT).digest() for one in slices}


def _close_attempts(db: sqlite3.Connection, image: str, outcome: str) -> None:
    db.execute("UPDATE attempts SET ended = ?, outcome = ? WHERE image = ? AND ended IS NULL", (time.time(), outcome, image))


def _job(row: sqlite3.Row) -> Job:
    columns = row.keys()
    return Job(
        image=row["image"],
        case=row["casename"],
        key=row["key"],
        state=State(row["state"]),
        reasons=tuple(json.loads(row["reasons"])),
        attempts=int(row["attempts"]),
        first_seen=float(row["first_seen"]),
        changed=float(row["changed"]),
        seen=row["seen"] if "seen" in columns else "",  # A ledger that may only be read stays in its older schema.
        closed=bool(row["closed"]) if "closed" in columns else False,
    )
