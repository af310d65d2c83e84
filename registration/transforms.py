"""Where a point of one image lies in another.

A transform knows the two images it joins and its direction: `b_from_a` takes points of a (its `source`) to points of b (its
`target`), both LPS mm. To see b's voxels on a's grid, they are resampled: the value at a point p of a is b's value at
`b_from_a(p)`. Nothing is pushed, so nothing has holes. Use on a third image raises FrameMismatch; that two images share a
frame of reference says nothing about where one lies in the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from patient.errors import FrameMismatch, UnsupportedGeometry
from patient.geometry import Geometry
from patient.volume import Volume

Points = NDArray[np.float64]
ORTHONORMAL = 1e-4
"""A rotation read from decimals may be off by this; more is scaling or shear."""


@dataclass(frozen=True)
class Space:
    """One image's own coordinates: LPS mm as its header places them.

    Args:
        image: Series Instance UID, or a file's name.
        frame_of_reference: its UID; empty where the image has none.
    """

    image: str
    frame_of_reference: str = ""

    @staticmethod
    def of(geometry: Geometry) -> Space:
        """Of the image that a grid belongs to."""
        return Space(geometry.image, geometry.frame_of_reference)

    def admit(self, other: Space, what: str) -> None:
        """Raises FrameMismatch where `other` is not this image."""
        if other != self:
            raise FrameMismatch(
                f"{what} is of image {other.image or '(unnamed)'}, not of {self.image or '(unnamed)'}",
                why="A transform joins two images and says nothing of a third",
                remedy="Register that image, or apply the transform that was made for it",
            )


class Transform(ABC):
    """`target_from_source`: takes points of `source` to points of `target`."""

    source: Space
    target: Space

    def points(self, points: ArrayLike, of: Space) -> Points:
        """Where points lie in the target.

        Args:
            points: `[..., 3]` (x, y, z) LPS mm.
            of: the image they are of.

        Raises:
            FrameMismatch: they are not of this transform's source.
        """
        self.source.admit(of, "The point")
        return self.mapped(np.asarray(points, dtype=np.float64))

    @abstractmethod
    def mapped(self, points: Points) -> Points:
        """Where points `[..., 3]` (LPS mm) lie in the target; whose they are has been asked already."""

    @abstractmethod
    def itk(self) -> sitk.Transform:
        """The same map as ITK's resampling wants it."""


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """A matrix.

    Args:
        matrix: `[4, 4]`, target_from_source, homogeneous.

    Raises:
        UnsupportedGeometry: not invertible, or its last row is not 0 0 0 1.
    """

    matrix: NDArray[np.float64]
    source: Space
    target: Space

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
            raise UnsupportedGeometry("A transformation matrix is not a 4 x 4 affine one")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-6:
            raise UnsupportedGeometry("A transformation matrix cannot be inverted")
        object.__setattr__(self, "matrix", matrix)

    @property
    def rotation(self) -> NDArray[np.float64]:
        """The upper left `[3, 3]`."""
        return self.matrix[:3, :3]

    @property
    def translation(self) -> NDArray[np.float64]:
        """mm (x, y, z), of the origin."""
        return self.matrix[:3, 3]

    def inverse(self) -> Affine:
        """`source_from_target`, exactly; a Rigid's is rigid."""
        back = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        return type(self)(back, self.target, self.source)

    def mapped(self, points: Points) -> Points:
        return points @ self.rotation.T + self.translation

    def itk(self) -> sitk.Transform:
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(self.rotation.ravel().tolist())
        transform.SetTranslation(self.translation.tolist())
        return transform


