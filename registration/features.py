"""Rigid and affine registration by distinct points: the independent check of what was registered by intensities.

Points of both images are described and paired by their descriptors (`registration.keypoints`), pairs that keep one another's
distances are found, and the turn and shift that most of them share is fitted by least squares (Kabsch 1976). Then the moving
image is looked at again through that first answer, and points are paired again near where it puts them: more pairs,
described without the turn between the images, and a fit finer than the grid. Nothing of a metric of intensities goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from patient.errors import NotTrusted
from patient.volume import Volume
from registration.keypoints import Keypoints, Scene, keypoints, scene, seen_through, sharpened
from registration.method import Evidence, Fit, Matches, RegistrationContext
from registration.transforms import Affine, Points, Rigid, Space, Transform

RATIO = 0.9
"""A pair's descriptors must be this much nearer than the second best (Lowe 2004, IJCV 60:91)."""
SHARED = 0.5
"""Of the pools around a point, as many must be seen in both images."""
RADIUS = 12.0
"""mm from where a start puts a point: how far its partner is searched."""
WIDE = 50.0
"""mm: the same, where the start is what is asked about."""
STRETCH = 5.0
"""mm: two pairs agree when their distances in the two images differ by less."""
NEAR = 6.0
"""mm: a pair agrees with a first answer when it is off by less."""
CLOSE = 3.0
"""mm: and with the last one."""
SEEDS = 60
"""Pairs whose supporters are tried."""
LARGEST_TURN = 35.0
"""Degrees; descriptors do not carry further, so what turns more was matched by chance."""
LIKE = 0.5
"""Correlation of the gradients around two points from which on their places are compared."""
FEWEST, SHARE = 8, 0.15
"""So many pairs, and beyond them this share of all pairs found near the first answer, must agree with the last one. Of
different patients of one site 3 to 11 % agreed, of one patient cut to 40 % overlap and noisy 39 % and more."""


@dataclass(frozen=True)
class RigidByFeatures:
    """A `Method`: the rigid (or affine) transform that most matched points agree on.

    Args:
        affine: fit scaling and shear as well; the answer is an Affine.
    """

    affine: bool = False
    name: str = "features"
    version: str = "1"

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """Where the points of the fixed image lie in the moving one.

        Nothing need be known of where the images lie in one another; they may be turned by some 10 degrees and share 40 % of
        their length. `context.start`, where given, is looked through from the beginning and need only be near.

        Raises:
            NotTrusted: too few points agree: another patient, another part of the body, or no overlap.
            InputError: an image is constant or holds no numbers, or a mask is empty.
            Cancelled: asked to stop.
        """
        here = _scene_of_fixed(fixed, context)
        found = keypoints(here)
        first: Affine | None = context.start
        if first is None:
            coarse = _matched_anywhere(found, moving, context)
            first, _ = _consensus(coarse, Space.of(fixed.geometry), Space.of(moving.geometry))
        context.progress(0.6, "looking again")
        (pairs,) = _matched_near(found, here, moving, context, first, (RADIUS,))
        answer = self._refined(pairs, first, (2 * NEAR, NEAR, CLOSE, CLOSE))
        _trusted(pairs, answer)
        context.check_cancelled()
        context.progress(0.8, "refining")
        there = seen_through(answer, moving, context.moving_mask, here.image.geometry, "moving")
        blocks, like = sharpened(here, there, found.points, found.points, reach=2)
        fine = Matches(found.points, answer.mapped(blocks), like.astype(np.float64)).where(like > LIKE)
        answer = self._refined(fine, answer, (NEAR, CLOSE, CLOSE, CLOSE))
        context.progress(1.0, "done")
        return Fit(answer, _trusted(pairs, answer))

    def _refined(self, pairs: Matches, first: Affine, reaches: Sequence[float]) -> Affine:
        """Fitted again and again to the pairs that a smaller and smaller reach leaves."""
        answer = first
        for reach in reaches:
            kept = _off(pairs, answer) < reach
            if kept.sum() < FEWEST:
                break
            answer = (_affine if self.affine else _rigid)(pairs.where(kept), first.source, first.target)
        return answer


