"""What a dose-volume histogram says: its figures by name, and the interval that an error of the dose makes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from dataclasses import field as attribute

import numpy as np
from numpy.typing import NDArray

from adaptive.dose.lattice import HALF_SLICE, End
from patient.errors import PolicyError

BIN = 0.01
"""Gy; within a bin volume is taken as evenly spread."""
NEAR_MAXIMUM_CC = 0.03
HOLES = "nested loops of a plane are holes (even-odd)"


@dataclass(frozen=True, eq=False)
class Dvh:
    """Of one structure and one dose. Figures that are not defined are None, never 0.

    Args:
        structure: its name.
        volume_cc: of the whole structure, by its contours.
        covered: share of it (0 to 1) where dose is known; every figure is of this part alone.
        cc: volume in each bin of `BIN` Gy from 0 Gy on, `[n]`.
        minimum, maximum, mean: Gy, of the cells themselves.
        resolution: mm, edge of a cell.
        plane_spacing: mm between the structure's planes.
        end: what was taken to lie beyond the end contours.
        holes: which loops make holes.
        notes: what a reader must know, in words.
    """

    structure: str
    volume_cc: float
    covered: float
    cc: NDArray[np.float64] = attribute(repr=False)
    minimum: float | None
    maximum: float | None
    mean: float | None
    resolution: float
    plane_spacing: float
    end: End = HALF_SLICE
    holes: str = HOLES
    notes: tuple[str, ...] = ()

    @property
    def covered_cc(self) -> float:
        return float(self.cc.sum())

    def dose_at_cc(self, volume_cc: float) -> float | None:
        """The least dose to the hottest `volume_cc`, Gy; None where less than that is covered."""
        total = self.covered_cc
        if self.minimum is None or self.maximum is None or volume_cc > total * (1 + 1e-9):
            return None
        hottest = np.cumsum(self.cc[::-1])
        at = min(int(np.searchsorted(hottest, volume_cc)), len(hottest) - 1)
        missing = (hottest[at] - volume_cc) / self.cc[::-1][at] if self.cc[::-1][at] else 1.0
        dose = (len(self.cc) - 1 - at + missing) * BIN
        return float(np.clip(dose, self.minimum, self.maximum))

    def dose_at_percent(self, percent: float) -> float | None:
        """The least dose to the hottest `percent` of the covered volume, Gy."""
        return self.dose_at_cc(self.covered_cc * percent / 100)

    def volume_at(self, gy: float) -> float | None:
        """Percent of the covered volume that receives `gy` or more."""
        if self.minimum is None or self.maximum is None:
            return None
        if gy <= self.minimum or gy > self.maximum:
            return 100.0 if gy <= self.minimum else 0.0
        within = int(gy / BIN)
        part = self.cc[within + 1 :].sum() + self.cc[within] * (within + 1 - gy / BIN)
        return float(np.clip(100 * part / self.covered_cc, 0, 100))

    @property
    def near_maximum(self) -> float | None:
        """D0.03cc, Gy; None for structures smaller than that."""
        return self.dose_at_cc(NEAR_MAXIMUM_CC)

    @property
    def homogeneity(self) -> float | None:
        """(D2% - D98%) / D50%, 0 at best (ICRU Report 83, 3.7.1.1)."""
        high, low, middle = (self.dose_at_percent(percent) for percent in (2, 98, 50))
        return (high - low) / middle if high is not None and low is not None and middle else None

    def eud(self, exponent: float) -> float | None:
        """Generalised equivalent uniform dose, Gy: (sum of v_i D_i^a)^(1/a), v_i the shares of volume (Niemierko 1999).

        Args:
            exponent: a; 1 gives the mean, large ones near the maximum, negative ones suit targets.

        Raises:
            ValueError: an exponent of 0, or no number.
        """
        if not np.isfinite(exponent) or exponent == 0:
            raise ValueError(f"an equivalent uniform dose of exponent {exponent} does not exist")
        if self.minimum is None or self.maximum is None:
            return None
        at = np.flatnonzero(self.cc)
        gray, shares = np.clip((at + 0.5) * BIN, self.minimum, self.maximum), self.cc[at] / self.covered_cc
        if self.maximum == 0 or (exponent < 0 and gray.min() == 0):
            return 0.0
        reference = self.maximum if exponent > 0 else float(gray.min())
        return float(reference * np.sum(shares * (gray / reference) ** exponent) ** (1 / exponent))

    def metric(self, name: str, exponent: float | None = None) -> float | None:
        """A figure by its name: see `Metric.named`."""
        return Metric.named(name).of(self, exponent)


@dataclass(frozen=True)
class Metric:
    """A figure of a DVH that a policy can ask for.

    Args:
        name: as written.
        kind: "D%", "Dcc", "V", or the name itself where it takes no number.
        at: the number in it: percent, cc or Gy.
        unit: of the figure.
    """

    name: str
    kind: str
    at: float
    unit: str

    @staticmethod
    def named(name: str) -> Metric:
        """`D95%`, `D0.03cc`, `V20Gy` (percent of volume), `Dmean`, `Dmin`, `Dmax` (D0.03cc), `HI` (ICRU 83), `EUD`.

        Raises:
            PolicyError: anything else; a percentage of 0 or beyond 100; a volume of 0.
        """
        if name in _PLAIN:
            return Metric(name, name, 0.0, _PLAIN[name])
        if (found := _NUMBERED.fullmatch(name)) is not None:
            kind, unit = {"%": ("D%", "Gy"), "cc": ("Dcc", "Gy"), None: ("V", "%")}[found["volume"]]
            at = float(found["share"] or found["gray"])
            if kind == "V" or 0 < at <= (100 if kind == "D%" else np.inf):
                return Metric(name, kind, at, unit)
        raise PolicyError(
            f"{name!r} is not a DVH metric",
            why="A rule that asks for it could never be exceeded",
            remedy="Write D95%, D0.03cc, V20Gy, Dmean, Dmin, Dmax, HI or EUD",
        )

    def of(self, dvh: Dvh, exponent: float | None = None) -> float | None:
        """Its value in `unit`; None where it is not defined.

        Raises:
            PolicyError: an EUD without its exponent.
        """
        if self.kind == "EUD":
            if exponent is None:
                raise PolicyError("An EUD needs an exponent", remedy="Give the structure's in the policy")
            return dvh.eud(exponent)
        if self.kind in ("D%", "Dcc", "V"):
            return {"D%": dvh.dose_at_percent, "Dcc": dvh.dose_at_cc, "V": dvh.volume_at}[self.kind](self.at)
        return {"Dmean": dvh.mean, "Dmin": dvh.minimum, "Dmax": dvh.near_maximum, "HI": dvh.homogeneity}[self.kind]


_PLAIN = {"Dmean": "Gy", "Dmin": "Gy", "Dmax": "Gy", "HI": "", "EUD": "Gy"}
_NUMBERED = re.compile(r"D(?P<share>\d+(?:\.\d+)?)(?P<volume>%|cc)|V(?P<gray>\d+(?:\.\d+)?)Gy")


@dataclass(frozen=True, eq=False)
class DvhInterval:
    """A DVH and the two between which it lies where every voxel's dose lies within its error.

    Args:
        nominal: of the dose itself.
        low: of the dose less its error everywhere, at least 0 Gy.
        high: of the dose and its error everywhere.
    """

    nominal: Dvh
    low: Dvh
    high: Dvh

    def interval(self, name: str, exponent: float | None = None) -> tuple[float, float] | None:
        """Between which a figure lies; None where it is undefined or the error is not known everywhere that the dose is.

        All figures but HI grow with dose anywhere, so the ends are those of the two DVHs. HI is bounded by its parts.
        """
        if min(self.low.covered, self.high.covered) < self.nominal.covered - 1e-9:
            return None
        if Metric.named(name).kind == "HI":
            return self._homogeneity()
        low, high = self.low.metric(name, exponent), self.high.metric(name, exponent)
        return None if low is None or high is None else (low, high)

    def _homogeneity(self) -> tuple[float, float] | None:
        low, high = ([dvh.dose_at_percent(percent) for percent in (2, 50, 98)] for dvh in (self.low, self.high))
        (hot_low, middle_low, cold_low), (hot_high, middle_high, cold_high) = low, high
        if None in (*low, *high) or not middle_low or not middle_high:
            return None
        assert hot_low is not None and cold_low is not None and hot_high is not None and cold_high is not None  # noqa: PT018
        return max(0.0, hot_low - cold_high) / middle_high, (hot_high - cold_low) / middle_low