@dataclass(frozen=True, eq=False)
class Rigid(Affine):
    """A rotation and a translation. What decimals took from the rotation is given back (nearest orthonormal, by SVD).

    Raises:
        UnsupportedGeometry: scaled, sheared or mirrored.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        u, _, vt = np.linalg.svd(self.rotation)
        nearest = u @ vt
        if np.linalg.det(nearest) < 0 or np.abs(nearest - self.rotation).max() > ORTHONORMAL:
            raise UnsupportedGeometry(
                f"A matrix is not rigid (determinant {np.linalg.det(self.rotation):.4f})",
                why="A patient is not scaled, sheared or mirrored by a couch",
            )
        matrix = self.matrix.copy()
        matrix[:3, :3] = nearest
        object.__setattr__(self, "matrix", matrix)

    @staticmethod
    def of(rotation: ArrayLike, translation: ArrayLike, source: Space, target: Space) -> Rigid:
        """From a rotation `[3, 3]` and a translation `[3]` (mm): p -> R p + t."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = np.asarray(rotation), np.asarray(translation)
        return Rigid(matrix, source, target)

    @staticmethod
    def nearest(here: Points, there: Points, source: Space, target: Space) -> Rigid:
        """The one that takes points `[n, 3]` of the source nearest to the target's (Kabsch 1976, Acta Cryst A32:922)."""
        a, b = here.mean(axis=0), there.mean(axis=0)
        u, _, vt = np.linalg.svd((here - a).T @ (there - b))
        turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
        return Rigid.of(turn, b - turn @ a, source, target)

    @staticmethod
    def identity(source: Space, target: Space) -> Rigid:
        """The same numbers in both images: as headers place them."""
        return Rigid(np.eye(4), source, target)

    def degrees(self) -> float:
        """The whole angle of the rotation."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1))))


@dataclass(frozen=True, eq=False)
class Displacement(Transform):
    """p -> p + D(p), D interpolated between nodes, the outermost's for half a step beyond them, and then nothing.

    Args:
        vectors: `[z, y, x, 3]` float32, mm (x, y, z) in LPS, whatever the grid's axes.
        grid: where the nodes lie, in the source's space.
    """

    vectors: NDArray[np.float32]
    grid: Geometry
    source: Space
    target: Space

    def __post_init__(self) -> None:
        if self.vectors.shape != (*self.grid.shape, 3):
            raise ValueError(f"vectors of shape {self.vectors.shape} on a grid of {self.grid.shape}")
        if not np.isfinite(self.vectors).all():
            raise UnsupportedGeometry("A displacement is no number")

    def mapped(self, points: Points) -> Points:
        return points + sampled(self.vectors, self.grid, points)

    def itk(self) -> sitk.Transform:
        image = sitk.GetImageFromArray(self.vectors.astype(np.float64), isVector=True)
        placed(image, self.grid)
        return sitk.DisplacementFieldTransform(image)


@dataclass(frozen=True, eq=False)
class Chain(Transform):
    """One transform after the other, the first given applied first.

    Raises:
        FrameMismatch: one does not begin where the one before it ends.
    """

    parts: tuple[Transform, ...]

    def __post_init__(self) -> None:
        for before, after in zip(self.parts, self.parts[1:], strict=False):
            after.source.admit(before.target, "A chain's link")

    @property
    def source(self) -> Space:  # type: ignore[override] - its parts' own, so it is not kept twice
        return self.parts[0].source

    @property
    def target(self) -> Space:  # type: ignore[override] - its parts' own, so it is not kept twice
        return self.parts[-1].target

    def mapped(self, points: Points) -> Points:
        for part in self.parts:
            points = part.mapped(points)
        return points

    def itk(self) -> sitk.Transform:
        chain = sitk.CompositeTransform(3)
        for part in reversed(self.parts):
            chain.AddTransform(part.itk())
        return chain


def composed(c_from_b: Transform, b_from_a: Transform) -> Transform:
    """`c_from_a`; two matrices become one.

    Raises:
        FrameMismatch: the two do not meet in one image.
    """
    if isinstance(c_from_b, Affine) and isinstance(b_from_a, Affine):
        c_from_b.source.admit(b_from_a.target, "The first transform's end")
        kind = Rigid if isinstance(c_from_b, Rigid) and isinstance(b_from_a, Rigid) else Affine
        return kind(c_from_b.matrix @ b_from_a.matrix, b_from_a.source, c_from_b.target)
    return Chain((*parts_of(b_from_a), *parts_of(c_from_b)))


def parts_of(transform: Transform) -> tuple[Transform, ...]:
    """A chain's transforms, the first applied first; of any other, itself."""
    return transform.parts if isinstance(transform, Chain) else (transform,)