def find_matches(
    fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext, start: Transform | None = None
) -> Matches:
    """Points that are one place in the patient: sparse landmarks, or a check of a registration that did not use them.

    Args:
        fixed: `[z, y, x]`, any numbers.
        moving: the same.
        context: masks, cancel.
        start: `moving_from_fixed`, of any kind; partners are searched within `RADIUS` of where it puts a point, and a pair
            that moves against its neighbours is dropped. None searches everywhere and drops nothing: some pairs are wrong.

    Raises:
        InputError: an image is constant or holds no numbers, or a mask is empty.
        FrameMismatch: the start joins other images.
        Cancelled: asked to stop.
    """
    if start is not None:
        return matches_around(fixed, moving, context, start)[0]
    return _matched_anywhere(keypoints(_scene_of_fixed(fixed, context)), moving, context)


def matches_around(
    fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext, start: Transform
) -> tuple[Matches, Matches]:
    """Matches near a registration that is asked about, and matches that were searched without belief in it.

    Returns:
        as `find_matches` with this start; and pairs searched within `WIDE` of where it puts a point, of which none is
        dropped for what its neighbours do: some are wrong.

    Raises as `find_matches`.
    """
    here = _scene_of_fixed(fixed, context)
    near, wide = _matched_near(keypoints(here), here, moving, context, start, (RADIUS, WIDE))
    return near.where(_with_neighbours(near.fixed, near.moving - start.mapped(near.fixed))), wide


def _scene_of_fixed(fixed: Volume[Any], context: RegistrationContext) -> Scene:
    context.progress(0.0, "looking for points")
    here = scene(fixed, context.fixed_mask, "fixed")
    context.check_cancelled()
    return here


def _off(pairs: Matches, answer: Transform) -> NDArray[np.float64]:
    """mm by which each pair misses an answer."""
    return np.linalg.norm(pairs.moving - answer.mapped(pairs.fixed), axis=1)


def _trusted(pairs: Matches, answer: Transform) -> Evidence:
    """What speaks for an answer. Raises NotTrusted where pairs by chance would agree as well."""
    off = _off(pairs, answer)
    agree = off < CLOSE
    inliers = int(agree.sum())
    if inliers < FEWEST + SHARE * len(pairs):
        raise _too_few(len(pairs), inliers)
    return Evidence(len(pairs), inliers, float(np.sqrt((off[agree] ** 2).mean())))


def _matched_anywhere(found: Keypoints, moving: Volume[Any], context: RegistrationContext) -> Matches:
    context.check_cancelled()
    there = scene(moving, context.moving_mask, "moving")
    context.check_cancelled()
    others = keypoints(there)
    return _matched(found, others, _likeness(found, others))


def _matched_near(
    found: Keypoints,
    here: Scene,
    moving: Volume[Any],
    context: RegistrationContext,
    start: Transform,
    radii: Sequence[float],
) -> list[Matches]:
    """Pairs within each of some radii (mm) of a start, the moving image seen through it."""
    start.target.admit(Space.of(moving.geometry), "The moving image")
    start.source.admit(Space.of(here.image.geometry), "The fixed image")
    context.check_cancelled()
    there = seen_through(start, moving, context.moving_mask, here.image.geometry, "moving")
    context.check_cancelled()
    others = keypoints(there)
    like, apart = _likeness(found, others), np.linalg.norm(found.points[:, None] - others.points[None], axis=2)

    def within(radius: float) -> Matches:
        pairs = _matched(found, others, np.where(apart > radius, np.float32(-1), like))
        finer, alike = sharpened(here, there, pairs.fixed, pairs.moving, reach=2)
        moved = np.where((alike > LIKE)[:, None], finer, pairs.moving)
        return Matches(pairs.fixed, start.mapped(moved), pairs.score)

    return [within(radius) for radius in radii]


def _matched(fixed: Keypoints, moving: Keypoints, like: NDArray[np.float32]) -> Matches:
    """Each other's best by a likeness `[n, m]`, and clearly better than the second (`RATIO`)."""
    if min(like.shape) < 2:
        like = np.pad(like, ((0, 2), (0, 2)), constant_values=-1)
    best = like.argmax(axis=1)
    rows = np.arange(len(best))
    top = like[rows, best]
    second = np.maximum(np.partition(like, -2, axis=1)[:, -2], np.partition(like, -2, axis=0)[-2][best])
    clear = (2 - 2 * top) < RATIO**2 * (2 - 2 * second)
    kept = (like.argmax(axis=0)[best] == rows) & (top > 0) & clear
    return Matches(fixed.points[rows[kept]], moving.points[best[kept]], np.clip(top[kept].astype(np.float64), 0, 1))


