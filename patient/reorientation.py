"""Any image seen upright: k to the head, j to the back, i to the patient's left, or as somebody asks; and back again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patient.errors import UnsupportedGeometry
from patient.geometry import Geometry
from patient.volume import Volume

_DIRECTIONS = {
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
}
UPRIGHT = "SPL"
"""Where the axes k, j, i of an upright image run to: to the head (superior), to the back (posterior), to the left."""


@dataclass(frozen=True)
class Reorientation:
    """Which of an image's axes run to the head, back and left, and which of them run the other way."""

    order: tuple[int, int, int]
    against: tuple[bool, bool, bool]

    @staticmethod
    def of(geometry: Geometry, axes: str = UPRIGHT) -> Reorientation:
        """The nearest whole turn; an oblique image stays oblique by less than 45 degrees.

        Args:
            axes: where k, j and i shall run to, one letter of S, I, A, P, L, R each; upright unless said otherwise.

        Raises:
            UnsupportedGeometry: two directions have the same nearest axis.
        """
        nearest = [geometry.nearest_axis(_DIRECTIONS[letter]) for letter in axes]
        k, j, i = (axis for axis, _ in nearest)
        if len({k, j, i}) < 3:
            raise UnsupportedGeometry("The image is turned by 45 degrees: head, back and left cannot be told apart")
        a, b, c = (sign < 0 for _, sign in nearest)
        return Reorientation((k, j, i), (a, b, c))

    def upright(self, image: Volume[Any]) -> Volume[Any]:
        """A view of the image, upright."""
        turned = image.array.transpose(self.order)
        flips = tuple(slice(None, None, -1 if against else 1) for against in self.against)
        return Volume(turned[flips], _reoriented(image.geometry, self.order, self.against))

    def back(self, part: Volume[Any]) -> Volume[Any]:
        """An upright part in the order of the image it came from."""
        flips = tuple(slice(None, None, -1 if against else 1) for against in self.against)
        order = tuple(int(v) for v in np.argsort(self.order))
        unflipped = _reoriented(part.geometry, (0, 1, 2), self.against)
        k, j, i = order
        return Volume(part.array[flips].transpose(order), _reoriented(unflipped, (k, j, i), (False, False, False)))


def _reoriented(geometry: Geometry, order: tuple[int, int, int], against: tuple[bool, ...]) -> Geometry:
    axes: NDArray[np.float64] = np.asarray(geometry.axes)[list(order)]
    shape = tuple(geometry.shape[a] for a in order)
    spacing = tuple(geometry.spacing[a] for a in order)
    corner = np.zeros(3)
    for new, old in enumerate(order):
        if against[new]:
            corner[old] = geometry.shape[old] - 1
    signs = np.where(against, -1.0, 1.0)
    rows = tuple(tuple(float(v) for v in row) for row in axes * signs[:, None])
    x, y, z = (float(v) for v in geometry.points(corner))
    return replace(geometry, shape=shape, spacing=spacing, origin=(x, y, z), axes=rows)  # type: ignore[arg-type]
