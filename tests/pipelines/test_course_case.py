"""A course from folders to course.json and a page that stands alone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from patient.errors import InputError, MixedSeries
from pipelines.app import main
from pipelines.course.case import find_cases, is_written, write_course_of
from pipelines.records.course import CourseResult
from tests.fractions import COLOURS, fraction_result, write_case, write_cases


@pytest.fixture(scope="module")
def outbox(tmp_path_factory) -> Path:
    """Twelve fractions; the seventh not trusted, the ninth without an image, the third made anew."""
    folder = tmp_path_factory.mktemp("out")
    cases = write_cases(folder / "cases", 12)
    for gone in (cases[6], cases[8]):
        shutil.rmtree(gone)
    write_case(folder / "cases" / "20260107-00000000ff", fraction_result("20260107-00000000ff", 7, trusted=False))
    again = fraction_result(f"{cases[2].name}-2", 3)
    write_case(folder / "cases" / again.case, again)
    return folder


@pytest.fixture(scope="module")
def told(outbox) -> tuple[CourseResult, Path]:
    folder = outbox / "courses" / "c"
    return write_course_of(find_cases(outbox), folder), folder


def test_course_json_is_what_was_said_and_names_every_case_it_stands_on(outbox, told):
    result, folder = told
    assert CourseResult.model_validate_json((folder / "course.json").read_text(encoding="utf-8")) == result
    assert result.cases == tuple(sorted(p.name for p in (outbox / "cases").iterdir()))
    assert result.today == "20260112-000000000c"
    assert result.parts[-1].missing == (9,)
    assert [f.number for f in result.fractions if f.counts] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]
    assert [f.number for f in result.fractions if not f.trusted] == [7]
    (left,) = [f for f in result.fractions if not f.counts]
    assert left.remarks == ("made again as 20260103-0000000003-2, which counts",)


def test_every_number_that_decides_stands_in_course_json(told):
    result, _ = told
    track = next(t for t in result.parts[-1].tracks if (t.structure, t.quantity) == ("Parotid_L", "volume"))
    assert (track.unit, track.compare, track.color) == ("%", "relative", COLOURS["Parotid_L"])
    assert track.trend is not None
    assert track.trend.slope == pytest.approx(-1.2, abs=0.35)
    assert 7 not in track.trend.fractions
    (limit,) = track.limits
    assert (limit.rule, limit.limit, limit.consecutive) == ("parotid_shrinks", -30.0, 2)
    assert limit.forecast.earliest is not None
    assert limit.source
    dose = next(d for d in result.parts[-1].dose if d.structure == "Parotid_L")
    assert [f.fraction for f in dose.figures] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]
    assert all(f.interval is not None and f.interval[0] < f.value < f.interval[1] for f in dose.figures)


def test_the_page_says_what_to_do_before_anything_else_and_asks_nobody_for_anything(told):
    _, folder = told
    page = (folder / "report.html").read_text(encoding="utf-8")
    places = [
        page.index(s)
        for s in ("Review before the next fraction", "Review first", "Slices with the largest differences today")
    ]
    assert places == sorted(places)
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|\.\./)""", page)
    assert not re.search(r"url\(", page)


def test_a_structure_has_one_colour_on_the_whole_page(told):
    _, folder = told
    page = (folder / "report.html").read_text(encoding="utf-8")
    swatches = re.findall(r'background: rgb(\([\d, ]+\))"></span>(\w+)', page)
    assert {name for _, name in swatches} == set(COLOURS)
    assert all(colour == str(COLOURS[name]) for colour, name in swatches)
    plots = re.findall(r'--c: rgb\(([\d,]+)\)"><title>(?:Accumulated \S+ of )?(\w+)', page)
    assert all(colour == ",".join(map(str, COLOURS[name])) for colour, name in plots if name in COLOURS)


def test_every_link_leads_to_a_cases_report(told):
    _, folder = told
    links = re.findall(r'href="([^"]+)"', (folder / "report.html").read_text(encoding="utf-8"))
    assert len(links) == 12
    assert all((folder / link).is_file() for link in links)


def test_todays_pictures_are_kept_beside_the_page_and_every_plot_as_a_file(told):
    result, folder = told
    names = {p.name for p in (folder / "figures").iterdir()}
    assert "today-01.png" in names
    assert sum(n.startswith("trend-") for n in names) == min(12, len(result.parts[-1].tracks))
    for plot in (folder / "figures").glob("*.svg"):
        assert "<style>" in plot.read_text(encoding="utf-8")


def test_a_course_told_again_replaces_what_was_there(outbox, tmp_path):
    folder, cases = tmp_path / "c", find_cases(outbox)
    write_course_of(cases[:6], folder)
    assert is_written(folder, cases[:6])
    assert not is_written(folder, cases)
    write_course_of(cases, folder)
    assert is_written(folder, cases)
    assert len(list((folder / "figures").glob("today-*.png"))) == 1


def test_cases_of_two_patients_make_no_course(tmp_path):
    write_cases(tmp_path, 2)
    write_case(tmp_path / "other", fraction_result("other", 1, patient="P2"))
    with pytest.raises(InputError, match="2 patients"):
        find_cases(tmp_path)
    assert [case.name for case in find_cases(tmp_path, "other")] == ["other"]
    with pytest.raises(MixedSeries):
        write_course_of(list(tmp_path.iterdir()), tmp_path / "c")


def test_a_folder_without_fractions_and_a_broken_result_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no fraction"):
        find_cases(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text('{"kind": "fraction"}')
    with pytest.raises(InputError, match="cannot be read"):
        find_cases(tmp_path)


def _called(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["recontour", "course", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_writes_where_it_is_told_and_says_one_document(outbox, tmp_path, monkeypatch, capsys):
    assert _called(monkeypatch, str(outbox), "-o", str(tmp_path / "o"), "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "review"
    assert (tmp_path / "o" / "report.html").is_file()
    assert _called(monkeypatch, str(tmp_path / "nowhere")) == 2


def test_without_a_place_the_course_goes_among_the_courses_of_the_outbox(tmp_path, monkeypatch):
    write_cases(tmp_path / "cases", 2)
    _called(monkeypatch, str(tmp_path))
    _called(monkeypatch, str(tmp_path))
    (folder,) = (tmp_path / "courses").iterdir()
    assert folder.name.startswith("20260101-")
    assert "P1" not in folder.name


def test_a_course_that_is_cancelled_while_it_is_told_stays_as_it_was(outbox, told, tmp_path, monkeypatch):
    folder = tmp_path / "c"
    write_course_of(find_cases(outbox)[:6], folder)
    (folder / "note.txt").write_text("a person's")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def cancelled(place, *more):
        (place / "report.html").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.course.case.write_course_report", cancelled)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            write_course_of(find_cases(outbox), place)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    write_course_of(find_cases(outbox), folder)
    assert is_written(folder, find_cases(outbox))
    assert (folder / "note.txt").read_text() == "a person's"
    assert {p.name for p in (folder / "figures").iterdir()} == {p.name for p in (told[1] / "figures").iterdir()}
