"""`recontour contour` and `check`: one patient now, and the conformance check of a structure set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from patient.errors import InputError
from patient.read.completeness import lacking
from patient.read.index import SeriesEntry
from patient.read.scan import scan
from pipelines.commands.terminal import (
    DONE,
    NEEDS_REVIEW,
    SOME_FAILED,
    Json,
    check_all,
    must_be_free,
    must_exist,
    people,
    progress,
    published,
    table_of,
)


def contour(
    image: Annotated[
        Path, typer.Argument(metavar="CT", help="Folder with one planning CT, or a NIfTI, NRRD or MHA file in HU.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    template: Annotated[str, typer.Option(help="Site template: a name, or a TOML file of your own.")] = "head_neck",
    existing: Annotated[Path | None, typer.Option(help="RTSTRUCT on this CT whose structures are kept as they are.")] = None,
    profile: Annotated[str, typer.Option(help="Planning system whose limits the gate applies.")] = "standard",
    phase: Annotated[
        str, typer.Option(help="Which of several images of one series (a 4D CT), by the value that the refusal names.")
    ] = "",
    series: Annotated[str, typer.Option(help="Series Instance UID of the CT that is meant, of several in the folder.")] = "",
    as_json: Json = False,
) -> int:
    """Contour one patient, now."""
    from contour.template import load_template
    from patient.conformance.profile import load_profile
    from pipelines.planning.case import CaseRequest, contour_case

    check_all(
        lambda: must_exist(image, "CT"),
        lambda: must_be_free(out),
        lambda: load_template(template),
        lambda: must_exist(existing, "--existing"),
        lambda: load_profile(profile),
    )
    with published(out) as made, progress("Contouring") as update:
        if image.is_file() and image.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")):
            from pipelines.planning.array_case import contour_array

            result = contour_array(image, made, template, update)
        else:
            entry = scan(image).one("CT", uid=series, where=image.name, choice="--series")
            result = contour_case(
                CaseRequest(
                    case=out.resolve().name,
                    files=_files(entry),
                    series_uid=entry.uid,
                    folder=str(made),
                    template=template,
                    existing=str(existing) if existing else "",
                    profile=profile,
                    phase=phase,
                ),
                update,
            )
    if as_json:
        print(result.model_dump_json())
    else:
        _show_case(result, out)
    return NEEDS_REVIEW if result.verdict == "review" else DONE


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="RTSTRUCT files.")],
    ct: Annotated[
        Path | None, typer.Option(help="Folder of the CT they were drawn on: slices and references are compared.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Planning system: standard, eclipse, raystation, monaco, pinnacle.")
    ] = "standard",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read the masks with rt-utils and compare (needs --ct).")
    ] = False,
    as_json: Json = False,
) -> int:
    """May this be imported? 0: nothing to remark, 3: warnings, 4: errors."""
    from patient.conformance.check import check_file
    from patient.conformance.profile import load_profile
    from patient.conformance.second_opinion import second_opinions
    from patient.read.headers import read_header
    from patient.read.images import open_folder
    from patient.read.rtstruct import referenced_image

    check_all(
        lambda: load_profile(profile),
        lambda: must_exist(ct, "--ct"),
        lambda: _needs_a_ct(deep, ct),
        *(lambda path=path: must_exist(path, "FILE") for path in files),
    )
    drawn_on = frozenset(uid for path in files for uid in referenced_image(read_header(path))[3])
    image = open_folder(ct, drawn_on=drawn_on) if ct is not None else None
    found: list[dict[str, Any]] = []
    for path in files:
        report = check_file(path, image=image, profile=profile)
        opinions = second_opinions(path, ct, image) if deep and ct is not None and image is not None else []
        warnings = [*report.warnings, *(o.remark for o in opinions if o.remark is not None)]
        found.append(
            {
                "file": path.name,
                "errors": [vars(r) for r in report.errors],
                "warnings": [vars(r) for r in warnings],
                **({"rt_utils_dice": {o.name: round(o.dice, 4) for o in opinions if o.dice is not None}} if deep else {}),
            }
        )
    if as_json:
        print(json.dumps(found))
    else:
        for one in found:
            words = "conformance check passed" if not one["errors"] else "conformance check failed: do not import"
            people.print(f"{one['file']}: {words}")
            for kind in ("errors", "warnings"):
                for remark in one[kind]:
                    people.print(f"  {kind[:-1]}: {remark['where']}: {remark['what']}")
            for name, value in one.get("rt_utils_dice", {}).items():
                people.print(f"  rt-utils reads {name} with Dice {value:.4f} to ours")
    if any(one["errors"] for one in found):
        return SOME_FAILED
    return NEEDS_REVIEW if any(one["warnings"] for one in found) else DONE


def _needs_a_ct(deep: bool, ct: Path | None) -> None:
    if deep and ct is None:
        raise InputError("--deep compares masks on the CT", remedy="Give --ct")


def _files(entry: SeriesEntry) -> tuple[str, ...]:
    """A series' files, with those that cannot be read and may be slices of it."""
    missed = tuple(problem.path for problem in entry.unreadable) if lacking(entry) else ()
    return tuple(str(path) for path in (*entry.paths, *missed))


def _show_case(result: Any, out: Path) -> None:
    table = table_of([("structure", "left"), ("state", "left"), ("cc", "right"), ("remarks", "left")])
    for s in result.structures:
        volume = f"{s.volume_cc:.1f}" if s.volume_cc is not None else ""
        table.add_row(s.name, s.state.replace("_", " "), volume, s.reason or "; ".join(f.detail for f in s.flags))
    people.print(table)
    people.print(f"{'Review before import' if result.reasons else 'Nothing to review'}: {out / 'report.html'}")
