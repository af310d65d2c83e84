"""What a structure set is called in a planning system's list: by site, day and fraction."""

from __future__ import annotations

import re
from dataclasses import dataclass

from patient.series import ImageSeries
from patient.write.text import plain

_SITES = {"head_neck": "HN"}
_LEAST = 2
"""Characters that a site keeps; where a label has no room for them the day goes first."""


@dataclass(frozen=True)
class SetLabel:
    """Structure Set Label, Name and Description.

    Args:
        label: at most as long as a planning system's profile says.
        name: in words, at most 37 characters, so that "by software, not approved" fits behind it.
        description: what the contours are, in a sentence.
    """

    label: str
    name: str
    description: str


def planning_label(template: str, image: ImageSeries, length: int = 16) -> SetLabel:
    """Of contours on a planning image; the day is the image's own."""
    name = f"{plain(template)[:26]} contours"
    return SetLabel(_joined(template, image.acquired, "", length), name, f"Contours of template {plain(template)}")


def fraction_label(template: str, image: ImageSeries, number: int, plan: str, length: int = 16) -> SetLabel:
    """Of a fraction's contours.

    Args:
        number: of the fraction.
        plan: RT Plan Label; empty where there is no RTPLAN.
    """
    name = f"Fraction {number}" + (f" of {plain(plan)[:16]}" if plan else "")
    said = f"Fraction {number} of plan {plain(plan) or 'without an RTPLAN'}: its structures on the day's image"
    return SetLabel(_joined(template, image.acquired, f"F{number}", length), name, said)


def _joined(template: str, day: str, fraction: str, length: int) -> str:
    """The fraction whole, then the day whole where there is room for it, then as much of the site as fits."""
    behind = " ".join(filter(None, (day, fraction)))
    if len(behind) + 1 + _LEAST > length:
        behind = fraction
    room = length - len(behind) - 1 if behind else length
    site = _site(template)[: max(0, room)].rstrip()
    return " ".join(filter(None, (site, behind)))[:length]


def _site(template: str) -> str:
    """`head_neck_ptv` is HN PTV, `thorax` is THORAX."""
    for name, short in _SITES.items():
        if template.startswith(name):
            template = short + template[len(name) :]
    return re.sub(r"[^A-Z0-9]+", " ", template.upper()).strip() or "SITE"
