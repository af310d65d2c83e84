"""The models of a store as engines, beside those that are installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contour.engine import Absent, Context, Finding, Offer
from contour.licences import read_policy
from contour.model import offers_of
from contour.model_registry import POLICY, ModelRegistry, Record
from patient.volume import Volume

if TYPE_CHECKING:
    from contour.network import NetworkEngine


def registered_engines(registry: ModelRegistry) -> list[RegisteredEngine]:
    """One for each model whose licence the site takes; only records are read.

    Raises:
        ModelError: a record or the policy cannot be read.
    """
    policy = read_policy(registry.folder / POLICY)
    records = [registry.record(name) for name in registry.names()]
    return [RegisteredEngine(registry.folder, record) for record in records if not policy.refusal(record.card)]


class RegisteredEngine:
    """A model of the store as an engine (`contour.engine.Engine`): weights are read when something is first asked of it."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._folder, self._record = folder, record
        self.name = record.name
        self.version = f"{record.card.version}+{record.digest[:8]}".lstrip("+")
        """With the digest, so that another model of the same version makes another job."""

    def offers(self) -> Mapping[str, Offer]:
        """The model's structures."""
        return offers_of(self._record.card)

    def contour(self, image: Volume[np.generic], wanted: Sequence[str], context: Context) -> Iterator[Finding | Absent]:
        """As `contour.network.NetworkEngine`.

        Raises:
            ValueError: a name that is not offered.
            ModelError: the model is not the one that was added.
            Cancelled: asked to stop.
        """
        if unknown := [name for name in wanted if name not in self.offers()]:
            raise ValueError(f"not offered: {', '.join(unknown)}")
        yield from _engine(self._folder, self.name, self._record.digest).contour(image, wanted, context)


@cache
def _engine(folder: Path, name: str, digest: str) -> NetworkEngine:
    """Files are verified and weights read once a process; torch, too, is imported only here."""
    from contour.network import NetworkEngine

    return NetworkEngine(ModelRegistry(folder).load(name))
