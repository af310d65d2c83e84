"""Third-party models, one file a kind. None is downloaded, and none can run code of its own.

Every kind says three things: which files of a source are its own, what they say of the model (cheap, without torch), and the
network itself, as a `LoadedModel` for `contour.network.NetworkEngine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from contour.model_import import exported, monai_bundle, nnunet, own, totalsegmentator
from contour.model_import.description import Described
from patient.errors import ModelError

if TYPE_CHECKING:
    from contour.network import LoadedModel


class Reader(Protocol):
    """What reads one kind of models."""

    def found(self, source: Path) -> Mapping[str, Path] | None:
        """The files of a source that are kept, by their place in the kept folder; None if it is of another kind."""
        ...

    def described(self, folder: Path, digest: str) -> Described:
        """What a kept folder says of its model.

        Args:
            digest: SHA-256 over the folder's files.

        Raises:
            ModelError: it cannot be used.
        """
        ...

    def load(self, folder: Path, model: Described) -> LoadedModel:
        """The network of a kept folder, its outputs as they were described when it was added.

        Raises:
            ModelError: weights that cannot be read, are of another network, or would run code.
        """
        ...


READERS: Mapping[str, Reader] = {
    own.KIND: own,
    totalsegmentator.KIND: totalsegmentator,
    nnunet.KIND: nnunet,
    monai_bundle.KIND: monai_bundle,
    "exported": exported,
}
"""In the order in which a source is tried."""


def described(kind: str, folder: Path, digest: str) -> Described:
    """What a kept folder of a kind says, as `Reader.described`; whatever its files hold, it is that or a `ModelError`."""
    with _in_words(kind, folder):
        return READERS[kind].described(folder, digest)


def loaded(kind: str, folder: Path, model: Described) -> LoadedModel:
    """The network of a kept folder of a kind, as `Reader.load`; whatever its files hold, it is that or a `ModelError`."""
    with _in_words(kind, folder):
        return READERS[kind].load(folder, model)


@contextmanager
def _in_words(kind: str, folder: Path) -> Iterator[None]:
    """Third-party files hold anything at any place: what a reader stumbles over is said as the file's fault."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        said = str(error).splitlines()[0][:120] if str(error) else ""
        raise ModelError(
            f"The files are not as those of a {kind} model are: {type(error).__name__} {said}",
            where=folder.name,
            remedy="Take them from their source again",
        ) from error


def recognised(source: Path, kind: str = "") -> tuple[str, Mapping[str, Path]]:
    """The kind of a source, and its files.

    Args:
        kind: the only one to try; empty for all.

    Raises:
        ModelError: not there, or of no kind that is known.
    """
    if kind and kind not in READERS:
        raise ModelError(f"No kind {kind!r}", remedy=f"Use one of {', '.join(READERS)}")
    if not source.exists():
        raise ModelError("No such file or folder", where=source.name)
    for name in (kind,) if kind else READERS:
        kept = READERS[name].found(source)
        if kept is not None:
            return name, kept
    raise ModelError(
        f"Not a model of {f'the kind {kind}' if kind else 'a known kind'}",
        where=source.name,
        remedy="Give a model folder of recontour, an nnU-Net results folder, a MONAI bundle, or a TorchScript or ONNX file",
    )
