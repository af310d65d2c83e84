"""Trains a network to contour: patches in, a folder of weights out that `recontour models add` takes.

The patch of step n is a function of the seed and n alone (`contour.patches`), so a run that was killed resumes where it was.
What is unknown in a patch takes no part in the loss.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn

from contour.patches import Patches
from contour.unet import Architecture, network, windowed

log = logging.getLogger(__name__)
MOST_LEFT_OUT = 50
"""Steps that may have a gradient that is no number, before a run is given up."""
KEEP = 0.999
"""Of the running mean of the weights that is kept at each step; the mean is what is shipped."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        steps: patches.
        rate: the highest learning rate; it rises over the first `warm_up` steps and falls as a cosine to zero.
        save_every: steps between checkpoints.
    """

    steps: int
    rate: float = 2e-3
    warm_up: int = 200
    decay: float = 1e-4
    seed: int = 0
    save_every: int = 250

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - self.warm_up) / max(1, self.steps - self.warm_up)))


def loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy where the truth is known, and one minus soft Dice of the structures that are in the patch.

    Args: `[batch, structure, z, y, x]` each.
    """
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    crossed = (entropy * known).sum() / known.sum().clamp(min=1)
    overlap = DiceLoss(reduction="none")(torch.sigmoid(logits) * known, truth * known).flatten(1)
    there = ((truth * known).flatten(2).sum(-1) > 0).float()
    return crossed * logits.shape[1] + (overlap * there).sum() / there.sum().clamp(min=1)


class Training:
    """One run in one folder: `checkpoint.pt` to go on from, `training.log` to read.

    Args:
        folder: of the run; a checkpoint there is gone on from.
        start: weights to start from (a model trained before); None for random ones.
        exact: in float32. In bfloat16 the gradients of some small convolutions (a bottleneck of 2 x 5 x 5 voxels) differ
            from run to run on one and the same processor, and are now and then no numbers at all.
    """

    def __init__(
        self,
        patches: Patches,
        architecture: Architecture,
        schedule: Schedule,
        folder: Path,
        start: nn.Module | None = None,
        device: str = "cpu",
        *,
        exact: bool = False,
    ) -> None:
        torch.manual_seed(schedule.seed)
        self._patches, self._schedule, self._folder, self._device = patches, schedule, folder, device
        self._model = (
            (deepcopy(start) if start is not None else network(architecture)).to(device).train().requires_grad_(True)
        )
        self._mean = deepcopy(self._model).eval().requires_grad_(False)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), schedule.rate, weight_decay=schedule.decay)
        self._architecture, self._exact, self._left_out = architecture, exact, 0
        self.step = 0
        if (folder / "checkpoint.pt").is_file():
            self._resume()

    def _resume(self) -> None:
        held = torch.load(self._folder / "checkpoint.pt", weights_only=True, map_location=self._device)
        if held["schedule"] != asdict(self._schedule):
            raise ValueError(f"{self._folder} holds a run with another schedule: {held['schedule']}")
        self._model.load_state_dict(held["model"])
        self._mean.load_state_dict(held["mean"])
        self._optimizer.load_state_dict(held["optimizer"])
        self.step = held["step"]
        log.info("going on after step %d", self.step)

    def save(self) -> None:
        """The checkpoint, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        passing = self._folder / "checkpoint.partial.pt"
        torch.save(
            {
                "model": self._model.state_dict(),
                "mean": self._mean.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self.step,
                "schedule": asdict(self._schedule),
            },
            passing,
        )
        passing.replace(self._folder / "checkpoint.pt")

    def run(self) -> Iterator[float]:
        """Trains to the end of the schedule; gives the loss of every step."""
        began, first = time.monotonic(), self.step
        running = 0.0
        while self.step < self._schedule.steps:
            value = self._one()
            self.step += 1
            if math.isfinite(value):
                running = 0.99 * running + 0.01 * value if running else value
            if self.step % 50 == 0:
                each = (time.monotonic() - began) / (self.step - first)
                left = each * (self._schedule.steps - self.step) / 60
                log.info("step %d loss %.4f (%.2f s a step, %.0f minutes left)", self.step, running, each, left)
            if self.step % self._schedule.save_every == 0 or self.step == self._schedule.steps:
                self.save()
            yield value

    def _one(self) -> float:
        patch = self._patches.draw(self._schedule.seed, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate_at(self.step)
        inputs = windowed(patch.hu, self._architecture.windows)[None].to(self._device)
        with torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=not self._exact):
            logits = self._model(inputs)
        value = loss(logits.float(), patch.truth[None].to(self._device), patch.known[None].to(self._device))
        value.backward()
        if not torch.isfinite(nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)):
            self._left_out += 1
            log.warning("step %d: the gradient is no number; nothing was learnt from this patch", self.step)
            if self._left_out > MOST_LEFT_OUT:
                raise ArithmeticError(f"{self._left_out} steps without a gradient: train in float32, or at a lower rate")
            self._optimizer.zero_grad(set_to_none=True)
            return float(value.detach())
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        keep = min(KEEP, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self._mean.parameters(), self._model.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        return float(value.detach())

    def trained(self) -> nn.Module:
        """The running mean of the weights: what is shipped."""
        return deepcopy(self._mean)
