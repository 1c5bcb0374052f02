import errno
import os
import subprocess
import sys

import pytest

from mambamed.errors import RunError
from mambamed.io.atomic import check_writable, open_atomic, remove_leftovers, write_bytes, write_text
from mambamed.io.lock import folder_lock


def test_what_is_written_is_there_and_nothing_else(tmp_path) -> None:
    write_text(tmp_path / "a" / "b.txt", "one\n")
    write_text(tmp_path / "a" / "b.txt", "two\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"two\n"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), open_atomic(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_line_with_the_bytes_needed(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_bytes(tmp_path / "a.bin", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"a\.bin: cannot be written: the disk is full.* 3 bytes are needed\."):
        write_bytes(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_of_255_bytes_can_be_written(tmp_path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"1")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"1"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "a.bin", b"")


def test_a_check_before_the_work_creates_nothing(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file", tmp_path / "new" / "deep" / "out.csv"):
        check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_below_a_file_is_rejected_before_the_work(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        RunError, match=r"file/out: cannot be written: Not a directory\. Choose another folder\."
    ):
        check_writable(tmp_path / "file" / "out")


@pytest.mark.parametrize("path", ["", "new/out.csv"])
def test_a_folder_without_permission_is_rejected_before_the_work(path, tmp_path) -> None:
    """As an ordinary user: root may write anywhere."""
    (tmp_path / "closed").mkdir(mode=0o555)
    code = (
        "import os, sys, tempfile\nfrom pathlib import Path\n"
        "from mambamed.errors import RunError\nfrom mambamed.io.atomic import check_writable\n"
        "os.getuid() or os.setuid(65534)\n"
        "try:\n    check_writable(Path(sys.argv[1]))\nexcept RunError as error:\n    print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    asked = tmp_path / "closed" / path
    done = subprocess.run(
        [sys.executable, "-c", code, str(asked)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{asked}: cannot be written: no permission. Choose another folder.\n"


HOLD = """
import sys, time
from pathlib import Path
from mambamed.io.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    (Path(sys.argv[1]) / ".tmp-1-0123abcd").write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_the_first_ones_process_id(tmp_path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {holder.pid} is writing there"), folder_lock(tmp_path):
            pass
        holder.kill()
    with folder_lock(tmp_path):  # a killed process holds nothing, and what it left is removed
        assert not (tmp_path / ".tmp-1-0123abcd").exists()


def test_leftovers_are_removed_and_results_are_not(tmp_path) -> None:
    write_bytes(tmp_path / "a.bin", b"1")
    (tmp_path / ".tmp-1-abcdef01").write_text("half")
    remove_leftovers(tmp_path)
    (tmp_path / ".tmp-notes").write_text("not a name that open_atomic gives")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-notes", "a.bin"]
