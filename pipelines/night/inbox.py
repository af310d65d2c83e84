"""What lies in an inbox, as pages may say it: no text of a header or path, but our own words, the site's, and hashes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from patient.errors import RecontourError, among, file_token
from patient.made_here import made_here
from patient.read.headers import MODALITIES
from patient.read.index import Index, SeriesEntry
from pipelines.configuration import Configuration
from pipelines.night.image_headers import acquired
from pipelines.night.pairing import Pairing
from pipelines.outbox.job_key import case_name
from pipelines.outbox.outbox import Outbox
from pipelines.records.night import ImageLabel, ProblemLine, SeriesLine

NAMED = 5
"""Files of one kind of problem that are named by their hashes; the others are counted."""


@dataclass(frozen=True, eq=False)
class Inbox:
    """One look at an inbox.

    Args:
        index: everything that was found.
        pairing: what of it belongs together.
        outbox, configuration: of the site, for its own words and key of patients.
    """

    index: Index
    pairing: Pairing
    outbox: Outbox
    configuration: Configuration

    def label(self, entry: SeriesEntry) -> ImageLabel:
        """What a person tells a series by."""
        site, header = self.configuration, entry.headers[0]
        who, number, station = (header.text(k) for k in ("PatientID", "SeriesNumber", "StationName"))
        return ImageLabel(
            patient=self.outbox.called(who, site.patient_key),
            acquired=_readable(acquired(entry)),
            series=int(number) if re.fullmatch(r"\d{1,9}", number) else None,
            station=site.stations.get(station, f"station {self.outbox.hashed(station)[:4]}" if station else ""),
            body_part=_body_part(header.text("BodyPartExamined"), site),
            files=len(entry.headers),
        )

    def series(self) -> tuple[SeriesLine, ...]:
        """Every series, with what is done with it and why; in order of patient and time."""
        uses = {id(entry): (use, why) for entry, use, why in self._uses()}
        lines = []
        for entry in self.index.series:
            use, why = uses[id(entry)]
            modality = among(entry.modality, MODALITIES, "other")
            case = case_name(entry) if entry.modality == "CT" else ""
            lines.append(SeriesLine(modality=modality, label=self.label(entry), use=use, why=why, case=case))
        return tuple(sorted(lines, key=lambda line: (line.label.patient, line.label.acquired, line.modality)))

    def problems(self) -> tuple[ProblemLine, ...]:
        """What could not be read or used, by kind: counted, the first few named."""
        kinds: dict[str, list[Path]] = defaultdict(list)
        for problem in self.index.problems:
            kinds[_kind(problem.error)].append(problem.path)
        for one in self.pairing.unusable:
            kinds[one.why].append(one.path)
        return tuple(
            ProblemLine(what=what, count=len(paths), files=tuple(file_token(path) for path in paths[:NAMED]))
            for what, paths in kinds.items()
        )

    def keep(self) -> None:
        """Write the private look-ups of every image and of every file that is named."""
        for entry in self.index.of("CT"):
            self.outbox.look_up(case_name(entry), entry)
        paths = (one.path for one in chain(self.index.problems, self.pairing.unusable))
        self.outbox.look_up_files(paths)

    def _uses(self) -> Iterator[tuple[SeriesEntry, str, str]]:
        cts = self._uses_of_cts()
        objects = self._uses_of_objects()
        for entry in self.index.series:
            if entry.modality == "CT":
                use, why = cts.get(id(entry), ("not used", "a localizer (scout) is no volume"))
                yield entry, use, why
            elif all(made_here(header.dataset) for header in entry.headers) and not self._is_planned_on(entry):
                yield entry, "not used", "made by this software: never taken for the clinic's"
            elif entry.modality in _OBJECTS:
                found = {objects[header.path] for header in entry.headers if header.path in objects}
                use, why = max(found, default=("not used", _OBJECTS[entry.modality]))
                yield entry, use, why
            elif entry.modality == "RTRECORD":
                yield entry, "used", "says numbers of fractions, where their plan is there"
            else:
                yield entry, "not used", "neither contoured nor paired: only CT is"

    def _uses_of_cts(self) -> Mapping[int, tuple[str, str]]:
        found = {id(e): ("contoured", _why_contoured(e)) for e in self.pairing.to_contour}
        found |= {id(e): ("planning CT", "a plan was made on it: it is not contoured again") for e in self.pairing.planned}
        for fraction in chain.from_iterable(self.pairing.courses):
            if fraction.plan is None:
                found[id(fraction.image)] = ("held", fraction.waits)
            else:
                found[id(fraction.image)] = ("fraction", f"number {fraction.number}, by {fraction.number_from}")
        return found

    def _uses_of_objects(self) -> Mapping[Path, tuple[str, str]]:
        """Of plans' objects and registrations."""
        found: dict[Path, tuple[str, str]] = {}
        given = {f.plan.path for f in chain.from_iterable(self.pairing.courses) if f.plan is not None}
        for plan in self.pairing.plans:
            told = ("used", "of a plan that fractions here are given by") if plan.path in given else _NO_FRACTION
            found |= dict.fromkeys(plan.paths, told)
        found |= {one.path: ("not used", one.why) for one in self.pairing.unusable}
        joins = ("noted", "joins a fraction with its planning CT; ours is computed again")
        for fraction in chain.from_iterable(self.pairing.courses):
            found |= dict.fromkeys(fraction.registrations, joins)
            found |= dict.fromkeys(fraction.recomputed, ("used", "dose that was computed on a fraction's image"))
        return found

    def _is_planned_on(self, entry: SeriesEntry) -> bool:
        return any(plan.structure_set in entry.paths for plan in self.pairing.plans)


_NO_FRACTION = ("not used", "of a plan of which no fraction is here: later, replaced, or not begun")
_OBJECTS = {
    "RTPLAN": "its structure set or the CT that it was drawn on is not there, or they do not fit each other",
    "RTSTRUCT": "no plan here was made on it",
    "RTDOSE": "of no plan and no fraction here",
    "REG": "joins no fraction here with its planning CT",
}


def _why_contoured(entry: SeriesEntry) -> str:
    known = entry.headers[0].text("PatientID")
    return "no plan was made on it" if known else "without Patient ID it belongs to nobody's plan"


def _readable(when: str) -> str:
    day = f"{when[:4]}-{when[4:6]}-{when[6:8]}" if when else ""
    return f"{day} {when[8:10]}:{when[10:12]}" if when[8:] else day


def _body_part(text: str, site: Configuration) -> str:
    part = text.upper().replace(" ", "").replace("_", "")
    return part if part in site.body_parts else ""


def _kind(error: RecontourError) -> str:
    return ". ".join(part.rstrip(".") for part in (error.what, error.why, error.remedy) if part)
