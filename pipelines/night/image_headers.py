"""What the header of an image says of itself: when it was acquired, whether in the treatment room, whether it has slices."""

from __future__ import annotations

import re
from datetime import date

from patient.read.index import SeriesEntry

_ON_THE_COUCH = re.compile(
    r"\b(k?v?cbct|cone.?beam|xvi|obi|on.?board|mvct|megavoltage|tomo(therapy|image))\b", re.IGNORECASE
)
_SAYS = ("SeriesDescription", "StudyDescription", "ProtocolName", "ManufacturerModelName", "ImageType", "ImageComments")
SETUP_VOLTAGE = 1000.0
"""kV; an image made with more is made by a treatment beam."""


def acquired(entry: SeriesEntry) -> str:
    """When an image was acquired: YYYYMMDDHHMMSS, YYYYMMDD where no time is given, empty where no day is."""
    header = entry.headers[0]
    for kind in ("Acquisition", "Series", "Content", "Study"):
        day, time = header.text(f"{kind}Date"), header.text(f"{kind}Time").partition(".")[0]
        if day_of(day) is not None:
            return day + (time if re.fullmatch(r"\d{6}", time) else "")
    return ""


def on_the_couch(entry: SeriesEntry) -> bool:
    """Whether a header says that the image was made in the treatment room: cone beam or megavoltage CT."""
    header = entry.headers[0]
    voltage = header.text("KVP")
    high = voltage.replace(".", "", 1).isdigit() and float(voltage) >= SETUP_VOLTAGE
    return high or any(_ON_THE_COUCH.search(header.text(keyword).replace("_", " ")) for keyword in _SAYS)


def is_volume(entry: SeriesEntry) -> bool:
    """Whether a series is a CT of slices: a localizer (scout) is CT by name, and nothing can be drawn on it."""
    return entry.modality == "CT" and not all("LOCALIZER" in header.text("ImageType") for header in entry.headers)


def day_of(day: str) -> date | None:
    try:
        return date(int(day[:4]), int(day[4:6]), int(day[6:])) if re.fullmatch(r"\d{8}", day) else None
    except ValueError:
        return None
