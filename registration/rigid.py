"""Where two images of one patient agree when nothing bends: six numbers, by mutual information.

Mutual information (Mattes 2003, IEEE Trans Med Imaging 22:120, as ITK has it) asks only that one image's numbers tell
something of the other's, so it serves CT to CT, CT to a CBCT whose HU have drifted, and CT to MR alike. Its weakness is its
short reach. So many places are tried on voxels of 7 mm first, by the overlap-invariant form (Studholme 1999, Pattern
Recognition 32:71); the best few are followed, and one of them is refined on 4 mm and 2 mm.

Work is done on grids binned from the images and cropped to the body, on one ITK thread an optimisation: ITK adds up
derivatives in the order in which threads finish, and the same inputs would not give the same answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import edt
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.errors import Cancelled, InputError, NotTrusted
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume
from registration.features import RigidByFeatures
from registration.method import Evidence, Fit, RegistrationContext
from registration.transforms import Rigid, Space, placed

FINE, MIDDLE, COARSE = 2.0, 4.0, 7.0
"""mm: about what a voxel measures on each level; never finer than the image."""
BINS = 32
ROOM = 24.0
"""mm around the body that belong to its picture: without air there is no skin."""
FOLLOWED = 4
"""How many of the places tried are followed to their optimum on the coarse level."""
LEAST_OVERLAP = 0.25
"""Of the smaller body: with less in common, two images say nothing of each other."""
LEAST_TOLD = 1.02
"""Of normalised mutual information: samples of pure noise reach 1.01, a CT and an MR of one thigh 1.08."""
SAMPLES = {COARSE: 10_000, MIDDLE: 20_000, FINE: 40_000}
SMOOTH = {COARSE: 1.0, MIDDLE: 1.5, FINE: 1.0}
"""Blur of both images, in voxels of the level: unblurred, there is a false optimum every half voxel."""
RADIUS = 80.0
"""mm: where a turn is felt as much as a shift."""
ROUNDS = 100

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class RigidByIntensity:
    """Six degrees of freedom by mutual information, several starts on a coarse level, refined to 2 mm voxels.

    Args:
        starts: how many places are followed on the coarse level.
        workers: threads; the answer does not depend on it.
    """

    starts: int = FOLLOWED
    workers: int = 2
    name: str = "rigid"
    version: str = "1"

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """Where the points of the fixed image lie in the moving one: a Rigid.

        Args:
            fixed: `[z, y, x]`, HU or any modality's numbers, on a grid turned in any way.
            moving: the same.
            context: masks (found by threshold where absent), weight (samples are drawn mostly there), start, seed.

        Raises:
            NotTrusted: the two bodies nowhere overlap, or tell nothing of each other.
            InputError: an image or a mask is constant, empty, or holds no numbers.
            FrameMismatch: the start is of other images.
            Cancelled: asked to stop.
        """
        source, target = Space.of(fixed.geometry), Space.of(moving.geometry)
        context.progress(0.0, "rigid: reading the images")
        still = _Pyramid.of(fixed, context.fixed_mask, "fixed")
        moved = _Pyramid.of(moving, context.moving_mask, "moving")
        frame = _Frame(still.centre(), source, target)
        context.progress(0.2, "rigid: looking for a start")
        judge = _Judge.of(still, moved, frame, context)
        places = _tried(judge, _starts(frame, still, moved, context), context)[: self.starts]

        coarse, middle = (_Stage.of(still, moved, frame, mm, context) for mm in (COARSE, MIDDLE))

        def followed(place: Vector) -> Vector:
            return middle.climbed(coarse.climbed(place))

        with ThreadPoolExecutor(self.workers) as pool:
            ends = sorted(pool.map(followed, places), key=judge.score, reverse=True)
            context.progress(0.7, "rigid: refining")
            fine = _Stage.of(still, moved, frame, FINE, context)
            best = max(pool.map(fine.climbed, ends[:2]), key=judge.score)
        overlap, told = judge.overlap(best), judge.score(best)
        if overlap < LEAST_OVERLAP:
            raise _nothing_in_common(f"{overlap:.0%} of a body in common")
        if told < LEAST_TOLD:
            raise _nothing_in_common(f"nothing in common: one tells nothing of the other ({told:.3f}, from 1 to 2)")
        seen = f"{min(overlap, 1.0):.0%} of what could overlap does; normalised mutual information {told:.3f}"
        return Fit(frame.rigid(best), Evidence(notes=(seen,)))


def rigid_start(fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Rigid:
    """What a deformable method begins with: by intensity, or, where that finds nothing in common, by features.

    Raises:
        NotTrusted: neither finds an answer.
    """
    try:
        found = RigidByIntensity().fit(fixed, moving, context).moving_from_fixed
    except NotTrusted as nothing:
        try:
            found = RigidByFeatures().fit(fixed, moving, context).moving_from_fixed
        except NotTrusted:
            raise nothing from None
    assert isinstance(found, Rigid)
    return found


def _nothing_in_common(what: str) -> NotTrusted:
    return NotTrusted(
        f"The two images have {what}",
        why="Nothing says how they lie to each other",
        remedy="Check that both are of the same region of the same patient, or register by hand",
    )


@dataclass(frozen=True)
class _Frame:
    """Six numbers, three angles (rad, ITK's Euler ZXY) and three shifts (mm), about a centre in the fixed image."""

    centre: Vector
    source: Space
    target: Space

    def euler(self, six: Vector) -> sitk.Euler3DTransform:
        transform = sitk.Euler3DTransform()
        transform.SetCenter(self.centre.tolist())
        transform.SetParameters(six.tolist())
        return transform

    def map(self, six: Vector) -> tuple[Vector, Vector]:
        """R `[3, 3]` and t `[3]` of p -> R p + t."""
        rotation = np.asarray(self.euler(six).GetMatrix()).reshape(3, 3)
        return rotation, self.centre - rotation @ self.centre + six[3:]

    def rigid(self, six: Vector) -> Rigid:
        return Rigid.of(*self.map(six), self.source, self.target)

    def six(self, rotation: Vector, of_centre: Vector) -> Vector:
        """From a rotation and where the centre goes."""
        transform = self.euler(np.zeros(6))
        u, _, vt = np.linalg.svd(rotation)
        transform.SetMatrix((u @ vt).ravel().tolist(), 1e-6)
        return np.array([*transform.GetParameters()[:3], *(of_centre - self.centre)])


@dataclass(frozen=True)
class _Level:
    """An image on one level: float32 numbers, where to look, and which voxels are no filling beyond a field of view."""

    image: Volume[np.float32]
    mask: Mask

    def smooth(self, mm: float) -> _Level:
        """Blurred: else places half a voxel off, where interpolation blurs, seem to agree better."""
        grid = self.image.geometry
        array = ndimage.gaussian_filter(self.image.array, [SMOOTH[mm] * mm / s for s in grid.spacing], mode="nearest")
        return replace(self, image=Volume(array, grid))

    def itk(self) -> tuple[sitk.Image, sitk.Image]:
        grid = self.image.geometry
        mask = sitk.GetImageFromArray(self.mask.array.astype(np.uint8))
        return placed(sitk.GetImageFromArray(self.image.array), grid), placed(mask, grid)


@dataclass(frozen=True)
class _Pyramid:
    """An image binned to working grids and cropped to its body.

    Args:
        fine: numbers on about 2 mm.
        body: on the fine grid.
        valid: on the fine grid: not filling, not NaN.
        given: whether somebody else drew the body.
    """

    fine: Volume[np.float32]
    body: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    given: bool

    @staticmethod
    def of(volume: Volume[Any], mask: Mask | None, which: str) -> _Pyramid:
        _numbers(volume, which)
        fine = _binned(volume, _factors(volume.geometry, FINE))
        values = fine.array
        known = np.isfinite(values)
        low, high = np.percentile(values[known], (0.1, 99.9))
        if not high > low:
            low, high = values[known].min(), values[known].max()
        if not high > low:
            raise InputError(f"The {which} image is constant", why="There is nothing in it to register")
        values[~known] = low
        np.clip(values, low, high, out=values)
        body = _body(fine) if mask is None else _on(mask, fine.geometry)
        if not body.any():
            raise InputError(f"The mask of the {which} image is empty", why="Nothing of the image would be looked at")
        box = Box.of(body).padded([int(np.ceil(ROOM / mm)) for mm in fine.geometry.spacing], fine.geometry.shape)
        valid = known & ~_filling(values)
        return _Pyramid(fine.cropped(box), body[box.slices], valid[box.slices], mask is not None)

    def centre(self) -> Vector:
        """LPS mm of the body's centroid."""
        return self.fine.geometry.points(ndimage.center_of_mass(self.body))

    def level(self, mm: float, room: float) -> _Level:
        """Binned to about `mm`, looked at in the body and `room` mm around it."""
        grid = self.fine.geometry
        factors = _factors(grid, mm)
        image = _binned(self.fine, factors)
        body = _binned(Volume(self.body.astype(np.float32), grid), factors).array >= 0.5
        look = body if self.given else _away(~body, image.geometry) <= room
        return _Level(image, Volume(look, image.geometry))

    def sharp(self, mm: float, room: float) -> _Level:
        """As `level`, without what lies beyond a field of view."""
        level = self.level(mm, room)
        valid = _binned(Volume(self.valid.astype(np.float32), self.fine.geometry), _factors(self.fine.geometry, mm)).array
        return replace(level, mask=Volume(level.mask.array & (valid > 0.999), level.mask.geometry))


def _numbers(volume: Volume[Any], which: str) -> None:
    """Raises InputError where an image cannot say anything."""
    if min(volume.geometry.shape) < 4:
        raise InputError(f"The {which} image has {volume.geometry.shape} voxels", why="Too few to be registered")
    if np.issubdtype(volume.array.dtype, np.floating) and not np.isfinite(volume.array).any():
        raise InputError(f"The {which} image holds no number", why="There is nothing in it to register")
    if np.nanmin(volume.array) == np.nanmax(volume.array):
        raise InputError(f"The {which} image is constant", why="There is nothing in it to register")


def _factors(grid: Geometry, mm: float) -> tuple[int, int, int]:
    """How many voxels along k, j, i make one of about `mm`."""
    k, j, i = (max(1, min(int(mm / s + 0.65), n // 4)) for s, n in zip(grid.spacing, grid.shape, strict=True))
    return k, j, i


def _binned(volume: Volume[Any], factors: tuple[int, int, int]) -> Volume[np.float32]:
    """Means of whole blocks of voxels, a slab at a time; what is left over at the far ends is dropped."""
    grid = volume.geometry
    shape = tuple(n // f for n, f in zip(grid.shape, factors, strict=True))
    (f, g, h), (depth, rows, columns) = factors, shape
    out = np.empty(shape, dtype=np.float32)
    for k in range(depth):
        slab = volume.array[k * f : (k + 1) * f, : rows * g, : columns * h]
        out[k] = slab.reshape(f, rows, g, columns, h).mean(axis=(0, 2, 4), dtype=np.float32)
    x, y, z = (float(v) for v in grid.points((np.asarray(factors) - 1) / 2))
    a, b, c = (s * n for s, n in zip(grid.spacing, factors, strict=True))
    return Volume(out, replace(grid, shape=(depth, rows, columns), spacing=(a, b, c), origin=(x, y, z)))


def _on(mask: Mask, grid: Geometry) -> NDArray[np.bool_]:
    """A mask at the voxels of another grid of the same image, nearest."""
    image = placed(sitk.GetImageFromArray(mask.array.astype(np.uint8)), mask.geometry)
    i, j, k = grid.shape[::-1]
    reference = placed(sitk.Image([i, j, k], sitk.sitkUInt8), grid)
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0


def _body(fine: Volume[np.float32]) -> NDArray[np.bool_]:
    """What is no air, in one piece, without a couch: on the fine grid."""
    factors = _factors(fine.geometry, MIDDLE)
    image = _binned(fine, factors)
    values = image.array
    if values.min() < -800:
        threshold = -350.0
    else:
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(sitk.GetImageFromArray(values))
        threshold = 0.5 * (otsu.GetThreshold() + float(np.percentile(values, 1)))
    foreground = values > threshold
    core = _away(foreground, image.geometry) > 10.0
    if not core.any():
        core = foreground
    pieces, count = ndimage.label(core)  # type: ignore[misc]
    if count > 1:
        core = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    body = foreground & (_away(~core, image.geometry) <= 12.0)
    for k in range(len(body)):
        body[k] = ndimage.binary_fill_holes(body[k])
    whole = np.repeat(np.repeat(np.repeat(body, factors[0], 0), factors[1], 1), factors[2], 2)
    short = [(0, n - m) for n, m in zip(fine.geometry.shape, whole.shape, strict=True)]
    return np.pad(whole, short, mode="edge")


def _away(inside: NDArray[np.bool_], grid: Geometry) -> NDArray[np.float32]:
    """mm from each voxel inside to the nearest outside; the image's own edge is no outside."""
    return edt.edt(np.ascontiguousarray(inside), anisotropy=grid.spacing, black_border=False, parallel=1)


def _filling(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels of one value exactly that reach in from the corners: what a scanner writes where it did not look."""
    corners = values[:: values.shape[0] - 1, :: values.shape[1] - 1, :: values.shape[2] - 1]
    found, counts = np.unique(corners, return_counts=True)
    value = found[np.argmax(counts)]
    return values == value if counts.max() >= 4 else np.zeros(values.shape, dtype=bool)


@dataclass(frozen=True)
class _Judge:
    """Scores places on the coarse level without ITK, quickly, and so that little overlap is no advantage."""

    points: Vector
    values: NDArray[np.intp]
    moving: NDArray[np.float32]
    grid: Geometry
    seen: NDArray[np.bool_]
    frame: _Frame
    share: float

    @staticmethod
    def of(still: _Pyramid, moved: _Pyramid, frame: _Frame, context: RegistrationContext) -> _Judge:
        fixed, moving = still.level(COARSE, ROOM / 2), moved.level(COARSE, 2 * ROOM)
        at = np.argwhere(fixed.mask.array)
        rng = np.random.default_rng(context.seed)
        if len(at) > 10_000:
            at = at[np.sort(rng.choice(len(at), 10_000, replace=False))]
        values = _classes(fixed.image.array, fixed.mask.array)[tuple(at.T)]
        classes = _classes(moving.image.array, moving.mask.array).astype(np.float32)
        share = min(
            1.0,
            moving.mask.array.sum()
            * moving.image.geometry.voxel_cc
            / (fixed.mask.array.sum() * fixed.image.geometry.voxel_cc),
        )
        return _Judge(
            fixed.image.geometry.points(at), values, classes, moving.image.geometry, moving.mask.array, frame, share
        )

    def _there(self, six: Vector) -> tuple[Vector, NDArray[np.bool_]]:
        rotation, shift = self.frame.map(six)
        indices = self.grid.indices(self.points @ rotation.T + shift)
        nearest = np.rint(indices).astype(np.intp)
        inside = np.all((nearest >= 0) & (nearest < np.asarray(self.grid.shape)), axis=1, keepdims=False)
        inside[inside] = self.seen[tuple(nearest[inside].T)]
        return indices, inside

    def overlap(self, six: Vector) -> float:
        """Of the samples that could lie in the moving image, how many do."""
        return float(self._there(six)[1].mean() / self.share)

    def score(self, six: Vector) -> float:
        """Normalised mutual information, 1 (none) to 2; 0 where too little overlaps."""
        indices, inside = self._there(six)
        if inside.mean() < LEAST_OVERLAP * self.share:
            return 0.0
        found = ndimage.map_coordinates(self.moving, indices[inside].T, order=1, mode="nearest")
        joint = np.bincount(self.values[inside] * BINS + np.rint(found).astype(np.intp), minlength=BINS * BINS)
        table = joint.reshape(BINS, BINS) / joint.sum()
        return (_entropy(table.sum(0)) + _entropy(table.sum(1))) / max(_entropy(table.ravel()), 1e-9)


def _classes(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Numbers as classes 0 to BINS - 1, equally wide between the 1st and 99th percentile."""
    low, high = np.percentile(values[where], (1, 99))
    scaled = (values - low) / max(float(high - low), 1e-6) * (BINS - 1)
    return np.clip(np.rint(scaled), 0, BINS - 1).astype(np.intp)


def _entropy(shares: Vector) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _starts(frame: _Frame, still: _Pyramid, moved: _Pyramid, context: RegistrationContext) -> list[Vector]:
    """As the headers say, centre on centre, and what the caller knows."""
    places = [np.zeros(6), np.array([0, 0, 0, *(moved.centre() - still.centre())])]
    if context.start is not None:
        frame.target.admit(context.start.target, "The start")
        places.append(frame.six(context.start.rotation, context.start.points(frame.centre, frame.source)))
    return places


def _tried(judge: _Judge, starts: Sequence[Vector], context: RegistrationContext) -> list[Vector]:
    """What the caller knows, then the best places around all starts: shifts first, then turns around the best of them."""
    shifts = [np.array([0, 0, 0, *by]) for by in itertools.product((-30.0, -15.0, 0.0, 15.0, 30.0), repeat=3)]
    turns = [np.array([*by, 0, 0, 0]) for by in itertools.product((-0.14, 0.0, 0.14), repeat=3)]
    _go_on(context)
    shifted = _best(judge, [start + by for start in starts for by in shifts])[:5]
    _go_on(context)
    turned = _best(judge, [place + by for place in shifted for by in turns])
    apart = list(starts[2:])
    for place in [*turned[:40], *starts[:2]]:
        if all(np.linalg.norm((place - other) * (100, 100, 100, 1, 1, 1)) > 12 for other in apart):
            apart.append(place)
    return apart


def _best(judge: _Judge, places: Sequence[Vector]) -> list[Vector]:
    scores = [judge.score(place) for place in places]
    order = np.argsort(-np.asarray(scores), kind="stable")
    return [places[n] for n in order if scores[n] > 0]


def _go_on(context: RegistrationContext) -> None:
    if context.cancelled.is_set():
        raise Cancelled("The registration was cancelled")


@dataclass(frozen=True)
class _Stage:
    """Both images on one level, ready to be optimised; a climb shares nothing with another that runs beside it."""

    fixed: _Level
    moving: _Level
    frame: _Frame
    mm: float
    context: RegistrationContext

    @staticmethod
    def of(still: _Pyramid, moved: _Pyramid, frame: _Frame, mm: float, context: RegistrationContext) -> _Stage:
        _go_on(context)
        if mm == COARSE:
            fixed, moving = still.level(mm, ROOM / 2), moved.level(mm, 2 * ROOM)
        else:
            fixed, moving = still.sharp(mm, ROOM / 3), moved.sharp(mm, ROOM)
        look = _weighted(fixed.mask, context)
        return _Stage(replace(fixed, mask=look).smooth(mm), moving.smooth(mm), frame, mm, context)

    def climbed(self, start: Vector) -> Vector:
        """Up the gradient of Mattes mutual information; the start again where ITK finds no samples."""
        _go_on(self.context)
        method, transform = sitk.ImageRegistrationMethod(), self.frame.euler(start)
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        (fixed, fixed_mask), (moving, moving_mask) = self.fixed.itk(), self.moving.itk()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetMetricFixedMask(fixed_mask)
        method.SetMetricMovingMask(moving_mask)
        method.SetMetricSamplingStrategy(method.RANDOM)
        share = SAMPLES[self.mm] / max(int(self.fixed.mask.array.sum()), 1)
        method.SetMetricSamplingPercentage(min(1.0, share), self.context.seed % 2**31 + 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerScales([RADIUS**2] * 3 + [1.0] * 3)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=self.mm / 2, minStep=self.mm / 400, numberOfIterations=ROUNDS, relaxationFactor=0.8
        )
        method.SetInitialTransform(transform, inPlace=True)
        cancelled = self.context.cancelled
        method.AddCommand(sitk.sitkIterationEvent, lambda: method.Abort() if cancelled.is_set() else None)
        try:
            method.Execute(fixed, moving)
        except RuntimeError:
            return start
        _go_on(self.context)
        return np.asarray(transform.GetParameters())


def _weighted(look: Mask, context: RegistrationContext) -> Mask:
    """Where a region counts most: that region, and one in ten of the other voxels."""
    if context.weight is None:
        return look
    there = _on(context.weight, look.geometry)
    some = np.random.default_rng(context.seed).random(look.array.shape) < 0.1
    return Volume(look.array & (there | some), look.geometry)
