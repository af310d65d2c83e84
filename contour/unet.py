"""The network that recontour trains: its shape, and what it is shown of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """A U-Net, and the grid and intensities that it was made for.

    Args:
        structures: TG-263, one output channel each; they may overlap.
        spacing: mm `(z, y, x)` of its grid.
        patch: voxels `(z, y, x)` of what it sees at once; each a multiple of 2 ** (levels - 1).
        filters: channels of each level, the finest first.
        windows: HU ranges that are mapped to -1..1, one input channel each.
    """

    structures: tuple[str, ...]
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    filters: tuple[int, ...]
    windows: tuple[tuple[float, float], ...] = ((-160.0, 240.0), (-1000.0, 2000.0))

    def __post_init__(self) -> None:
        step = 2 ** (len(self.filters) - 1)
        if any(p % step for p in self.patch):
            raise ValueError(f"A patch of {self.patch} cannot be halved {len(self.filters) - 1} times")


def network(architecture: Architecture) -> nn.Module:
    """An untrained network (Isensee et al., Nature Methods 18 (2021) 203: a plain U-Net with instance norm)."""
    levels = len(architecture.filters)
    return DynUNet(
        spatial_dims=3,
        in_channels=len(architecture.windows),
        out_channels=len(architecture.structures),
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(architecture.filters),
        norm_name=("INSTANCE", {"affine": True}),
    )


def windowed(hu: Tensor, windows: tuple[tuple[float, float], ...]) -> Tensor:
    """HU `[1, z, y, x]` as input channels `[window, z, y, x]`, -1 to 1 within each window."""
    return torch.cat([((hu - low) / (high - low) * 2 - 1).clamp(-1, 1) for low, high in windows])


def grown(narrow: nn.Module, architecture: Architecture) -> nn.Module:
    """A wider network that answers as a trained one of the same depth does, to be trained on.

    Channels that are new look at whatever is there with random weights, and nothing that was there looks at them yet
    (zero weights, as in Chen et al., Net2Net, ICLR 2016, without the copies: their gradients need no breaking of symmetry).

    Args:
        narrow: as `network` makes it, with the same structures and windows and nowhere more channels.

    Raises:
        ValueError: it is deeper, shallower, or somewhere wider.
    """
    wide = network(architecture)
    old, new = narrow.state_dict(), wide.state_dict()
    if old.keys() != new.keys() or any((torch.tensor(new[k].shape) < torch.tensor(old[k].shape)).any() for k in old):
        raise ValueError("A network grows in width alone")
    with torch.no_grad():
        for name, was in old.items():
            now = new[name]
            if was.ndim == 1:
                now[: len(was)] = was
                continue
            outputs, inputs = (1, 0) if "transp_conv" in name else (0, 1)
            listening = now.narrow(outputs, 0, was.shape[outputs])
            listening.zero_()
            # A decoder's first convolution reads two halves: what comes from below, and what skipped across.
            halves = 2 if "upsample" in name and name.endswith("conv_block.conv1.conv.weight") else 1
            width, wider = was.shape[inputs] // halves, now.shape[inputs] // halves
            for half in range(halves):
                listening.narrow(inputs, half * wider, width).copy_(was.narrow(inputs, half * width, width))
    return wide
