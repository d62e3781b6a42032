"""Files that are read within bounds and written whole."""

import os
from pathlib import Path

import pytest

from edge_agent.core.files import TooLongError, atomic_writer, read_bounded, read_if_exists, write_atomically


def test_a_file_of_just_the_allowed_length_is_read_and_a_longer_one_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1234")
    assert read_bounded(tmp_path / "f", 4) == b"1234"
    with pytest.raises(TooLongError, match="should be at most 3 bytes"):
        read_bounded(tmp_path / "f", 3)


def test_a_fifo_is_no_file_to_read_and_gives_way_to_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    assert read_if_exists(tmp_path / "f") is None
    write_atomically(tmp_path / "f", b"new", mode=0o600)
    assert read_if_exists(tmp_path / "f") == b"new"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_a_body_that_fails_leaves_the_old_content_and_no_draft(tmp_path: Path) -> None:
    write_atomically(tmp_path / "folder" / "f", b"old")
    with pytest.raises(ZeroDivisionError), atomic_writer(tmp_path / "folder" / "f") as draft:
        draft.writelines(b"%d" % (1 // number) for number in (1, 0))
    assert [path.read_bytes() for path in (tmp_path / "folder").iterdir()] == [b"old"]


def test_a_draft_that_somebody_put_there_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / f"f.{os.getpid()}.new").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "f", b"new")
    assert (tmp_path / "victim").read_bytes() == b"kept"
    assert not (tmp_path / "f").is_symlink()
