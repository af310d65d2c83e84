"""How a site wants its nights: TOML, refused with key and line where it says what nobody knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field

from adaptive.decision.policy import load_policy
from contour.template import load_template
from patient.conformance.profile import load_profile
from patient.errors import InputError
from patient.settings import Fault, Table, parsed, read_source, refused


class Configuration(Table):
    """Settings of a night, each with its default."""

    template: str = "head_neck"
    """For images whose header says no body part that `body_parts` knows."""
    body_parts: dict[str, str] = Field(
        default_factory=lambda: {
            "HEAD": "head_neck",
            "NECK": "head_neck",
            "HEADNECK": "head_neck",
            "BRAIN": "head_neck",
            "CHEST": "thorax",
            "LUNG": "thorax",
            "THORAX": "thorax",
            "BREAST": "thorax",
            "ABDOMEN": "abdomen",
            "LIVER": "abdomen",
            "PELVIS": "pelvis",
            "PROSTATE": "pelvis",
        }
    )
    """Body Part Examined to template."""
    policy: str = "head_neck"
    """For fractions whose template `policies` does not know: a name, or a TOML file of the site's own."""
    policies: dict[str, str] = Field(
        default_factory=lambda: {"head_neck": "head_neck", "thorax": "thorax", "pelvis": "prostate"}
    )
    """Template to policy."""
    fraction_numbers: Literal["images", "weekdays"] = "images"
    """Whether fractions are numbered by sessions with an image, or by weekdays since the first one under a plan."""
    holidays: tuple[date, ...] = ()
    """Weekdays on which nobody is treated; for `fraction_numbers = "weekdays"`."""
    session_hours: float = Field(default=4.0, gt=0, lt=24)
    """Images of one patient and day that lie closer together are of one fraction."""
    images: dict[str, Literal["fraction", "planning"]] = Field(default_factory=dict)
    """What a CT is that could be either, by the name of its case: the page asks for it where it matters."""
    patient_key: Literal["none", "hash", "id"] = "hash"
    """What pages and status call a patient: nothing, a hash that this outbox alone makes, or the Patient ID."""
    stations: dict[str, str] = Field(default_factory=dict)
    """Station Name to what pages call it; one that is not here is a hash."""
    profile: str = "standard"
    """Planning system whose limits the gate applies."""
    phase: str = ""
    """Which image is contoured of a series that holds several (a 4D CT), by the value that its refusal names."""
    settle_minutes: float = Field(default=10.0, ge=0)
    """A series is whole when its files have been quiet for so long."""
    hold_days: float = Field(default=3.0, gt=0)
    """What is not whole after so long is refused."""
    time_limit: float = Field(default=1800.0, gt=0)
    """Seconds for one case."""
    memory_limit_mib: int = Field(default=6000, gt=0)
    """Of one worker; a case that needs more fails, the others go on."""
    workers: int = Field(default=max(1, min(os.cpu_count() or 1, 8)), ge=1)
    seed: int = 0


def load_configuration(path: Path | None) -> Configuration:
    """The site's file, or the defaults. What it names is looked at here, so that no work is begun that would be refused.

    Raises:
        PolicyError: not there, not TOML, or with a key, value or name that is not known; says all of them with their lines.
    """
    if path is None:
        return Configuration()
    source = read_source(path, "configuration")
    read = parsed(source, Configuration)
    faults = []
    for keys, load, name in _named(read):
        try:
            load(name)
        except InputError as error:
            where = f" [{error.where}]" if error.where else ""
            faults.append(Fault(f"{'.'.join(keys)}: {error.what}{where}", source.line(keys)))
    if faults:
        raise refused(faults, source)
    return read


def _named(read: Configuration) -> Iterator[tuple[tuple[str, ...], Callable[[str], object], str]]:
    """Every key that names a file of settings, what reads it, and the name."""
    yield ("template",), load_template, read.template
    for part, name in read.body_parts.items():
        yield ("body_parts", part), load_template, name
    yield ("policy",), load_policy, read.policy
    for template, name in read.policies.items():
        yield ("policies", template), load_policy, name
    yield ("profile",), load_profile, read.profile
