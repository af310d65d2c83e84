"""Whether a value may be used without clinical review: travels with the value, from where it is made to page and file.

`Estimated` has no way to its value that leaves the trust behind: `if_trusted` is None where there is none, `judged` gives
both. A type that stands on a registration, an estimate or another fraction holds one, or a `Trust` without a default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Trust:
    """Given, or doubted for reasons. True where it is given.

    Args:
        doubts: why a person must look first, in sentences; none where trust is given.
    """

    doubts: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.doubts

    def __and__(self, other: Trust) -> Trust:
        """Of what stands on both: given where both are."""
        return Trust(tuple(dict.fromkeys((*self.doubts, *other.doubts))))

    def about(self, subject: str) -> Trust:
        """The same doubts, each with what it is about: `fraction 3: the field folds`."""
        return Trust(tuple(f"{subject}: {doubt}" for doubt in self.doubts))

    @staticmethod
    def given_if(holds: bool, otherwise: str) -> Trust:
        """Given where something holds; else doubted for that reason."""
        return GIVEN if holds else Trust((otherwise,))


GIVEN = Trust(())
"""Nothing speaks against it."""
UNRECORDED = Trust(("it was made before it was recorded what it stands on",))
"""Of what was written before trust was."""


class Estimated(Generic[T]):
    """A value with its trust.

    Args:
        value: any.
        trust: in it.
    """

    def __init__(self, value: T, trust: Trust) -> None:
        # Under no name that the type knows: to read the value past its trust does not type-check.
        self.__dict__["judged"] = value, trust

    @property
    def trust(self) -> Trust:
        """In the value."""
        return self.judged[1]

    @property
    def if_trusted(self) -> T | None:
        """The value; None where it is not trusted."""
        return self.judged[0] if self.trust else None

    @property
    def judged(self) -> tuple[T, Trust]:
        """The value, trusted or not, and which: for whoever marks it."""
        return self.__dict__["judged"]

    def mapped(self, change: Callable[[T], U]) -> Estimated[U]:
        """What is made of the value; no more to be trusted than it."""
        return Estimated(change(self.judged[0]), self.trust)

    def given(self, trust: Trust) -> Estimated[T]:
        """The same value, where it also stands on something else."""
        return Estimated(self.judged[0], self.trust & trust)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Estimated) and self.judged == cast("Estimated[object]", other).judged

    def __hash__(self) -> int:
        return hash(self.judged)

    def __repr__(self) -> str:
        return "Estimated({!r}, {!r})".format(*self.judged)
