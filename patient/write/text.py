"""Text that goes out beside an image's own, in the image's character set."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """ASCII without a backslash: the image's character set need not hold anything else."""
    return re.sub(r"[^ -\[\]-~]", "?", " ".join(text.split()))