def displacements(b_from_a: Transform, grid: Geometry) -> NDArray[np.float32]:
    """`[z, y, x, 3]` float32: `b_from_a(p) - p` (mm, x y z) at the nodes of a grid in a's space."""
    out = np.empty((*grid.shape, 3), dtype=np.float32)
    inner = np.moveaxis(np.indices(grid.shape[1:], dtype=np.float64), 0, -1)
    for k in range(grid.shape[0]):
        at = grid.points(np.concatenate([np.full((*grid.shape[1:], 1), float(k)), inner], axis=-1))
        out[k] = b_from_a.mapped(at) - at
    return out


def linear_part(transform: Transform) -> Affine:
    """The product of a chain's matrices: what turns space, without what bends it."""
    matrix = np.eye(4)
    for part in parts_of(transform):
        if isinstance(part, Affine):
            matrix = part.matrix @ matrix
    return Affine(matrix, transform.source, transform.target)


def rigid_part(transform: Transform) -> Affine:
    """The product of a chain's matrices; the transform itself where it is one."""
    for part in parts_of(transform):
        if not isinstance(part, Affine | Displacement):
            raise TypeError(f"a {type(part).__name__} has no rigid part")
    matrix = linear_part(transform).matrix
    return (
        Rigid(matrix, transform.source, transform.target)
        if _is_rigid(matrix)
        else Affine(matrix, transform.source, transform.target)
    )


def _is_rigid(matrix: NDArray[np.float64]) -> bool:
    turn = matrix[:3, :3]
    return bool(np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) and np.linalg.det(turn) > 0)


def jacobian(b_from_a: Transform, grid: Geometry) -> Volume[np.float32]:
    """Determinant of the derivative at the nodes of a grid in a's space: 1 keeps volume, less shrinks, 0 or less folds."""
    if min(grid.shape) < 2:
        raise UnsupportedGeometry("A Jacobian needs two nodes along each axis")
    vectors = displacements(b_from_a, grid).astype(np.float64)
    by_index = np.stack([np.gradient(vectors, axis=axis) for axis in range(3)], axis=-1)
    derivative = by_index @ np.linalg.inv(grid.steps).T + np.eye(3)
    return Volume(np.linalg.det(derivative).astype(np.float32), grid)


def sampled(array: NDArray[Any], grid: Geometry, points: Points) -> NDArray[np.float64]:
    """An array's values `[..., c]` between its nodes at LPS points `[..., 3]`; 0 more than half a step beyond the outermost.

    Args:
        array: `[z, y, x]` or `[z, y, x, c]`.
        grid: where its nodes lie.
        points: (x, y, z) mm.
    """
    indices = grid.indices(points)
    top = np.asarray(grid.shape) - 1
    inside = ((indices >= -0.5) & (indices <= top + 0.5)).all(axis=-1)
    place = np.clip(indices[inside], 0, top).T
    flat = array.reshape(*array.shape[:3], -1)
    found = np.empty((place.shape[1], flat.shape[3]))
    for n in range(flat.shape[3]):
        ndimage.map_coordinates(flat[..., n], place, output=found[:, n], order=1, mode="nearest", prefilter=False)
    out = np.zeros((*points.shape[:-1], *array.shape[3:]))
    out[inside] = found.reshape(-1, *array.shape[3:])
    return out


def placed(image: sitk.Image, grid: Geometry) -> sitk.Image:
    """Give an ITK image a grid's place; ITK counts axes from the fastest (i, j, k)."""
    image.SetOrigin(grid.origin)
    image.SetSpacing(grid.spacing[::-1])
    axes = np.asarray(grid.axes)[::-1].T
    image.SetDirection(np.where(np.abs(axes) < 1e-12, 0.0, axes).ravel().tolist())
    return image
