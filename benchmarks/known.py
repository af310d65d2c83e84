"""Pairs of images of which it is known where every point went: real patients, moved and bent on purpose.

The moving image is made by pulling the patient through `fixed_from_moving`, a field given in closed form between its nodes;
where a landmark of the fixed image lies in the moving one is solved for to a thousandth of a mm. The moving image then gets
a cone beam's looks: its own grid, a cylinder of view, noise, shading, cupping, a drifting scale, blur. The same seed gives
the same pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.morphology import convex_hull_image

from benchmarks.record import DATA
from data_samples.cone_beam import AIR, CHEST, HEAD, Beam, as_cone_beam
from patient.geometry import Box, Geometry
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.volume import Mask, Volume
from registration.inverse import inverse_of
from registration.transforms import Chain, Displacement, Points, Rigid, Space, Transform, placed, sampled

NODES = 5.0
"""mm between the nodes of a made deformation."""
ORGANS = ("Brainstem", "SpinalCord", "Parotid_L", "Parotid_R", "Esophagus", "Larynx", "Bone_Mandible")
HEAD_NECK = DATA / "headneck" / "validation"
FRAMES = {"fixed": "2.25.1001", "moving": "2.25.1002"}


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and what is known of them.

    Args:
        name: says patient and seed.
        fixed: `[z, y, x]` int16, HU.
        moving: the same, on its own grid and in its own frame of reference.
        truth: `moving_from_fixed`; None where nothing is right (another patient).
        fixed_points: `[n, 3]` LPS mm; landmarks that both images show.
        moving_points: `[n, 3]`: where they are in the moving image, to 0.001 mm.
        groups: name -> bool `[n]`: the landmarks of one organ, or those near the sliding wall.
        fixed_masks: name -> mask on the fixed grid; Body always, and organs.
        moving_masks: the same of the moving image; FieldOfView always: where it was imaged.
    """

    name: str
    fixed: Volume[np.int16]
    moving: Volume[np.int16]
    truth: Transform | None
    fixed_points: Points = field(default_factory=lambda: np.zeros((0, 3)))
    moving_points: Points = field(default_factory=lambda: np.zeros((0, 3)))
    groups: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    fixed_masks: Mapping[str, Mask] = field(default_factory=dict)
    moving_masks: Mapping[str, Mask] = field(default_factory=dict)

    def distances(self, moving_points: ArrayLike) -> NDArray[np.float64]:
        """mm from where somebody says that the landmarks are to where they are."""
        return np.asarray(np.linalg.norm(np.asarray(moving_points) - self.moving_points, axis=-1))


# ---- patients -------------------------------------------------------------------------------------------------------


def head_neck_patients() -> list[Path]:
    """The folders of the validation patients."""
    return sorted(p for p in HEAD_NECK.iterdir() if p.is_dir())


def head_neck_ct(folder: Path) -> tuple[Volume[np.int16], dict[str, Mask]]:
    """A patient and the organs that the clinic contoured."""
    ct = sitk.ReadImage(str(folder / "ct.nii.gz"))
    bits = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "structures.nii.gz")))
    dx, dy, dz = ct.GetSpacing()
    array = sitk.GetArrayFromImage(ct).astype(np.int16)
    grid = Geometry(array.shape, (dz, dy, dx), tuple(ct.GetOrigin()), image=f"{folder.name} fixed")
    grid = replace(grid, frame_of_reference=FRAMES["fixed"])
    masks = {name: Volume((bits >> n & 1).astype(bool), grid) for n, name in enumerate(ORGANS) if (bits >> n & 1).any()}
    return Volume(array, grid), {"Body": body(Volume(array, grid)), **masks}


def body(volume: Volume[Any]) -> Mask:
    """The largest piece denser than -400 HU, each slice filled."""
    opened = ndimage.binary_opening(volume.array > -400, np.ones((1, 3, 3), bool))
    labels = cc3d.connected_components(opened, connectivity=6)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    solid = labels == sizes.argmax()
    return Volume(np.stack([ndimage.binary_fill_holes(plane) for plane in solid]), volume.geometry)


