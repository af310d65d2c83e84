"""How a site wants its nights: TOML, refused with the key's name where it says what nobody knows."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patient.errors import PolicyError


class Configuration(BaseModel):
    """Settings of a night, each with its default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = "head_neck"
    """For images whose header says no body part that `body_parts` knows."""
    body_parts: dict[str, str] = {
        "HEAD": "head_neck",
        "NECK": "head_neck",
        "HEADNECK": "head_neck",
        "BRAIN": "head_neck",
        "CHEST": "thorax",
        "LUNG": "thorax",
        "THORAX": "thorax",
        "BREAST": "thorax",
        "ABDOMEN": "abdomen",
        "LIVER": "abdomen",
        "PELVIS": "pelvis",
        "PROSTATE": "pelvis",
    }
    """Body Part Examined to template."""
    policy: str = "head_neck"
    """For fractions whose template `policies` does not know: a name, or a TOML file of the site's own."""
    policies: dict[str, str] = {"head_neck": "head_neck", "thorax": "thorax", "pelvis": "prostate"}
    """Template to policy."""
    fraction_numbers: Literal["images", "weekdays"] = "images"
    """Whether fractions are numbered by days with an image, or by weekdays since the first one under a plan."""
    profile: str = "standard"
    """Planning system whose limits the gate applies."""
    settle_minutes: float = Field(default=10.0, ge=0)
    """A series is whole when its files have been quiet for so long."""
    hold_days: float = Field(default=3.0, gt=0)
    """What is not whole after so long is refused."""
    time_limit: float = Field(default=1800.0, gt=0)
    """Seconds for one case."""
    memory_limit_mib: int = Field(default=6000, gt=0)
    """Of one worker; a case that needs more fails, the others go on."""
    workers: int = Field(default=max(1, min(os.cpu_count() or 1, 8)), ge=1)
    seed: int = 0


def load_configuration(path: Path | None) -> Configuration:
    """The site's file, or the defaults.

    Raises:
        PolicyError: not there, not TOML, or with a key or value that is not known.
    """
    if path is None:
        return Configuration()
    try:
        return Configuration.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PolicyError(f"The configuration cannot be read: {error.strerror}", where=path.name) from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"The configuration is not TOML: {error}", where=path.name) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}", where=path.name) from error
