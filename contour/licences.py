"""Which licences a site takes: policy.toml in its store of models."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contour.model import ModelCard
from patient.errors import ModelError


class Policy(BaseModel):
    """Licences as the cards say them, compared without regard to case.

    Args:
        allowed: where not empty, no other.
        refused: never these.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def refusal(self, card: ModelCard) -> str:
        """Why the site does not take a model; empty where it does."""
        licence = card.licence.casefold()
        if licence in (one.casefold() for one in self.refused):
            return f"The site refuses the licence {card.licence}"
        if self.allowed and licence not in (one.casefold() for one in self.allowed):
            return f"The licence {card.licence} is not among those that the site allows"
        return ""


def read_policy(path: Path) -> Policy:
    """The site's policy; one that takes all where there is no file.

    Raises:
        ModelError: not what the schema asks for.
    """
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Policy()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"The policy of licences cannot be read: {error}", where=path.name) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}", where=path.name) from error


def refuse_licence(card: ModelCard, policy: Policy) -> None:
    """Raises ModelError where the site does not take the model."""
    if refused := policy.refusal(card):
        raise ModelError(refused, where=card.name, remedy="Use another model, or change policy.toml in the store")
