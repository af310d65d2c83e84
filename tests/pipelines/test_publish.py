import errno
import os
import tempfile
from pathlib import Path

import pytest

from patient.errors import InputError, NightBusy, OutOfResources
from pipelines.outbox.outbox import MARK, Outbox, opened
from pipelines.outbox.publish import Unconfirmed, free_name, locked, publish, sweep, write_whole


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "made"
    (folder / "figures").mkdir(parents=True)
    (folder / "rtstruct.dcm").write_bytes(b"x" * 1000)
    (folder / "figures" / "1.png").write_bytes(b"y")
    return folder


def test_a_folder_appears_whole(made, tmp_path):
    publish(made, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").rglob("*")} == {"rtstruct.dcm", "figures", "1.png"}
    assert not made.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="NO SECOND FILESYSTEM HERE")
def test_on_another_filesystem_it_is_copied_beside_and_then_appears(made):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert Path(other).stat().st_dev != made.stat().st_dev
        publish(made, Path(other) / "out")
        assert (Path(other) / "out" / "figures" / "1.png").read_bytes() == b"y"
        assert [p.name for p in Path(other).iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing_half_written(made, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OutOfResources, match="disk is full"):
        publish(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_outbox_is_held_by_one_night(tmp_path):
    with locked(tmp_path / "out"), pytest.raises(NightBusy), locked(tmp_path / "out"):
        pass
    with locked(tmp_path / "out"):
        pass


def test_an_outbox_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "file" / "out"):
        pass


def test_an_earlier_output_stays_and_half_made_work_goes(tmp_path):
    with locked(tmp_path):
        (tmp_path / "cases" / "c").mkdir()
        assert free_name(tmp_path, "c") == "c-2"
        (tmp_path / ".work" / "x").mkdir()
        sweep(tmp_path)
        assert not any((tmp_path / ".work").iterdir())


def test_a_folder_that_is_in_its_place_and_not_confirmed_by_the_disk_is_told_as_that(made, tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full_at_last(handle):
        calls.append(handle)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full_at_last)
    with pytest.raises(Unconfirmed, match="did not confirm"):
        publish(made, tmp_path / "out")
    assert (tmp_path / "out" / "rtstruct.dcm").is_file()


def test_a_page_that_was_being_written_when_the_run_was_cancelled_leaves_nothing_beside(tmp_path, monkeypatch):
    def cancelled(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", cancelled)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "night.json", "[]")
    assert list(tmp_path.iterdir()) == []


def test_a_mark_that_a_full_disk_left_empty_gets_a_secret(tmp_path):
    assert opened(tmp_path).secret
    (tmp_path / MARK).write_text("")
    assert not Outbox(tmp_path, "").is_there()
    assert opened(tmp_path).secret
