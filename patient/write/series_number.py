"""Series Numbers by which a planning system can sort what was made (PS3.3 C.7.3.1.1.3 asks for nothing unique).

`(1000 + image) fraction kind`: the image's own Series Number in the first digits, three digits of the fraction (000 where
there is none), one of the kind. Series 3's structure set of fraction 12 is 10030121. A scanner's numbers end far below.
"""

from __future__ import annotations

from enum import IntEnum

from patient.series import ImageSeries

MOST_OF_IMAGE = 99_999
"""An image without a Series Number, or with one beyond this, counts as 0: an Integer String holds no more."""
_FIRST = 1000


class Kind(IntEnum):
    """The last digit."""

    STRUCTURES = 1
    RIGID = 2
    DEFORMABLE = 3
    DOSE = 4
    DOSE_ERROR = 5


def series_number(image: ImageSeries, kind: Kind, fraction: int | None = None) -> int:
    """Of a new object in an image's study: another for each image, fraction (to 999) and kind; never the image's own."""
    own = _own(image)
    block = _FIRST + (own if 0 <= own <= MOST_OF_IMAGE else 0)
    if block == own // 10_000:
        block += 1
    return block * 10_000 + (fraction or 0) % 1000 * 10 + kind


def _own(image: ImageSeries) -> int:
    """-1 where the header has none, or no number."""
    try:
        return int(image.header["SeriesNumber"].value)
    except (KeyError, ValueError, TypeError, OverflowError):
        return -1