@cache
def chest() -> tuple[Volume[np.int16], dict[str, Mask]]:
    """The lung patient on voxels of 3 x 2 x 2 mm, cut to the body; Body, Lung_L, Lung_R, SpinalCord."""
    folder = DATA / "lung-nsclc-001"
    image = open_folder(folder / "CT")
    volume, clinic = image.load(), read_structure_set(next((folder / "RTSTRUCT").iterdir()))
    names = {"Lung_L": "Lung-Left", "Lung_R": "Lung-Right", "SpinalCord": "Spinal-Cord"}
    drawn = {ours: clinic[theirs].mask(image.geometry).placed_in(image.geometry).array for ours, theirs in names.items()}
    found = body(Volume(np.asarray(volume.array), image.geometry))
    box = Box.of(found.array).padded((0, 12, 12), image.geometry.shape)
    k, j, i = box.shape
    grid = _halved(
        image.geometry.cropped(Box(box.start, (box.start[0] + k, box.start[1] + j // 2 * 2, box.start[2] + i // 2 * 2)))
    )
    grid = replace(grid, frame_of_reference=FRAMES["fixed"], image="chest fixed")

    def half(array: NDArray[Any]) -> NDArray[np.float32]:
        part = array[box.slices][:, : j // 2 * 2, : i // 2 * 2].astype(np.float32)
        return part.reshape(k, j // 2, 2, i // 2, 2).mean(axis=(2, 4))

    masks = {name: Volume(half(mask) >= 0.5, grid) for name, mask in {"Body": found.array, **drawn}.items()}
    return Volume(np.rint(half(np.maximum(volume.array, AIR))).astype(np.int16), grid), masks


def _halved(grid: Geometry) -> Geometry:
    dz, dy, dx = grid.spacing
    x, y, z = (float(v) for v in grid.points((0.0, 0.5, 0.5)))
    k, j, i = grid.shape
    return replace(grid, shape=(k, j // 2, i // 2), spacing=(dz, 2 * dy, 2 * dx), origin=(x, y, z))


# ---- motion ---------------------------------------------------------------------------------------------------------


def random_rigid(
    rng: np.random.Generator, centre: ArrayLike, mm: float, degrees: float, source: Space, target: Space
) -> Rigid:
    """A turn about a random axis through `centre` and a shift, each between a third of the largest and the largest."""
    axis, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turn = Rotation.from_rotvec(axis * rng.uniform(degrees / 3, degrees), degrees=True).as_matrix()
    middle = np.asarray(centre, dtype=np.float64)
    return Rigid.of(turn, middle - turn @ middle + way * rng.uniform(mm / 3, mm), source, target)


def random_bend(
    rng: np.random.Generator, over: Geometry, source: Space, target: Space, sigma: float, largest: float
) -> Displacement:
    """Smooth random vectors: `sigma` mm wide, the longest `largest` mm, never steeper than one half (so that none folds)."""
    pad = 4 * sigma / 2
    corners = over.points(
        np.array([(k, j, i) for k in (0, over.shape[0] - 1) for j in (0, over.shape[1] - 1) for i in (0, over.shape[2] - 1)])
    )
    low, high = corners.min(axis=0) - pad, corners.max(axis=0) + pad
    shape = tuple(int(n) + 1 for n in np.ceil((high - low) / NODES)[::-1])
    grid = Geometry(
        shape, (NODES,) * 3, tuple(map(float, low)), frame_of_reference=source.frame_of_reference, image=source.image
    )  # type: ignore[arg-type]
    vectors = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), sigma / NODES) for _ in range(3)], axis=-1)
    edge = np.ones(shape)
    for axis, n in enumerate(shape):
        rise = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) * NODES / pad, 0, 1)
        edge *= (rise * rise * (3 - 2 * rise)).reshape([-1 if a == axis else 1 for a in range(3)])
    vectors *= edge[..., None]
    vectors *= largest / np.linalg.norm(vectors, axis=-1).max()
    steep = np.stack([np.gradient(vectors, NODES, axis=axis) for axis in range(3)], axis=-1)
    vectors *= min(1.0, 0.5 / float(np.linalg.norm(steep, axis=(-2, -1)).max()))
    return Displacement(vectors.astype(np.float32), grid, source, target)


def solved(bend: Displacement, points: Points) -> Points:
    """Where `bend` takes to `points` from: the inverse at single points, to 0.001 mm."""
    at = np.array(points, dtype=np.float64)
    for _ in range(200):
        missed = at + sampled(bend.vectors, bend.grid, at) - points
        at -= missed
        if not len(at) or float(np.abs(missed).max()) < 1e-4:
            return at
    raise ValueError("A made deformation has no inverse")


# ---- the looks of a cone beam ---------------------------------------------------------------------------------------


def field_of_view(rng: np.random.Generator, beam: Beam, centre: ArrayLike, spacing: tuple[float, float, float]) -> Mask:
    """A cylinder along the body in the middle of its own box of voxels."""
    radius, length = rng.uniform(*beam.radius), rng.uniform(*beam.length)
    shape = tuple(int(np.ceil(n)) for n in np.array((length, 2 * radius, 2 * radius)) / spacing)
    half = (np.array(shape) - 1) / 2 * spacing
    origin = np.asarray(centre, dtype=np.float64) - half[::-1]
    grid = Geometry(shape, spacing, tuple(map(float, origin)), frame_of_reference=FRAMES["moving"])  # type: ignore[arg-type]
    j, i = (np.arange(n) - (n - 1) / 2 for n in shape[1:])
    disk = (j[:, None] * spacing[1]) ** 2 + (i * spacing[2]) ** 2 <= radius**2
    return Volume(np.broadcast_to(disk, shape).copy(), grid)


def seen(fixed_from_moving: Transform, volume: Volume[Any], onto: Geometry) -> NDArray[np.float32]:
    """The patient through a transform, cubic between voxels; HU kept in what the scanner gives."""
    image = placed(sitk.GetImageFromArray(volume.array.astype(np.float32)), volume.geometry)
    i, j, k = onto.shape[::-1]
    like = placed(sitk.Image([i, j, k], sitk.sitkUInt8), onto)
    out = sitk.Resample(image, like, fixed_from_moving.itk(), sitk.sitkBSpline3, AIR, sitk.sitkFloat32)
    return np.clip(sitk.GetArrayFromImage(out), AIR, 3071)


def _masks_seen(fixed_from_moving: Transform, masks: Mapping[str, Mask], onto: Geometry) -> dict[str, Mask]:
    i, j, k = onto.shape[::-1]
    like, through = placed(sitk.Image([i, j, k], sitk.sitkUInt8), onto), fixed_from_moving.itk()
    out = {}
    for name, mask in masks.items():
        image = placed(sitk.GetImageFromArray(mask.array.astype(np.float32)), mask.geometry)
        there = sitk.Resample(image, like, through, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
        out[name] = Volume(sitk.GetArrayFromImage(there) >= 0.5, onto)
    return out


def _inside(mask: Mask, points: Points) -> NDArray[np.bool_]:
    at = np.rint(mask.geometry.indices(points)).astype(int)
    fits = ((at >= 0) & (at < mask.geometry.shape)).all(axis=-1)
    out = np.zeros(len(points), dtype=bool)
    out[fits] = mask.array[tuple(at[fits].T)]
    return out


# ---- pairs ----------------------------------------------------------------------------------------------------------


def bent_pair(
    name: str,
    fixed: Volume[np.int16],
    masks: Mapping[str, Mask],
    rng: np.random.Generator,
    beam: Beam | None = HEAD,
    mm: float = 20.0,
    degrees: float = 10.0,
    largest: tuple[float, float] = (4.0, 15.0),
    each: int = 40,
    middle: ArrayLike | None = None,
) -> Pair:
    """A patient, and the same one bent, moved and imaged by a cone beam.

    Args:
        name: of the pair.
        fixed: the patient; of a named image.
        masks: Body and organs; points of their surfaces become landmarks.
        rng: whatever is random.
        beam: the moving image's looks; None for the fixed image's own grid and looks, with a little noise.
        mm: longest shift.
        degrees: largest turn.
        largest: the longest bend (mm) is drawn between these; (0, 0) for a rigid pair.
        each: landmarks an organ.
        middle: LPS mm of the fixed image about which the cone beam looks; None for the landmarks' middle.
    """
    grid = fixed.geometry
    at_fixed, at_moving = Space.of(grid), Space(f"{name} moving", FRAMES["moving"])
    at_bent = Space(f"{name} bent", FRAMES["moving"])
    points, groups = surface_points(fixed, masks, rng, each)
    centre = points.mean(axis=0) if middle is None else np.asarray(middle, dtype=np.float64)
    bent_from_moving = random_rigid(rng, centre, mm, degrees, at_moving, at_bent)
    parts_back: tuple[Transform, ...] = (bent_from_moving, Rigid.identity(at_bent, at_fixed))
    truth: Transform = Rigid(bent_from_moving.inverse().matrix, at_fixed, at_moving)
    bent_points = points
    if max(largest) > 0:
        bend = random_bend(rng, grid, at_bent, at_fixed, rng.uniform(25, 40), rng.uniform(*largest))
        parts_back = (bent_from_moving, bend)
        truth = Chain((inverse_of(bend), bent_from_moving.inverse()))
        bent_points = solved(bend, points)
    moved = bent_from_moving.inverse().points(bent_points, at_bent)
    fixed_from_moving = Chain(parts_back)
    if beam is None:
        view: Mask = Volume(
            np.ones(grid.shape, bool), replace(grid, frame_of_reference=FRAMES["moving"], image=at_moving.image)
        )
        array = seen(fixed_from_moving, fixed, view.geometry) + rng.normal(0, 15, grid.shape)
        moving = Volume(np.rint(np.clip(array, AIR, 3071)).astype(np.int16), view.geometry)
    else:
        k, j, i = grid.spacing
        jitter = rng.uniform(-10, 10, 3)
        view = field_of_view(
            rng, beam, moved.mean(axis=0) + jitter, (max(k * 0.9, 1.0), max(j * 0.9, 1.0), max(i * 0.9, 1.0))
        )
        view = Volume(view.array, replace(view.geometry, image=at_moving.image))
        moving = as_cone_beam(rng, seen(fixed_from_moving, fixed, view.geometry), view, beam)
    shown = _inside(view, moved)
    there = _masks_seen(fixed_from_moving, masks, view.geometry)
    return Pair(
        name,
        fixed,
        moving,
        truth,
        points[shown],
        moved[shown],
        {organ: chosen[shown] for organ, chosen in groups.items()},
        masks,
        {**there, "FieldOfView": view},
    )


def surface_points(
    volume: Volume[Any], masks: Mapping[str, Mask], rng: np.random.Generator, each: int
) -> tuple[Points, dict[str, NDArray[np.bool_]]]:
    """Points on the organs' surfaces where the image shows the patient; of Body only where there is no organ."""
    imaged = np.array([float((plane > -500).mean()) > 0.03 for plane in volume.array])
    organs = {name: mask for name, mask in masks.items() if name != "Body"} or dict(masks)
    points, owner = [], []
    for name, mask in organs.items():
        shell = mask.array & ~ndimage.binary_erosion(mask.array, border_value=1) & imaged[:, None, None]
        at = np.argwhere(shell)
        at = at[rng.permutation(len(at))[:each]]
        points.append(volume.geometry.points(at))
        owner += [name] * len(at)
    return np.concatenate(points), {name: np.array([o == name for o in owner]) for name in organs}


def head_neck_pair(patient_path: Path, seed: int) -> Pair:
    """A head-and-neck patient and the same one bent (4-15 mm), moved (20 mm, 10 degrees) and seen by a cone beam."""
    fixed, masks = head_neck_ct(Path(patient_path))
    return bent_pair(f"{Path(patient_path).name}-{seed}", fixed, masks, np.random.default_rng(seed))


def rigid_pair(patient_path: Path, seed: int, mm: float = 30.0, degrees: float = 15.0, beam: Beam | None = HEAD) -> Pair:
    """The same without any bend."""
    fixed, masks = head_neck_ct(Path(patient_path))
    name = f"{Path(patient_path).name}-rigid-{seed}"
    return bent_pair(name, fixed, masks, np.random.default_rng(seed), beam, mm, degrees, (0.0, 0.0))


def timing_pair(seed: int = 0) -> Pair:
    """A whole head and neck of 512 x 512 x 200 voxels, and the same one bent and moved, on the same number of voxels."""
    image = open_folder(DATA / "headneck-planning-90" / "CT")
    volume = image.load()
    old = volume.geometry
    shape = (200, 512, 512)
    k, j, i = (s * (n - 1) / (m - 1) for s, n, m in zip(old.spacing, old.shape, shape, strict=True))
    grid = replace(old, shape=shape, spacing=(k, j, i), frame_of_reference=FRAMES["fixed"], image="timing fixed")
    same = Rigid.identity(Space.of(grid), Space.of(old))
    fixed = Volume(np.rint(seen(same, volume, grid)).astype(np.int16), grid)
    return bent_pair("timing", fixed, {"Body": body(fixed)}, np.random.default_rng(seed), None, each=200)


def cropped_pair(patient_path: Path, seed: int, overlap: float = 0.4) -> Pair:
    """A rigid pair of which each image shows its own part of the patient's length; `overlap` of each is in the other."""
    whole = rigid_pair(patient_path, seed, 20.0, 10.0, Beam(radius=(180, 200), length=(420, 430)))
    shown = np.flatnonzero((whole.fixed.array > -500).mean(axis=(1, 2)) > 0.01)
    low, high = int(shown[0]), int(shown[-1]) + 1
    length = (high - low) / (2 - overlap)
    upper = int(np.random.default_rng(seed).integers(2))
    start = (high - length, low) if upper else (low, high - length)
    fixed_box = _slab(whole.fixed.geometry, start[0], start[0] + length)
    half = whole.fixed.geometry.shape
    ends = whole.fixed.geometry.points([(start[1] + n * length, half[1] / 2, half[2] / 2) for n in (0, 1)])
    assert whole.truth is not None
    there = whole.moving.geometry.indices(whole.truth.points(ends, Space.of(whole.fixed.geometry)))[:, 0]
    moving_box = _slab(whole.moving.geometry, float(there.min()), float(there.max()))
    return _cropped(whole, fixed_box, moving_box, f"{Path(patient_path).name}-cropped-{seed}")


def _slab(grid: Geometry, start: float, stop: float) -> Box:
    k, j, i = grid.shape
    return Box((max(0, round(start)), 0, 0), (min(k, round(stop)), j, i))


def _cropped(pair: Pair, fixed_box: Box, moving_box: Box, name: str) -> Pair:
    fixed, moving = pair.fixed.cropped(fixed_box), pair.moving.cropped(moving_box)
    both = np.ones(len(pair.fixed_points), bool)
    for grid, points in ((fixed.geometry, pair.fixed_points), (moving.geometry, pair.moving_points)):
        at = grid.indices(points)
        both &= ((at >= 0) & (at <= np.array(grid.shape) - 1)).all(axis=-1)
    return Pair(
        name,
        fixed,
        moving,
        pair.truth,
        pair.fixed_points[both],
        pair.moving_points[both],
        {group: chosen[both] for group, chosen in pair.groups.items()},
        {n: m.cropped(fixed_box) for n, m in pair.fixed_masks.items()},
        {n: m.cropped(moving_box) for n, m in pair.moving_masks.items()},
    )


def wrong_pairs(seed: int) -> list[Pair]:
    """Pairs that must be refused: another patient, another part of the body; and one that is right when turned round."""
    patients = head_neck_patients()
    one, other = (int(n) for n in np.random.default_rng(seed).choice(len(patients), 2, replace=False))
    mine, theirs = rigid_pair(patients[one], seed), rigid_pair(patients[other], seed + 1)
    trunk = open_folder(DATA / ("abdomen-ffs-41" if seed % 2 else "lung-nsclc-001") / "CT").load()
    grid = replace(trunk.geometry, image=f"trunk {seed}", frame_of_reference=FRAMES["moving"])
    rng = np.random.default_rng(seed)
    array = np.clip(trunk.array[:, ::2, ::2], AIR, 3071) + rng.normal(0, 40, (grid.shape[0], *_half_shape(grid)))
    coarse = replace(grid, shape=array.shape, spacing=(grid.spacing[0], 2 * grid.spacing[1], 2 * grid.spacing[2]))
    elsewhere = Volume(np.rint(array).astype(np.int16), coarse)
    everywhere = {"FieldOfView": Volume(np.ones(coarse.shape, bool), coarse)}
    nowhere = np.zeros((0, 3))
    unknown: dict[str, Any] = {"truth": None, "fixed_points": nowhere, "moving_points": nowhere, "groups": {}}
    return [
        replace(mine, name=f"other-patient-{seed}", moving=theirs.moving, moving_masks=theirs.moving_masks, **unknown),
        replace(mine, name=f"other-part-{seed}", moving=elsewhere, moving_masks=everywhere, **unknown),
        turned_pair(mine, f"turned-{seed}", 1 if seed % 2 else 2),
    ]


def _half_shape(grid: Geometry) -> tuple[int, int]:
    return (grid.shape[1] + 1) // 2, (grid.shape[2] + 1) // 2


def turned_pair(pair: Pair, name: str, axis: int) -> Pair:
    """The moving image turned by 180 degrees about LPS axis 0, 1 or 2 through its middle, unknown to its header."""
    grid = pair.moving.geometry
    centre = grid.points((np.array(grid.shape) - 1) / 2)
    signs = np.where(np.arange(3) == axis, 1.0, -1.0)
    order = tuple(slice(None) if n == 2 - axis else slice(None, None, -1) for n in range(3))
    turn = Rigid.of(np.diag(signs), centre - signs * centre, Space.of(grid), replace(Space.of(grid), image=name))
    there = replace(grid, image=name)
    assert pair.truth is not None
    return replace(
        pair,
        name=name,
        moving=Volume(np.ascontiguousarray(pair.moving.array[order]), there),
        truth=Chain((pair.truth, turn)),
        moving_points=turn.points(pair.moving_points, turn.source),
        moving_masks={n: Volume(np.ascontiguousarray(m.array[order]), there) for n, m in pair.moving_masks.items()},
    )


def ct_mr_pair(seed: int, mm: float = 20.0, degrees: float = 10.0) -> Pair:
    """A thigh as CT (fixed) and as MR (moving), the MR's header moved.

    The move is exact; that the two agreed before is somebody's word: one contour was copied from one to the other, and the
    bone of the two lies about 10 mm apart. Compare answers from several seeds with each other, not with the truth alone.
    """
    folder = DATA / "sarcoma-ct-mr"
    images = {name: open_folder(folder / name) for name in ("CT", "MR")}
    volumes = {name: image.load() for name, image in images.items()}
    drawn = {}
    for name, image in images.items():
        structures = read_structure_set(folder / f"RTSTRUCT-{name}" / "RS.dcm").structures
        drawn[name] = {s.name: s.mask(image.geometry).placed_in(image.geometry).array for s in structures if s.loops}
    ct = replace(volumes["CT"].geometry, image="thigh CT", frame_of_reference=FRAMES["fixed"])
    mr = replace(volumes["MR"].geometry, image=f"thigh MR {seed}", frame_of_reference=FRAMES["moving"])
    rng = np.random.default_rng(seed)
    centre = mr.points((np.array(mr.shape) - 1) / 2)
    truth = random_rigid(rng, centre, mm, degrees, Space.of(ct), Space.of(mr))
    origin = truth.points(mr.origin, truth.source)
    axes = np.asarray(mr.axes) @ truth.rotation.T
    mr = replace(mr, origin=tuple(map(float, origin)), axes=tuple(tuple(map(float, axis)) for axis in axes))
    tumour = [Volume(mask, ct) for mask in drawn["CT"].values()]
    points = np.concatenate([ct.points(np.argwhere(m.array & ~ndimage.binary_erosion(m.array))) for m in tumour])
    points = points[rng.permutation(len(points))[:100]]
    fixed = Volume(np.clip(volumes["CT"].array, AIR, 3071).astype(np.int16), ct)
    return Pair(
        f"ct-mr-{seed}",
        fixed,
        Volume(np.asarray(volumes["MR"].array).astype(np.int16), mr),
        truth,
        points,
        truth.points(points, truth.source),
        {"tumour": np.ones(len(points), bool)},
        {"Body": body(fixed), **{name: Volume(mask, ct) for name, mask in drawn["CT"].items()}},
        {"FieldOfView": Volume(np.ones(mr.shape, bool), mr), **{n: Volume(m, mr) for n, m in drawn["MR"].items()}},
    )


# ---- breathing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sliding:
    """What lies inside a wall flows along it; what lies outside stays: a jump at the wall, as at the pleura.

    The flow is down the body, weaker toward the apex; close to the wall what would cross it is taken away, so that nothing
    leaves or enters. Points go with it for one unit of time (Runge-Kutta of the fourth order); the inverse is the same
    flow, backward.

    Args:
        inside: what slides.
        velocity: `[z, y, x, 3]` mm, defined beyond the wall too (from the nearest inside).
        depth: mm from the wall, inside.
    """

    inside: Mask
    velocity: NDArray[np.float32]
    depth: NDArray[np.float32]

    def at(self, points: Points, time: float, steps: int = 4) -> Points:
        """Where points go in `time`: 1 from the fixed to the moving image, -1 back."""
        out = np.array(points, dtype=np.float64)
        slides = _inside(self.inside, out)
        p, h = out[slides], time / steps
        for _ in range(steps):
            a = self._flow(p)
            b = self._flow(p + h / 2 * a)
            c = self._flow(p + h / 2 * b)
            p = p + h / 6 * (a + 2 * b + 2 * c + self._flow(p + h * c))
        out[slides] = p
        return out

    def _flow(self, points: Points) -> Points:
        at = self.inside.geometry.indices(points).T
        return np.stack(
            [ndimage.map_coordinates(self.velocity[..., n], at, order=1, mode="nearest") for n in range(3)], axis=-1
        )


def sliding(masks: Mapping[str, Mask], amplitude: float) -> Sliding:
    """The inside of the chest and of what lies below it, without the spine; it moves by `amplitude` mm at the diaphragm."""
    grid = masks["Body"].geometry
    spacing = np.array(grid.spacing)
    lungs = masks["Lung_L"].array | masks["Lung_R"].array
    slices = np.flatnonzero(lungs.any(axis=(1, 2)))
    bottom, apex = int(slices[0]), int(slices[-1])
    hull = np.zeros(grid.shape, bool)
    sofar = np.zeros(grid.shape[1:], bool)
    for k in range(apex, -1, -1):
        sofar |= lungs[k]
        hull[k] = convex_hull_image(sofar) & masks["Body"].array[k]
    cord = masks["SpinalCord"].array
    drawn = np.flatnonzero(cord.any(axis=(1, 2)))
    j, i = np.indices(grid.shape[1:])
    for k in range(grid.shape[0]):
        middle = ndimage.center_of_mass(cord[drawn[np.abs(drawn - k).argmin()]])
        away = np.hypot((j - middle[0]) * spacing[1] + 15, (i - middle[1]) * spacing[2])
        hull[k] &= away > 33
    hull |= lungs
    inside = ndimage.gaussian_filter(hull.astype(np.float32), 4 / spacing, mode="nearest") > 0.5
    depth = ndimage.distance_transform_edt(inside, sampling=spacing) - ndimage.distance_transform_edt(
        ~inside, sampling=spacing
    )
    smooth = ndimage.gaussian_filter(depth, 3 / spacing, mode="nearest")
    normal = np.stack([np.gradient(smooth, s, axis=n) for n, s in enumerate(spacing)][::-1], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-3)
    rise = np.clip((apex - np.arange(grid.shape[0])) / ((apex - bottom) * 0.75), 0, 1)
    down = -amplitude * rise * rise * (3 - 2 * rise)
    velocity = np.zeros((*grid.shape, 3), np.float32)
    velocity[..., 2] = down[:, None, None]
    near = np.exp(-((np.maximum(depth, 0) / 8) ** 2))
    velocity -= (velocity[..., 2] * normal[..., 2] * near)[..., None] * normal
    nearest = ndimage.distance_transform_edt(~inside, sampling=spacing, return_distances=False, return_indices=True)
    return Sliding(Volume(inside, grid), velocity[tuple(nearest)].astype(np.float32), depth.astype(np.float32))


def vessels(volume: Volume[Any], lungs: NDArray[np.bool_], count: int) -> Points:
    """The corners of the lungs' vessels: largest Foerstner measure, at least 6 mm apart (Foerstner and Guelch 1987)."""
    spacing = np.array(volume.geometry.spacing)
    image = ndimage.gaussian_filter(np.clip(volume.array, AIR, 200).astype(np.float32), 1.5 / spacing)
    slopes = [np.gradient(image, s, axis=n) for n, s in enumerate(spacing)]
    window = 3.0 / spacing
    tensor = np.stack([[ndimage.gaussian_filter(a * b, window) for b in slopes] for a in slopes])
    tensor = np.moveaxis(tensor, (0, 1), (-2, -1)) + np.eye(3) * 1.0
    corner = 1 / np.trace(np.linalg.inv(tensor), axis1=-2, axis2=-1)
    size = tuple(int(2 * np.ceil(6 / s / 2) + 1) for s in spacing)
    depth = ndimage.distance_transform_edt(lungs, sampling=spacing)
    peak = (ndimage.maximum_filter(corner, size) == corner) & (depth > 3)
    at = np.argwhere(peak)
    at = at[np.argsort(-corner[peak])[:count]]
    return volume.geometry.points(at)


def breathing_pair(seed: int) -> Pair:
    """A chest, and the same one breathed in by 15-25 mm at the diaphragm, chest wall and spine staying where they are.

    Groups: "inner", and "near_wall" for vessels within 10 mm of the wall along which the lungs slide. The truth as a field
    is exact but within one voxel of the wall, where it jumps; the landmarks are exact everywhere.
    """
    rng = np.random.default_rng(seed)
    fixed, masks = chest()
    grid = fixed.geometry
    motion = sliding(masks, rng.uniform(15, 25))
    lungs = masks["Lung_L"].array | masks["Lung_R"].array
    points = vessels(fixed, lungs, 600)
    name = f"breathing-{seed}"
    at_fixed, at_moving = Space.of(grid), Space(f"{name} moving", FRAMES["moving"])
    centre = grid.points(np.argwhere(lungs)).mean(axis=0)
    moved_from_moving = random_rigid(rng, centre, 6.0, 2.0, at_moving, Space("chest moved", FRAMES["moving"]))
    moving_from_moved = moved_from_moving.inverse()
    view = field_of_view(rng, CHEST, centre - (0, 0, 10), grid.spacing)
    view = Volume(view.array, replace(view.geometry, image=at_moving.image))
    array = np.empty(view.geometry.shape, np.float32)
    there = {n: np.zeros(view.geometry.shape, bool) for n in masks}
    spline = ndimage.spline_filter(fixed.array.astype(np.float32), output=np.float32)
    inner = np.moveaxis(np.indices(view.geometry.shape[1:], dtype=np.float64), 0, -1)
    for k in range(len(array)):
        at = view.geometry.points(np.concatenate([np.full((*inner.shape[:-1], 1), float(k)), inner], axis=-1))
        back = motion.at(moved_from_moving.points(at, at_moving).reshape(-1, 3), -1.0).reshape(at.shape)
        index = np.moveaxis(grid.indices(back), -1, 0)
        array[k] = ndimage.map_coordinates(spline, index, order=3, cval=AIR, prefilter=False)
        for n, mask in masks.items():
            there[n][k] = ndimage.map_coordinates(mask.array.astype(np.uint8), index, order=0)
    moving = as_cone_beam(rng, np.clip(array, AIR, 3071), view, CHEST)
    noise = rng.normal(0, 10, grid.shape)
    fixed = Volume(np.rint(np.clip(fixed.array + noise, AIR, 3071)).astype(np.int16), grid)
    vectors = np.empty((*grid.shape, 3), np.float32)
    plane = np.moveaxis(np.indices(grid.shape[1:], dtype=np.float64), 0, -1)
    for k in range(grid.shape[0]):
        at = grid.points(np.concatenate([np.full((*plane.shape[:-1], 1), float(k)), plane], axis=-1)).reshape(-1, 3)
        vectors[k] = (motion.at(at, 1.0) - at).reshape(*plane.shape[:-1], 3)
    truth = Chain((Displacement(vectors, grid, at_fixed, moving_from_moved.source), moving_from_moved))
    slid = motion.at(points, 1.0, steps=16)
    moved = moving_from_moved.points(slid, moving_from_moved.source)
    shown = _inside(view, moved)
    points, moved, slid = points[shown], moved[shown], slid[shown]
    wall = sampled(motion.depth, grid, points) < 10
    return Pair(
        name,
        fixed,
        moving,
        truth,
        points,
        moved,
        {"near_wall": wall, "inner": ~wall},
        {**masks, "Sliding": motion.inside},
        {**{n: Volume(m, view.geometry) for n, m in there.items()}, "FieldOfView": view},
    )
