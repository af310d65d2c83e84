"""What a job is called, and what decides its result: hashes of UIDs, files, and everything that a site sets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from patient.read.index import SeriesEntry
from pipelines.outbox.ledger import Ledger


def image_key(entry: SeriesEntry) -> str:
    """Of a job, as the ledger knows it: one image."""
    return hashlib.sha256(entry.uid.encode()).hexdigest()


def patient_key(patient_id: str) -> str:
    """Groups a patient's fractions without saying who it is."""
    return hashlib.sha256(f"recontour course {patient_id}".encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Whose:
    """Whose an image is, as documents may say it.

    Args:
        called: what pages call the patient; empty for nothing.
        hash: the same for all images of a patient.
    """

    called: str
    hash: str


def whose(patient_id: str) -> Whose:
    """Where no outbox has a secret to hash with: whoever can try all Patient IDs finds the one behind it."""
    return Whose(patient_word(patient_id), patient_key(patient_id))


def patient_word(patient_id: str) -> str:
    """What pages call a patient where no site says what they should: the begin of the hash; empty without Patient ID."""
    return patient_key(patient_id)[:8] if patient_id else ""


def case_name(entry: SeriesEntry) -> str:
    """Date and a hash of the UIDs; nothing else of a header may reach a path."""
    dates = [entry.headers[0].text(keyword) for keyword in ("AcquisitionDate", "SeriesDate", "StudyDate")]
    date = next((d for d in dates if re.fullmatch(r"\d{8}", d)), "00000000")
    return f"{date}-{hashlib.sha256(f'{entry.study_uid} {entry.uid}'.encode()).hexdigest()[:10]}"


def slices(entry: SeriesEntry, ledger: Ledger) -> tuple[bytes, ...]:
    """SOP Instance UID and file digest of each slice of a series, in order of UID."""
    ordered = sorted((header.text("SOPInstanceUID"), str(header.path)) for header in entry.headers)
    contents = ledger.digests([Path(path) for _, path in ordered])
    return tuple(uid.encode() + content for (uid, _), content in zip(ordered, contents, strict=True))


def series_digest(ordered: Iterable[bytes]) -> bytes:
    """SHA-256 over the slices of a series."""
    return hashlib.sha256(b"".join(ordered)).digest()


def job_key(rules: Iterable[str], contents: Sequence[bytes]) -> str:
    """SHA-256 over everything that decides a result.

    Args:
        rules: digests of template and policy, versions, seed, earlier results: whatever is text.
        contents: digests of images and objects, in an order that is always the same.
    """
    digest = hashlib.sha256("\n".join(rules).encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()
