"""The ledger's file: opened, migrated from an older schema, looked over, backed up and restored.

The version of the schema stands in `PRAGMA user_version`. A damaged file is told in a sentence with what to do about it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from patient.durable import sync
from patient.errors import InputError

LEDGER = "ledger.sqlite"
BACKUP = "ledger-backup.sqlite"

_FIRST = (
    """CREATE TABLE IF NOT EXISTS jobs (
    image TEXT PRIMARY KEY, casename TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, reasons TEXT NOT NULL,
    attempts INTEGER NOT NULL, first_seen REAL NOT NULL, changed REAL NOT NULL, heartbeat REAL)""",
    """CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, image TEXT NOT NULL REFERENCES jobs(image), key TEXT NOT NULL, started REAL NOT NULL,
    ended REAL, outcome TEXT, detail TEXT)""",
    """CREATE TABLE IF NOT EXISTS outputs (
    id INTEGER PRIMARY KEY, image TEXT NOT NULL REFERENCES jobs(image), key TEXT NOT NULL, folder TEXT NOT NULL,
    rtstruct_uid TEXT NOT NULL, state TEXT NOT NULL, reasons TEXT NOT NULL, published REAL)""",
    """CREATE TABLE IF NOT EXISTS fractions (
    image TEXT PRIMARY KEY REFERENCES jobs(image), patient TEXT NOT NULL, plan TEXT NOT NULL, acquired TEXT NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS contents (place BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS attempts_of ON attempts(image)",
    "CREATE INDEX IF NOT EXISTS outputs_of ON outputs(image)",
)
_SECOND = (
    "ALTER TABLE jobs ADD COLUMN seen TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN closed INTEGER NOT NULL DEFAULT 0",
    "DROP TABLE IF EXISTS digests",  # It held paths as text, which may hold a patient's name.
)
_THIRD = (
    "CREATE TABLE slices (series TEXT NOT NULL, key TEXT NOT NULL, digests BLOB NOT NULL, PRIMARY KEY (series, key))",
    "CREATE INDEX outputs_by ON outputs(key)",
)
_MIGRATIONS = (_FIRST, _SECOND, _THIRD)
"""What each version of the schema adds to the one before; a ledger without a number has the tables of the first."""
VERSION = len(_MIGRATIONS)
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def open_ledger(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a whole ledger of today's schema; made where there is none.

    Raises:
        InputError: damaged, written by a newer version, or gone while its backup is there.
    """
    if (path.parent / BACKUP).exists() and not (path.exists() and path.stat().st_size):
        raise damaged(path, "The ledger is gone, and its backup is there")
    db = _connected(path, read_only)
    try:
        if _faults(db):
            raise damaged(path)
        if (
            read_only and not db.execute("SELECT 1 FROM sqlite_master").fetchone()
        ):  # A run was stopped before its first table.
            db.close()
            db, read_only = _connected_to_nothing(), False
        _bring_forward(db, path, read_only)
    except BaseException as error:
        db.close()
        if is_damage(error):
            raise damaged(path) from error
        raise
    return db


def _connected(path: Path, read_only: bool) -> sqlite3.Connection:
    how = "?mode=ro" if read_only else ""
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        how = "?immutable=1"  # WAL needs a file beside, which a read-only disk has no place for.
    db = sqlite3.connect(f"file:{quote(os.fsencode(path))}{how}", uri=True, isolation_level=None, timeout=30.0)
    db.row_factory = sqlite3.Row
    return db


def _connected_to_nothing() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def _faults(db: sqlite3.Connection) -> list[str]:
    return [said for (said,) in db.execute("PRAGMA quick_check(5)") if said != "ok"]


def _bring_forward(db: sqlite3.Connection, path: Path, read_only: bool) -> None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise InputError(
            f"The ledger was written by a newer version (schema {version}; known up to {VERSION})",
            where=path.name,
            remedy="Use the version that wrote it, or a newer one",
        )
    if read_only:
        return
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    if version < VERSION:
        db.execute("PRAGMA secure_delete=ON")
        db.execute("BEGIN IMMEDIATE")
        for statement in (statement for steps in _MIGRATIONS[version:] for statement in steps):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
        db.executescript("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")  # What was dropped is gone from the file, too.


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite said that its file is damaged."""
    return isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def damaged(path: Path, what: str = "The ledger is damaged") -> InputError:
    """The sentence that says what to do."""
    backup = path.parent / BACKUP
    if not backup.is_file():
        return InputError(
            f"{what}, and there is no backup",
            where=path.name,
            why="Nobody can tell what was done already",
            remedy="Move it away: the next run makes a new one, and contours the inbox again beside what there is",
        )
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(backup.stat().st_mtime))
    return InputError(
        what,
        where=path.name,
        why=f"Nobody can tell what was done since its backup ({BACKUP}, of {when})",
        remedy="`recontour status OUTBOX --restore` puts the backup in its place and keeps the damaged file; what was "
        "published since is then done again beside what there is",
    )


def back_up(db: sqlite3.Connection, folder: Path) -> None:
    """Replace the backup in a folder by a whole copy of a ledger; the one before stays where that fails.

    Raises:
        OSError, sqlite3.Error: the copy could not be made.
    """
    beside = folder / f".{BACKUP}"
    beside.unlink(missing_ok=True)
    try:
        copy = sqlite3.connect(beside)
        try:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # One file, with nothing beside it.
        finally:
            copy.close()
        sync(beside)
        beside.replace(folder / BACKUP)
    finally:
        beside.unlink(missing_ok=True)


def restore(folder: Path) -> Path:
    """Put the backup in the ledger's place; where the ledger went. Only with the outbox locked.

    Raises:
        InputError: there is no backup, or it is damaged too.
    """
    backup, path = folder / BACKUP, folder / LEDGER
    if not backup.is_file():
        raise InputError("There is no backup of the ledger", where=BACKUP)
    _whole(backup)
    aside = folder / f"ledger-damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite"
    for ending in ("-wal", "-shm", ""):  # A journal that is left would be played into the backup.
        if (beside := folder / f"{LEDGER}{ending}").exists():
            beside.replace(folder / f"{aside.name}{ending}")
    copy = folder / f".{LEDGER}"
    copy.write_bytes(backup.read_bytes())
    sync(copy)
    copy.replace(path)
    sync(folder)
    return aside


def _whole(backup: Path) -> None:
    try:
        db = _connected(backup, read_only=True)
        try:
            faults = _faults(db)
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        faults = [str(error)]
    if faults:
        raise InputError("The backup of the ledger is damaged too", where=BACKUP, remedy="Move both away and start again")
