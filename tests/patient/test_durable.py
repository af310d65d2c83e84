"""What replaces a file is there whole, or the file is as it was."""

import pytest

from patient.durable import replacing


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "kept.bin"
    for content in (b"first", b"second"):
        with replacing(path) as file:
            file.write(content)
            assert not path.is_file() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_file_is_as_it_was_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "kept.bin"
    path.write_bytes(b"first")

    def stopped():
        with replacing(path) as file:
            file.write(b"half of the sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
