"""Whether all slices of a series are there, as far as its headers and files tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise

from patient.errors import InputError
from patient.read.headers import Header
from patient.read.index import SeriesEntry

UNTOLD = "No header says how many slices the series has: whether all are there is not known"


def lacking(entry: SeriesEntry) -> tuple[str, ...]:
    """Why slices are known to be missing, or may be, in sentences; empty where nothing says so.

    Counted are Number of Series Related Instances (0020,1209) of the series, Images in Acquisition (0020,1002) of each
    acquisition, and files beside the series that cannot be read. Instance numbers say less, see `remarks`.
    """
    return (*_unreadable(entry), *_fewer_than_said(entry.headers))


def remarks(entry: SeriesEntry) -> tuple[str, ...]:
    """What is not known of a series' slices, and what instance numbers say of it."""
    untold = () if _is_multi_frame(entry.headers) or any(_expected(entry.headers)) else (UNTOLD,)
    return (*untold, *_numbering(entry))


def _numbering(entry: SeriesEntry) -> tuple[str, ...]:
    """What instance numbers say of slices that may be missing: nothing certain, as series are numbered from anywhere."""
    numbers = sorted({n for header in entry.headers if (n := _count(header, "InstanceNumber", least=0)) is not None})
    if len(numbers) < len(entry.headers) or len(numbers) < 2:
        return ()
    steps = [b - a for a, b in pairwise(numbers)]
    if gaps := sum(step > min(steps) for step in steps):
        return (f"Instance Numbers {numbers[0]} to {numbers[-1]} have {gaps} gaps",)
    return (f"Instance Numbers begin with {numbers[0]}: slices before it may be missing",) if numbers[0] > 1 else ()


def stated_completeness(entry: SeriesEntry) -> bool:
    """Whether headers say how many slices there are, and all of them are there."""
    said = list(_expected(entry.headers))
    return bool(said) and all(there >= count for _, there, count in said)


def _unreadable(entry: SeriesEntry) -> Iterator[str]:
    known = [problem for problem in entry.unreadable if problem.remains.series_uid == entry.uid]
    beside = len(entry.unreadable) - len(known)
    if known:
        yield f"{_files(len(known))} of the series cannot be read: {known[0].error.what}"
    if beside and not stated_completeness(entry):
        yield f"{_files(beside)} beside the series cannot be read and may be of it"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _fewer_than_said(headers: Sequence[Header]) -> Iterator[str]:
    for what, there, count in _expected(headers):
        if there < count:
            yield f"{there} of {count} slices are there ({what})"


def _expected(headers: Sequence[Header]) -> Iterator[tuple[str, int, int]]:
    """What says how many there are, how many are there, and how many it says. Multi-frame files hold all of theirs."""
    if _is_multi_frame(headers):
        return
    distinct = {header.text("SOPInstanceUID") or str(header.path): header for header in headers}.values()
    if related := max((_count(header, "NumberOfSeriesRelatedInstances") or 0 for header in distinct), default=0):
        yield "Number of Series Related Instances", len(distinct), related
    acquisitions: dict[str, list[Header]] = defaultdict(list)
    for header in distinct:
        acquisitions[header.text("AcquisitionNumber")].append(header)
    for number, held in sorted(acquisitions.items()):
        if count := max(_count(header, "ImagesInAcquisition") or 0 for header in held):
            yield f"Images in Acquisition{f', acquisition {number}' if len(acquisitions) > 1 else ''}", len(held), count


def _is_multi_frame(headers: Sequence[Header]) -> bool:
    return any((_count(header, "NumberOfFrames") or 1) > 1 for header in headers)


def _count(header: Header, keyword: str, least: int = 1) -> int | None:
    """A whole number from `least` on; None where it is missing or makes no sense."""
    with suppress(InputError):
        return value if (value := header.whole_number(keyword, least - 1)) >= least else None
    return None
