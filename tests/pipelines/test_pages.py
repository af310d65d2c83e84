"""The pages as a real browser shows them: without network, without script, with every picture and every link."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from pipelines.configuration import Configuration
from pipelines.course.case import write_course_of
from pipelines.night.run import run_night
from tests.fractions import write_cases
from tests.making import phantom, write_ct

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER HERE: install chromium")
BACKGROUND = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--window-size=1200,1500")
ALONE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-test'"
"""Under this policy whatever is not in the page itself is neither asked for nor run, and remarked."""
LOOK = """<script nonce="test">
const refused = [];
addEventListener("securitypolicyviolation", e => refused.push(e.violatedDirective + " " + e.blockedURI));
addEventListener("load", () => {
  const all = what => [...document.querySelectorAll(what)];
  const seen = {
    refused, title: document.title, text: document.body.innerText,
    pictures: all("img").map(i => ({loaded: i.complete, width: i.naturalWidth, shown: i.clientWidth, alt: i.alt})),
    asked: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
    scripts: all("script:not([nonce])").length, rows: all("table").map(t => t.tBodies[0].rows.length),
    links: all("a").map(a => a.getAttribute("href")), ids: all("[id]").length,
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    plots: all("svg.plot").map(s => ({width: s.clientWidth, height: s.clientHeight,
      title: s.querySelector("title").textContent, ink: getComputedStyle(s.querySelector("text.tick")).fill})),
    background: getComputedStyle(document.body).backgroundColor,
  };
  document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
});
</script>"""


def _browser(folder: Path, page: Path, *how: str) -> str:
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(CHROMIUM), *FLAGS, *BACKGROUND, profile, *how, page.as_uri()]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout


def _seen(page: Path, folder: Path, *how: str) -> SimpleNamespace:
    """What the browser makes of a page, told by a script of our own in a copy of it."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{ALONE}">'
    copy = folder / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{policy}{LOOK}", 1))
    dom = _browser(folder, copy, "--dump-dom", *how)
    told = re.search(r'<html[^>]* data-seen="([^"]*)"', dom)
    assert told is not None, dom[:500]
    return SimpleNamespace(**json.loads(unescape(told[1])))


@pytest.fixture(scope="module")
def outbox(tmp_path_factory):
    """Of a night with a case to review, one refused by the gate, and one that failed."""
    folder = tmp_path_factory.mktemp("night")
    for name, shape in (("good", (12, 40, 48)), ("nothing", (4, 16, 16)), ("raise", (4, 16, 16))):
        write_ct(folder / "in" / name, phantom(shape), tag=name)
    quiet = Configuration(settle_minutes=0, workers=1)
    record = run_night(folder / "in", folder / "out", quiet, function="tests.scenarios.trivial:real_or_raise")
    assert sorted(case.state for case in record.cases) == ["failed", "refused", "review"]
    return folder / "out"


def _report(outbox: Path) -> Path:
    return next((outbox / "cases").glob("*/report.html"))


def test_a_report_stands_alone_and_shows_every_picture_and_structure(outbox, tmp_path):
    seen, result = (
        _seen(_report(outbox), tmp_path),
        json.loads(_report(outbox).with_name("result.json").read_text(encoding="utf-8")),
    )
    assert (seen.refused, seen.asked, seen.scripts, seen.sideways) == ([], [], 0, 0)
    assert len(seen.pictures) == len(list((_report(outbox).parent / "figures").iterdir())) > 0
    assert all(p["loaded"] and p["width"] > 600 and p["shown"] > 600 and p["alt"] for p in seen.pictures)
    assert seen.rows == [len(result["structures"])]
    assert seen.text.index("Review before import") < seen.text.index("Review first") < seen.text.index("Provenance")
    assert all(structure["name"] in seen.text for structure in result["structures"])


def test_the_mornings_page_stands_alone_and_every_link_leads_somewhere(outbox, tmp_path):
    seen = _seen(outbox / "index.html", tmp_path)
    assert (seen.refused, seen.asked, seen.scripts, seen.sideways) == ([], [], 0, 0)
    assert seen.rows == [3, 3]  # Cases, and the inbox's series.
    assert sorted(Path(link).name for link in seen.links) == ["log.txt", "report.html"]
    assert all((outbox / link).is_file() for link in seen.links)
    (log,) = (outbox / link for link in seen.links if link.endswith("log.txt"))
    assert "RuntimeError" in log.read_text(encoding="utf-8")
    assert seen.text.index("failed") < seen.text.index("to review")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The page of a course of twelve fractions."""
    folder = tmp_path_factory.mktemp("course")
    write_course_of(write_cases(folder / "cases", 12), folder / "courses" / "c")
    return folder / "courses" / "c" / "report.html"


def test_a_courses_page_stands_alone_and_shows_every_plot_inside_the_window(course, tmp_path):
    seen = _seen(course, tmp_path)
    assert (seen.refused, seen.asked, seen.scripts, seen.sideways) == ([], [], 0, 0)
    assert [p["loaded"] for p in seen.pictures] == [True]
    assert len(seen.plots) >= 10
    assert all(plot["width"] > 300 and plot["height"] > 150 and plot["title"] for plot in seen.plots)
    assert _seen(course, tmp_path, "--window-size=700,900").sideways == 0


def test_the_plots_of_a_course_are_drawn_in_the_readers_choice_of_light_or_dark(course, tmp_path):
    light, dark = _seen(course, tmp_path), _seen(course, tmp_path, "--force-dark-mode")
    assert dark.background != light.background
    assert dark.plots[0]["ink"] != light.plots[0]["ink"]


def test_a_page_follows_the_readers_choice_of_light_or_dark(outbox, tmp_path):
    light, dark = _seen(outbox / "index.html", tmp_path), _seen(outbox / "index.html", tmp_path, "--force-dark-mode")
    assert light.background == "rgb(255, 255, 255)"
    assert dark.background != light.background


def test_a_narrow_window_shows_all_of_a_page(outbox, tmp_path):
    for page in (outbox / "index.html", _report(outbox)):
        assert _seen(page, tmp_path, "--window-size=700,900").sideways == 0


def test_a_report_on_the_screen_is_ink_on_paper_with_dark_pictures_and_colours(outbox, tmp_path):
    _browser(tmp_path, _report(outbox), f"--screenshot={tmp_path / 'screen.png'}")
    pixels = imread(tmp_path / "screen.png")[..., :3]
    assert pixels.shape == (1500, 1200, 3)
    assert 0.1 < (pixels.max(axis=-1) < 0.1).mean() < 0.7
    assert (pixels.min(axis=-1) > 0.95).mean() > 0.2
    assert ((pixels.max(axis=-1) - pixels.min(axis=-1)) > 0.5).sum() > 300
    assert len(np.unique((pixels * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 100
