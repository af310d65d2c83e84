"""Arrays in files: read, or refused by name, whatever the bytes are."""

import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from numpy.lib.format import write_array_header_1_0

from patient.errors import InputError
from patient.read.npz import read_arrays


def test_arrays_come_back_by_name(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", one=np.arange(5), two=np.array("text"))
    arrays = read_arrays(tmp_path / "a.npz")
    assert sorted(arrays) == ["one", "two"]
    assert (arrays["one"] == np.arange(5)).all()
    assert str(arrays["two"]) == "text"


def test_arrays_that_expand_beyond_measure_are_never_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("one.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(1 << 20))
    with pytest.raises(InputError, match="Expands to more"):
        read_arrays(tmp_path / "a.npz")


def test_an_array_that_says_it_is_larger_than_its_file_is_refused(tmp_path):
    head = io.BytesIO()
    write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("one.npy", head.getvalue() + bytes(72))
    with pytest.raises(InputError):
        read_arrays(tmp_path / "a.npz")


def test_what_is_no_file_of_arrays_is_refused_wherever_it_is_damaged(tmp_path):
    np.savez_compressed(path := tmp_path / "a.npz", one=np.arange(500), two=np.array("text"))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    with pytest.raises(InputError):
        read_arrays(tmp_path / "none.npz")
    for _ in range(200):
        damaged = bytearray(whole[: rng.integers(len(whole) + 1)] if rng.random() < 0.3 else whole)
        for at in rng.integers(0, max(len(damaged), 1), 3) if damaged else ():
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(InputError):
            read_arrays(path)
