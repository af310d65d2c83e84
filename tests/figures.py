"""Measurements for tests, and what is in them, trusted or not."""

from adaptive.decision.measurement import Figure, Measurement
from patient.trust import GIVEN, Estimated, Trust

DOUBTED = Trust(("made so",))


def measurement(
    structure: str,
    quantity: str,
    unit: str,
    value: float,
    planned: float | None = None,
    interval: tuple[float, float] | None = None,
    trust: Trust = GIVEN,
    basis: str = "",
) -> Measurement:
    """A figure of a structure."""
    return Measurement(structure, quantity, unit, Estimated(Figure(value, planned, interval), trust), basis)


def figure(of: Measurement) -> Figure:
    """What was measured, whether it is trusted or not."""
    return of.figure.judged[0]
