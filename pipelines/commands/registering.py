"""`recontour register`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patient.errors import InputError
from pipelines.commands.terminal import (
    DONE,
    NEEDS_REVIEW,
    Json,
    check_all,
    must_be_free,
    must_exist,
    people,
    progress,
    published,
)


def register(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="DICOM folder, or MHA, NIfTI or NRRD file.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="The same; it is registered to the fixed image.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    rigid: Annotated[bool, typer.Option("--rigid", help="Rigid by intensity only.")] = False,
    features: Annotated[bool, typer.Option("--features", help="Rigid by matched points only.")] = False,
    deformable: Annotated[bool, typer.Option("--deformable", help="Rigid, then deformable (as without a choice).")] = False,
    fixed_mask: Annotated[Path | None, typer.Option(help="Where the fixed image is looked at (image file).")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="The same of the moving image.")] = None,
    points: Annotated[Path | None, typer.Option(help="Points of the fixed image; points.txt says where they went.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    as_json: Json = False,
) -> int:
    """Where the points of one image lie in another, and how sure that is."""
    from pipelines.fraction.registration_case import Kind, open_either, read_mask, read_points, register_case

    check_all(
        lambda: _one_kind(rigid, features, deformable),
        lambda: must_exist(fixed, "FIXED"),
        lambda: must_exist(moving, "MOVING"),
        lambda: must_be_free(out),
        lambda: must_exist(fixed_mask, "--fixed-mask"),
        lambda: must_exist(moving_mask, "--moving-mask"),
        lambda: must_exist(points, "--points"),
    )
    kind = Kind.RIGID if rigid else Kind.FEATURES if features else Kind.DEFORMABLE
    wanted = read_points(points) if points else None
    with progress("Registering") as update:
        here, there = open_either(fixed), open_either(moving)
        masks = [
            read_mask(path, image, name) if path else None
            for path, image, name in ((fixed_mask, here, "fixed"), (moving_mask, there, "moving"))
        ]
        with published(out) as made:
            result = register_case(
                here,
                there,
                made,
                kind,
                fixed_mask=masks[0],
                moving_mask=masks[1],
                points=wanted,
                seed=seed,
                progress=update,
            )
    if as_json:
        print(result.model_dump_json())
    for reason in result.reasons:
        people.print(f"not trusted: {reason}")
    people.print(f"{'Registration QA passed' if result.trusted else 'Review before use'}: {out / 'report.html'}")
    return DONE if result.trusted else NEEDS_REVIEW


def _one_kind(*asked: bool) -> None:
    if sum(asked) > 1:
        raise InputError("Only one of --rigid, --features and --deformable can be asked for")
