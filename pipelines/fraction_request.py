"""What a worker needs to know of a fraction: paths and names, never pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanFiles:
    """A plan as files.

    Args:
        image: the planning CT's.
        series_uid: which series of them.
        structure_set: RTSTRUCT on it.
        plan: RTPLAN; empty where there is none.
        doses: every RTDOSE that belongs to the plan.
    """

    image: tuple[str, ...]
    series_uid: str
    structure_set: str
    plan: str = ""
    doses: tuple[str, ...] = ()


@dataclass(frozen=True)
class FractionRequest:
    """One fraction with its plan.

    Args:
        case: its name, made of a date and a hash.
        files: today's image.
        series_uid: which series of them.
        folder: an empty folder to write into.
        plan: that it was given by.
        number: of the fraction under that plan, from 1.
        number_from: who says so, in words.
        earlier: published case folders of earlier fractions under the same plan, in order.
        recomputed: RTDOSE that a planning system computed on today's image.
        registrations: REG objects between the two images; they are noted, not used.
        template: name or path; for what is contoured afresh.
        policy: name or path.
        profile: planning system whose limits the gate applies.
        predecessor: SOP Instance UID of the structure set that this one replaces; empty for none.
        seed: for what draws numbers.
    """

    case: str
    files: tuple[str, ...]
    series_uid: str
    folder: str
    plan: PlanFiles
    number: int
    number_from: str = ""
    earlier: tuple[str, ...] = ()
    recomputed: tuple[str, ...] = ()
    registrations: tuple[str, ...] = ()
    template: str = "head_neck"
    policy: str = "head_neck"
    profile: str = "standard"
    predecessor: str = ""
    seed: int = 0
