"""`recontour evaluate`, `commission` and `train`: how good contours are, and models of a clinic's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.terminal import (
    DONE,
    NEEDS_REVIEW,
    Json,
    check_all,
    must_be_folder,
    must_be_free,
    must_exist,
    people,
    progress,
    published,
    table_of,
)

Limits = Annotated[str, typer.Option(help="Limits to judge by: a name, or a TOML file of your own.")]
Tolerance = Annotated[float | None, typer.Option(help="Of surface Dice, mm, instead of the limits' own.", min=0.0)]
Names = Annotated[Path | None, typer.Option(help="TOML file of your own names for structures.")]
BetweenEnds = Annotated[
    list[str] | None, typer.Option(help="Structure scored between its reference's ends only; may be repeated.")
]


def evaluate(
    predicted: Annotated[
        Path,
        typer.Argument(metavar="PREDICTED", help="RTSTRUCT file, or folder of many cases: RTSTRUCT files or label files."),
    ],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The same, as a person drew it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    ct: Annotated[
        Path | None, typer.Option(help="Folder of the images, where they are not with the structure sets.")
    ] = None,
    limits: Limits = "",
    tolerance: Tolerance = None,
    names: Names = None,
    between_ends: BetweenEnds = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same intervals.")] = 0,
    as_json: Json = False,
) -> int:
    """How far predicted contours agree with references: measures, intervals, limits, worst cases."""
    from contour.acceptance import load_limits
    from patient.naming import read_naming
    from pipelines.evaluation.evaluation import evaluate, pair_up

    check_all(
        lambda: must_exist(predicted, "PREDICTED"),
        lambda: must_exist(reference, "REFERENCE"),
        lambda: must_exist(ct, "--ct"),
        lambda: must_be_free(out),
        lambda: load_limits(limits) if limits else None,
        lambda: read_naming(names) if names else None,
    )
    rules = _rules(limits, tolerance, names, between_ends, seed)
    with progress("Evaluating") as update:
        pairs, left_out = pair_up(predicted, reference, ct)
        result, shown = evaluate(pairs, rules, total=len(pairs), left_out=left_out, progress=update)
    return _write_evaluation(out, result, shown, as_json)


def commission(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, or name of an installed engine.")],
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="Folder tree of CTs with an RTSTRUCT each.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make; must not exist or be empty.")],
    limits: Limits = "",
    tolerance: Tolerance = None,
    names: Names = None,
    between_ends: BetweenEnds = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    as_json: Json = False,
) -> int:
    """Contour cases that a clinic has drawn, and measure how far both agree."""
    from contour.acceptance import load_limits
    from patient.naming import read_naming
    from pipelines.evaluation.commission import commission, find_engine

    check_all(
        lambda: find_engine(model),
        lambda: must_exist(cases, "CASES"),
        lambda: must_be_free(out),
        lambda: load_limits(limits) if limits else None,
        lambda: read_naming(names) if names else None,
    )
    rules = _rules(limits, tolerance, names, between_ends, seed)
    engine = find_engine(model)
    with progress("Commissioning") as update:
        result, shown = commission(engine, cases, rules, device=device, progress=update)
    return _write_evaluation(out, result, shown, as_json)


def train(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="Folder tree of CTs with an RTSTRUCT each.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Model folder to make; must not exist or be empty.")],
    structures: Annotated[
        list[str] | None, typer.Option(help="TG-263 name; may be repeated. Else all that three patients and more have.")
    ] = None,
    names: Names = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder that a killed run goes on from; else MODEL.training. It holds patients' images."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep that folder when the model is there.")] = False,
    steps: Annotated[int, typer.Option(help="Patches to learn from.", min=1)] = 8000,
    name: Annotated[str, typer.Option(help="Of the model; else the folder's.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights (SPDX).")] = "LicenseRef-clinic",
    device: Annotated[str, typer.Option(help="cpu or cuda:0.")] = "cpu",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Twice as fast where the processor has it; not to be repeated.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    as_json: Json = False,
) -> int:
    """A model of your own from your own archive, measured on patients that were held back."""
    from patient.naming import Naming, read_naming
    from pipelines.training.train import TrainingRequest
    from pipelines.training.train import train as run

    check_all(
        lambda: must_be_folder(archive, "ARCHIVE"),
        lambda: must_be_free(out),
        lambda: read_naming(names) if names else None,
    )
    held = work or out.resolve().with_name(f"{out.resolve().name}.training")
    with published(out) as made, progress("Training") as update:
        request = TrainingRequest(
            archive=archive,
            work=held,
            folder=made,
            name=name or out.resolve().name,
            licence=licence,
            structures=tuple(structures or ()),
            naming=read_naming(names) if names else Naming(),
            steps=steps,
            seed=seed,
            device=device,
            bf16=bf16,
        )
        record, result = run(request, update)
    if not keep:
        shutil.rmtree(held, ignore_errors=True)
    if as_json:
        print(record.model_dump_json())
    elif result is not None:
        _show_evaluation(result)
    said = [*record.left_out, *record.not_learnt, *record.remarks]
    said += [f"{len(record.unknown)} names mean nothing known: {', '.join(u.name for u in record.unknown[:8])}"] * bool(
        record.unknown
    )
    said += [f"without a contour: {line}" for line in record.empty]
    said += ["nothing was measured: no patient could be held back, or none has the structures"] * (result is None)
    for line in said[:20]:
        people.print(f"  {line}")
    people.print(f"The model: {out}")
    return NEEDS_REVIEW if record.left_out or record.remarks or result is None or result.reasons else DONE


def _rules(limits: str, tolerance: float | None, names: Path | None, between_ends: list[str] | None, seed: int) -> Any:
    from contour.acceptance import load_limits
    from patient.naming import Naming, read_naming
    from pipelines.evaluation.evaluation import Rules

    asked, naming = load_limits(limits) if limits else None, read_naming(names) if names else Naming()
    return Rules(asked, tolerance, naming, seed, frozenset(between_ends or ()))


def _write_evaluation(out: Path, result: Any, shown: Any, as_json: bool) -> int:
    """The report's folder, whole or not at all, and what to say."""
    from pipelines.report.evaluation import write_evaluation_report

    with published(out) as made:
        (made / "evaluation.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
        write_evaluation_report(made, result, shown)
    if as_json:
        print(result.model_dump_json())
    else:
        _show_evaluation(result)
    for reason in result.reasons[:12]:
        people.print(f"  {reason}")
    people.print(f"{result.verdict.capitalize()}: {out / 'report.html'}")
    return NEEDS_REVIEW if result.reasons else DONE


def _show_evaluation(result: Any) -> None:
    figures = [(heading, "right") for heading in ("cases", "missed", "Dice", "surface Dice", "HD95 mm")]
    table = table_of([("structure", "left"), *figures])
    for s in result.structures:
        figures = [f"{m.mean:.{d}f}" if m else "" for m, d in ((s.dice, 3), (s.surface_dice, 3), (s.hd95, 1))]
        table.add_row(s.structure, str(s.compared), str(s.missed or ""), *figures)
    people.print(table)
