"""Models that recontour trained: `model.toml` and `weights.safetensors` (`contour.model`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from contour.model import CARD, OURS, WEIGHTS, ModelCard, read_card
from patient.errors import ModelError

if TYPE_CHECKING:
    from contour.network import LoadedModel
