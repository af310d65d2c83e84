"""What a treatment planning system asks of a structure set beyond the standard, as data."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, ValidationError

from patient.errors import PolicyError


class Profile(BaseModel):
    """One system's limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    source: str


def profiles() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    folder = files("patient").joinpath("conformance", "profiles")
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_profile(name: str) -> Profile:
    """A shipped profile.

    Raises:
        PolicyError: no such profile, or not what the schema asks for.
    """
    if name not in profiles():
        raise PolicyError(f"No profile {name!r}", remedy=f"Use one of {', '.join(profiles())}")
    text = files("patient").joinpath("conformance", "profiles", f"{name}.toml").read_text(encoding="utf-8")
    try:
        profile = Profile.model_validate(tomllib.loads(text))
        re.compile(profile.name_pattern)
    except (ValidationError, tomllib.TOMLDecodeError, re.error) as error:
        raise PolicyError(f"Profile {name}: {error}", where=f"{name}.toml") from error
    return profile
