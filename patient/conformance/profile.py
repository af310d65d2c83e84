"""What a treatment planning system asks of a structure set beyond the standard, as data."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from patient.settings import Shipped, Table


class DvhRule(Table):
    """What a system takes to lie beyond a structure's first and last contour when it makes a DVH."""

    beyond_slices: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of the slice spacing: 0 for nothing, 0.5 for half a slice."""
    at_most: Annotated[float, Field(ge=0)] | None = None
    """mm; without it there is no limit."""
    source: str = "nearest to Eclipse's own tables of two plans; other systems not measured"


class Profile(Table):
    """One system's limits."""

    description: str
    name_length: int
    name_pattern: str
    """Regular expression that every structure's name matches as a whole."""
    label_length: int
    externals: int
    """How many structures of type EXTERNAL it takes."""
    most_points: int
    """Points in one loop."""
    xor_allowed: bool
    """Whether it reads CLOSEDPLANAR_XOR."""
    dvh: DvhRule = DvhRule()
    source: str

    @field_validator("name_pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern


_SHIPPED = Shipped("patient", "conformance/profiles", "profile")


def profiles() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return _SHIPPED.names()


def load_profile(name: str) -> Profile:
    """A shipped profile by name, or a site's own by path.

    Raises:
        PolicyError: no such profile, or not what the schema asks for; says which lines.
    """
    _, profile = _SHIPPED.read(name, Profile)
    return profile
