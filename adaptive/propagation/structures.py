"""All structures of a plan on the fraction's image, each by its policy: re-segmented by engines, propagated, rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adaptive.decision.rules import Policy, Propagation, StructurePolicy, matches
from adaptive.propagation.planned_surface import surface_of
from adaptive.propagation.propagate import propagated
from adaptive.propagation.propagated import Made, Propagated, Stage
from adaptive.propagation.rebuild import rebuilt, without_ingredients
from adaptive.scheduling import largest_first
from contour.engine import Context, Engine, Finding
from contour.postprocessing import postprocess
from contour.template import Template
from patient.geometry import Geometry
from patient.names import lookup
from patient.parallel import each
from patient.structures import Structure
from patient.volume import Volume


def resegmented_by_engines(
    structures: Sequence[Structure],
    policy: Policy,
    engines: Mapping[str, Engine],
    image: Volume[Any],
    context: Context,
    template: Template | None,
) -> tuple[dict[str, Finding | str], dict[str, str]]:
    """What engines find of the structures that a policy wants re-segmented.

    Args:
        structures: of the plan.
        policy: which of them are re-segmented.
        engines: the first that offers a structure is asked.
        image: the fraction's, HU, its shading taken off.
        context: what engines are told.
        template: how what is found is postprocessed; None for as it was found.

    Returns:
        A finding, or why there is none, by the plan's name; and name and version of the engines that were asked.
    """
    asked: dict[str, dict[str, str]] = {}
    for structure in structures:
        how = _asked(structure, policy)
        if how.recipe or how.propagate not in (Propagation.FRESH, Propagation.RECONCILE):
            continue
        name = known_as(structure)
        engine = next((e for e in engines.values() if name in e.offers()), None)
        if engine is not None:
            asked.setdefault(engine.name, {}).setdefault(name, structure.name)
    found: dict[str, Finding | str] = {}
    for engine_name, names in asked.items():
        for answer in engines[engine_name].contour(image, list(names), context):
            found[names[answer.name]] = _cleaned(answer, template) if isinstance(answer, Finding) else answer.reason
    return found, {name: engines[name].version for name in asked}


def _cleaned(found: Finding, template: Template | None) -> Finding | str:
    """As the template wants it; a sentence where nothing is left."""
    wanted = next((w for w in template.structures if w.name == found.name), None) if template is not None else None
    if wanted is None or wanted.clean is None:
        return found
    postprocessed = postprocess(found.field, wanted.clean)
    if isinstance(postprocessed, str):
        return postprocessed
    return replace(found, field=postprocessed.field, flags=(*found.flags, *postprocessed.flags))


def propagated_structures(
    structures: Sequence[Structure], grid: Geometry, policy: Policy, stage: Stage, fresh: Mapping[str, Finding | str]
) -> tuple[Propagated, ...]:
    """All structures of a plan, in its order; those with a recipe are made last, as their ingredients come to be known.

    Args:
        structures: of the plan.
        grid: of the plan's image.
        policy: how each is made.
        stage: of the fraction.
        fresh: as `resegmented_by_engines` gives it.
    """

    def one_alone(structure: Structure) -> Propagated:
        surface = surface_of(structure, grid)
        return propagated(structure, surface, _asked(structure, policy), stage, fresh.get(structure.name))

    made = dict(enumerate(largest_first(one_alone, structures, _extent)))
    waiting = [n for n, one in made.items() if one.made is Made.NONE and one.asked.recipe and not one.reason]
    while waiting:
        known = list(made.values())
        again = each(lambda one, known=known: rebuilt(one, known, stage), [made[n] for n in waiting])
        done = {n: one for n, one in zip(waiting, again, strict=True) if one is not None}
        if not done:
            break
        made |= done
        waiting = [n for n in waiting if n not in done]
    for n in waiting:
        made[n] = without_ingredients(made[n], stage)
    return tuple(made[n] for n in sorted(made))


def _extent(structure: Structure) -> float:
    """mm³ of the box around a structure's loops."""
    if not structure.loops:
        return 0.0
    points = np.concatenate([loop.points for loop in structure.loops])
    return float(np.prod(np.ptp(points, axis=0)))


def _asked(structure: Structure, policy: Policy) -> StructurePolicy:
    """By the plan's name; where the policy does not know that, by the TG-263 one."""
    known = any(matches(pattern, structure.name) for pattern, _ in policy.structures)
    return policy.for_structure(structure.name if known else known_as(structure))


def known_as(structure: Structure) -> str:
    """A structure's TG-263 name; the body's is External whatever the clinic calls it."""
    if structure.interpreted_type == "EXTERNAL":
        return "External"
    listed = lookup(structure.name)
    return listed.name if listed is not None else structure.name
