"""Attributes of a DICOM object, converted or refused by name: a malformed value says which it is and where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from patient.errors import InputError

if TYPE_CHECKING:
    from patient.read.headers import Header

T = TypeVar("T")
_SHOWN = 20
"""Characters of a malformed number that a message shows."""


class Attributes:
    """The attributes of one dataset: a file's own, or those of an item of a sequence.

    Args:
        dataset: whose they are.
        file: its name, for messages; pages do not show it.
        place: which item of which sequences; empty for the file's own.
        notes: collects what was malformed and could be done without; shared with the items of its sequences.
    """

    def __init__(self, dataset: Dataset, file: str, notes: list[str], place: str = "") -> None:
        self.dataset, self.file, self.place, self.notes = dataset, file, place, notes

    @property
    def where(self) -> str:
        """File and item."""
        return ", ".join(filter(None, (self.file, self.place)))

    @staticmethod
    def of(header: Header) -> Attributes:
        """Of a file, with no notes yet."""
        return Attributes(header.dataset, header.path.name, [])

    def has(self, keyword: str) -> bool:
        """Whether an attribute is there and not empty."""
        return bool(self._value(keyword))

    def items(self, keyword: str) -> list[Attributes]:
        """The items of a sequence; none where it is absent or empty."""
        found: Sequence[Any] = self._value(keyword) or ()
        if not all(isinstance(item, Dataset) for item in _listed(found)):
            raise self._malformed(keyword, "is no sequence of items")
        place = ", ".join(filter(None, (self.place, f"{_name(keyword)} item")))
        return [Attributes(item, self.file, self.notes, f"{place} {n}") for n, item in enumerate(found, start=1)]

    def text(self, keyword: str) -> str:
        """As text without blanks around it; empty where absent."""
        value = self._value(keyword)
        return "" if value is None else str(value).strip()

    def raw(self, keyword: str) -> bytes:
        """Bytes of an attribute that holds nothing else (OB, OW, OF); empty where absent."""
        value = self._value(keyword)
        if not isinstance(value, bytes | None):
            raise self._malformed(keyword, "is not stored as bytes")
        return value or b""

    def integer(self, keyword: str) -> int | None:
        """A whole number; None where absent or empty."""
        numbers = self._numbers(keyword)
        if not numbers:
            return None
        if len(numbers) > 1 or not numbers[0].is_integer():
            raise self._malformed(keyword, f"holds {self._shown(keyword)}, which is no whole number")
        return int(numbers[0])

    def number(self, keyword: str) -> float | None:
        """A finite number; None where absent or empty."""
        numbers = self._numbers(keyword)
        if len(numbers) > 1:
            raise self._malformed(keyword, f"holds {len(numbers)} numbers where one is asked for")
        return numbers[0] if numbers else None

    def numbers(self, keyword: str, count: int | None = None) -> list[float]:
        """Finite numbers, as many as `count` says; none where absent or empty."""
        numbers = self._numbers(keyword)
        if numbers and count is not None and len(numbers) != count:
            raise self._malformed(keyword, f"holds {len(numbers)} numbers where {count} are asked for")
        return numbers

    def unless_malformed(self, read: Callable[[str], T], keyword: str) -> T | None:
        """What one of the methods above reads of an attribute that is not needed: None and a note where it is malformed."""
        try:
            return read(keyword)
        except InputError as error:
            self.notes.append(f"{error.what} and was ignored{f' ({self.place})' if self.place else ''}")
            return None

    def _value(self, keyword: str) -> Any:
        try:
            return self.dataset.get(keyword)
        except Exception as error:  # pydicom converts when asked; malformed bytes fail in as many ways as there are types
            raise self._malformed(keyword, f"holds {self._shown(keyword)}, which cannot be read") from error

    def _numbers(self, keyword: str) -> list[float]:
        value = self._value(keyword)
        if value is None or value == "":
            return []
        try:
            numbers = [float(v) for v in _listed(value)]
        except (TypeError, ValueError, OverflowError) as error:
            raise self._malformed(keyword, f"holds {self._shown(keyword)}, which is no number") from error
        if not all(map(isfinite, numbers)):
            raise self._malformed(keyword, "holds what is no finite number")
        return numbers

    def _shown(self, keyword: str) -> str:
        """The bytes of a numerical value, for a message; what may hold a name is not shown."""
        element = cast("DataElement | None", self.dataset.get_item(keyword))
        value = element.value if element is not None else None
        raw = value if isinstance(value, bytes) else str(value).encode("ascii", "replace")
        text = raw.strip(b"\0 ").decode("ascii", "replace")
        if Tag(keyword).group not in _NUMERICAL_GROUPS or not _NUMERICAL.fullmatch(text[:_SHOWN]):
            return "a value"
        return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else ""))

    def _malformed(self, keyword: str, what: str) -> InputError:
        return InputError(
            f"{_name(keyword)} {what}",
            where=self.where,
            why="A value that cannot be read must not be guessed",
            remedy="Export the object again",
        )


_NUMERICAL = re.compile(r"[-+0-9.,eE\\ '\[\]]+")
"""What was meant as numbers. Other text may be anything, also a name."""
_NUMERICAL_GROUPS = (0x0020, 0x0028, 0x0070, 0x3004, 0x3006, 0x300A, 0x300C)
"""Groups without a word of the patient: geometry, pictures and radiotherapy."""


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | bytes | int | float) else list(value)


def _name(keyword: str) -> str:
    """As the standard writes it: "ROI Number"."""
    return dictionary_description(Tag(keyword))
