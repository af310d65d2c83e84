"""A planning structure with a recipe, computed again from the fraction's structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adaptive.propagation.propagate import rigidly_propagated
from adaptive.propagation.propagated import Made, Propagated, Stage, disagreement_of, finished
from contour.derived_structures import derive
from contour.engine import Flag
from contour.recipe import ingredients, parse
from patient.volume import Field

SAME_RECIPE = 0.75
"""mm on the mean by which a recipe on planned structures may miss the planned one."""


def rebuilt(of: Propagated, known: Sequence[Propagated], stage: Stage) -> Propagated | None:
    """A structure with a recipe, computed again from today's structures; None where an ingredient is not there (yet).

    The same recipe on the planned structures must give the planned one: where it does not, that is flagged, since what then
    changed is partly the recipe's doing.

    Args:
        of: as `propagated` left it.
        known: structures that are there today.
        stage: of the fraction.
    """
    recipe = parse(of.asked.recipe)
    by_name = {one.name.casefold(): one for one in known if one.whole is not None and one.as_planned is not None}
    if any(name.casefold() not in by_name for name in ingredients(recipe)):
        return None
    found = {name: by_name[name.casefold()] for name in ingredients(recipe)}
    made = derive(recipe, {name: one.whole for name, one in found.items() if one.whole}, stage.wide)
    if isinstance(made, str):
        return replace(of, reason=made)
    again = derive(recipe, {name: one.as_planned for name, one in found.items() if one.as_planned}, stage.wide)
    flags = of.flags
    if isinstance(again, Field) and of.as_planned is not None:
        apart = disagreement_of(of.as_planned, again, stage)
        if apart is not None and apart.mean > SAME_RECIPE:
            said = f"{apart.mean:.1f} mm on the mean (95 %: {apart.hd95:.1f} mm) from the plan's own"
            words = f"{of.asked.recipe} on the planned structures is {said}: what changed is partly its doing"
            flags = (*flags, Flag("recipe_differs", words))
    basis = f"{of.name} = {of.asked.recipe} ({of.asked.source})"
    trust = stage.alignment.trust
    for one in found.values():
        trust &= one.trust
    return finished(replace(of, made=Made.REBUILT, whole=made, basis=basis, trust=trust, flags=flags), stage)


def without_ingredients(of: Propagated, stage: Stage) -> Propagated:
    """A structure whose recipe cannot be followed: rigidly propagated, and flagged."""
    missing = ", ".join(dict.fromkeys(ingredients(parse(of.asked.recipe))))
    flag = Flag("not_rebuilt", f"cannot be rebuilt ({of.asked.recipe}: {missing}) and was rigidly propagated")
    return replace(rigidly_propagated(of, stage, flagged=False), flags=(*of.flags, flag))