def _likeness(a: Keypoints, b: Keypoints) -> NDArray[np.float32]:
    """`[n, m]` cosine of descriptors over the pools that are seen in both; -1 where fewer than `SHARED` are."""
    bins = a.described.shape[2]
    seen_a, seen_b = (np.repeat(k.seen, bins, axis=1) for k in (a, b))
    flat_a = a.described.reshape(seen_a.shape) * seen_a
    flat_b = b.described.reshape(seen_b.shape) * seen_b
    lengths = (flat_a**2 @ seen_b.T) * (seen_a @ (flat_b**2).T)
    like = flat_a @ flat_b.T / np.sqrt(np.maximum(lengths, 1e-12))
    like[a.seen @ b.seen.T < SHARED * a.seen.shape[1]] = -1
    return like.astype(np.float32)


def _consensus(pairs: Matches, source: Space, target: Space) -> tuple[Rigid, NDArray[np.bool_]]:
    """The rigid transform most pairs agree on, by pairs that keep one another's distances.

    Two pairs support each other by the number of pairs that both are consistent with (second-order compatibility:
    Chen et al., SC2-PCR, CVPR 2022); each well-supported pair calls its best supporters, and the transform of theirs that
    most pairs follow is taken. Nothing is drawn at random.
    """
    if len(pairs) < 4:
        raise _too_few(len(pairs), 0)
    apart_fixed = np.linalg.norm(pairs.fixed[:, None] - pairs.fixed[None], axis=2)
    apart_moving = np.linalg.norm(pairs.moving[:, None] - pairs.moving[None], axis=2)
    consistent = ((np.abs(apart_fixed - apart_moving) < STRETCH) & (apart_fixed > 10)).astype(np.float32)
    support = consistent * (consistent @ consistent)
    best: tuple[int, Rigid, NDArray[np.bool_]] | None = None
    for seed in np.argsort(-support.sum(axis=1), kind="stable")[:SEEDS]:
        circle = np.zeros(len(pairs), dtype=bool)
        circle[np.argsort(-support[seed], kind="stable")[:20]] = True
        circle &= support[seed] > 0
        circle[seed] = True
        if circle.sum() < 4:
            continue
        guess = _rigid(pairs.where(circle), source, target)
        follows = _off(pairs, guess) < NEAR
        if guess.degrees() < LARGEST_TURN and (best is None or follows.sum() > best[0]):
            best = int(follows.sum()), guess, follows
    if best is None or best[0] < 4:
        raise _too_few(len(pairs), 0 if best is None else best[0])
    return _rigid(pairs.where(best[2]), source, target), best[2]


def _rigid(pairs: Matches, source: Space, target: Space) -> Rigid:
    """Least squares, six numbers."""
    return Rigid.nearest(pairs.fixed, pairs.moving, source, target)


def _affine(pairs: Matches, source: Space, target: Space) -> Affine:
    """Least squares, twelve numbers."""
    from_fixed = np.column_stack([pairs.fixed, np.ones(len(pairs))])
    solution = np.asarray(np.linalg.lstsq(from_fixed, pairs.moving, rcond=None)[0], dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3] = solution.T
    return Affine(matrix, source, target)


def _with_neighbours(points: Points, moved: Points) -> NDArray[np.bool_]:
    """Which points move as the middle one of their eight nearest does, within `NEAR`."""
    if len(points) < 9:
        return np.ones(len(points), dtype=bool)
    near = np.asarray(KDTree(points).query(points, k=9)[1])
    return np.linalg.norm(moved - np.median(moved[near[:, 1:]], axis=1), axis=1) < NEAR


def _too_few(pairs: int, agree: int) -> NotTrusted:
    return NotTrusted(
        f"Of {pairs} matched points {agree} agree on one position",
        why="Another patient, another part of the body, or images that hardly overlap look like this",
        remedy="Look at the two images side by side and check that they are of the same patient",
    )
