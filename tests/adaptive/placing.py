"""Alignments of which it is known where every point went, for tests of what stands on them."""

from dataclasses import replace

import numpy as np

from adaptive.alignment.alignment import Alignment, RigidAnswer
from adaptive.propagation.propagated import Stage
from patient.geometry import Geometry
from patient.volume import Volume
from registration.inverse import inverse_of
from registration.measures import RegistrationQuality
from registration.transforms import Displacement, Rigid, Space, composed

PLAN = Geometry((30, 64, 64), (3.0, 1.5, 1.5), (-48.0, -48.0, -45.0), frame_of_reference="1.2.3", image="plan")
TODAY = Geometry((40, 70, 70), (2.0, 1.4, 1.4), (-40.0, -52.0, -40.0), frame_of_reference="1.2.4", image="today")
SHIFT = np.array([6.0, -3.0, 4.0])
"""mm by which everything lies elsewhere today."""


def alignment(shift=SHIFT, push=None, trusted: bool = True, error: float = 1.0) -> Alignment:
    """Rigid by a shift, and then whatever `push` adds (mm `[..., 3]` at LPS points of today `[..., 3]`)."""
    today, plan = Space.of(TODAY), Space.of(PLAN)
    rigid = Rigid.of(np.eye(3), -np.asarray(shift), today, plan)
    whole = rigid
    if push is not None:
        nodes = replace(TODAY, shape=(28, 34, 34), spacing=(3.0, 3.0, 3.0))
        at = nodes.points(np.moveaxis(np.indices(nodes.shape), 0, -1))
        whole = composed(rigid, Displacement(push(at).astype(np.float32), nodes, today, today))
    return Alignment(
        RigidAnswer("intensity", rigid),
        RigidAnswer("features", rigid),
        0.0,
        0.0,
        rigid,
        whole,
        inverse_of(whole),
        0.0,
        push is not None,
        RegistrationQuality(),
        error,
        "made",
        () if trusted else ("made so",),
    )


def stage(of: Alignment, seen=None, shows=lambda at: 0 * at[..., 0]) -> Stage:
    """Everything seen, or what a mask says.

    Args:
        of: the images.
        seen: bool on today's grid.
        shows: HU `[...]` of the plan at its points `[..., 3]`; today they are where the alignment's push has them.
    """
    shown = np.ones(TODAY.shape, dtype=bool) if seen is None else seen
    at, then = (grid.points(np.moveaxis(np.indices(grid.shape), 0, -1)) for grid in (TODAY, PLAN))
    images = Volume(shows(of.plan_from_today.points(at, Space.of(TODAY))), TODAY), Volume(shows(then), PLAN)
    return Stage(images, of, Volume(shown, TODAY), "HFS")


def shrinking(centre, radius: float, part: float):
    """A push under which a ball of the plan (at `centre` today) lost `part` of its volume: its surface moved inward."""
    factor = (1 - part) ** (1 / 3)

    def push(at: np.ndarray) -> np.ndarray:
        away = at - np.asarray(centre)
        far = np.linalg.norm(away, axis=-1, keepdims=True)
        # inside the shrunk ball space was squeezed evenly; around it that fades out
        fade = np.clip((2.0 * radius - far) / (2.0 * radius - factor * radius), 0, 1)
        return away * (1 / factor - 1) * np.where(far < factor * radius, 1.0, fade * factor * radius / np.maximum(far, 1e-6))

    return push
