"""Which plan of a patient a fraction was given under: the newest approved one that is not later than it.

Where nobody could tell which is meant, it waits, and the reason is a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from patient.plan import Plan
from patient.read.index import SeriesEntry
from pipelines.night.image_headers import acquired
from pipelines.night.plan_sets import PatientPlans, PlanSet, holds


def plan_of(entry: SeriesEntry, day: str, of: PatientPlans, given: str) -> tuple[PlanSet | str, list[str]]:
    """The plan of a fraction, or why it waits; and what a reader should know about the choice.

    Args:
        entry: the fraction's image.
        day: YYYYMMDD, when it was acquired.
        of: the patient's plans.
        given: UID of the plan that it was treated under by an earlier batch run; empty where it was not.
    """
    if given:
        own = next((p for p in of.plans if p.plan.sop_instance_uid == given), None)
        return own or "the plan that it was treated under has left the inbox", []
    if not of.plans and not of.waiting:
        return "it waits for its plan: there is none of this patient", []
    before = [p for p in of.plans if holds(p.date, day) and acquired(p.image)[:8] <= day]
    coming = [plan for plan in of.waiting if plan.may_hold(day)]
    if not before and not coming:
        every = [p.date for p in of.plans] + [plan.date for plan in of.waiting]
        when = "before every plan" if all(d[:8] > day for d in every) else "in no plan's time"
        return f"it was acquired on {day}, {when} of this patient: it waits for the plan of its day", []
    approved = [p for p in before if p.plan.approved]
    pool = approved or before
    named = {uid for p in pool for uid in _predecessors(p.plan)}
    pool = [p for p in pool if p.plan.sop_instance_uid not in named]
    newest = max((p.date for p in pool), default="")
    for plan in coming:
        if (plan.date or "9") >= newest and (plan.approved or not approved):
            return f"it waits for its plan: {plan.why}", []
    if len(pool) > 1 and not approved:
        joined = [p for p in pool if of.between(entry, p.image)]
        if len(joined) != 1:
            return f"there are {len(pool)} plans and none is approved: nobody can tell which is meant", []
        return joined[0], ["of several plans that nobody approved, the one that a REG joins it to"]
    last = [p for p in pool if p.date == newest]
    same = [p for p in pool if p.image.uid == last[0].image.uid]
    if len(last) > 1 or len(same) > 1:
        which = "of the same time" if len(last) > 1 else "on one planning CT"
        return (
            f"there are {max(len(last), len(same))} plans {which}, neither replacing the other: nobody can tell which",
            [],
        )
    notes = []
    if any(p.date > newest for p in before):
        notes.append("a newer plan is not approved and was passed over")
    return last[0], notes


def _predecessors(plan: Plan) -> Iterator[str]:
    """Plans that a plan says it replaces (RT Plan Relationship, PS3.3 C.8.8.9)."""
    for item in (plan.header.get("ReferencedRTPlanSequence") if plan.header is not None else None) or []:
        if item.get("RTPlanRelationship") == "PREDECESSOR":
            yield str(item.get("ReferencedSOPInstanceUID", ""))
