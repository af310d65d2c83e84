"""Which licences a site takes: policy.toml in its store of models."""

from __future__ import annotations

from pathlib import Path

from contour.model import ModelCard
from patient.errors import ModelError
from patient.settings import Table, parsed, read_source


class Policy(Table):
    """Licences as the cards say them, compared without regard to case.

    Args:
        allowed: where not empty, no other.
        refused: never these.
    """

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
    if not path.is_file():
        return Policy()
    return parsed(read_source(path, "policy of licences", ModelError), Policy, ModelError)


def refuse_licence(card: ModelCard, policy: Policy) -> None:
    """Raises ModelError where the site does not take the model."""
    if refused := policy.refusal(card):
        raise ModelError(refused, where=card.name, remedy="Use another model, or change policy.toml in the store")
