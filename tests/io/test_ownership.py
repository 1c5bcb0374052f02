"""Which folders and files a command may write."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mambamed.errors import RecipeError, RunError
from mambamed.io.atomic import write_text
from mambamed.io.ledger import LEDGER_NAME, Ledger
from mambamed.io.lock import LOCK_NAME, folder_lock, reading, waiting_lock
from mambamed.io.ownership import Output, own_file
from mambamed.jobs.shard import Shard
from tests.kills import contents


def written(folder: Path, kind: str = "test", source: str = "", name: str = "a") -> Output:
    output = Output(folder, kind, source=source)
    with output.locked():
        write_text(folder / name, name)
    return output


def test_a_new_an_empty_and_the_own_folder_are_written(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty", tmp_path / "empty"):
        written(folder)
    assert (tmp_path / "empty" / "a").read_text() == "a"


@pytest.mark.parametrize("name", ["notes.txt", "cases/a.b2nd", "qc/", ".lock/x", ".hidden", ".tmp-notes"])
def test_a_folder_of_somebody_else_is_refused_and_not_touched(name, tmp_path) -> None:
    place = tmp_path / "study" / name
    place.mkdir(parents=True) if name.endswith("/") else place.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith("/"):
        place.write_text("mine")
    before = contents(tmp_path / "study")
    with pytest.raises(RecipeError, match=f"did not write \\({name.split('/')[0]}"):
        written(tmp_path / "study")
    assert contents(tmp_path / "study") == before
    assert [path.name for path in (tmp_path / "study").iterdir()] == [name.split("/")[0]]


def test_a_kind_with_a_line_break_stays_in_one_line(tmp_path) -> None:
    (tmp_path / LEDGER_NAME).write_text(r'{"format": 1, "kind": "a\nb", "source": "c\nd"}' + "\n")
    for kind in ("run", "a\nb"):
        with pytest.raises(RecipeError) as caught:
            written(tmp_path, kind, "/data/a")
        assert str(caught.value).count("\n") == kind.count("\n")  # that of the command is not checked


def test_a_folder_of_another_kind_or_source_is_refused(tmp_path) -> None:
    written(tmp_path / "out", "prepared dataset", "/data/a")
    with pytest.raises(RecipeError, match="holds a prepared dataset, not a run"):
        written(tmp_path / "out", "run")
    with pytest.raises(
        RecipeError, match=r"prepared dataset made from /data/a\. Give another -o, or --overwrite"
    ):
        written(tmp_path / "out", "prepared dataset", "/data/b")
    with Output(tmp_path / "out", "prepared dataset", source="/data/b", overwrite=True).locked() as ledger:
        ledger.made_from("/data/b")
    written(tmp_path / "out", "prepared dataset", "/data/b")


def test_the_input_is_not_an_output(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "same").symlink_to(tmp_path / "in")
    for place in (tmp_path / "in", tmp_path / "same", tmp_path / "in" / ".." / "in"):
        with pytest.raises(RecipeError, match="is the input"):
            Output(place, "test", [tmp_path / "in"]).check()
    (tmp_path / "file").write_text("x")
    file = own_file(tmp_path / "file", inputs=[tmp_path / "file"], replace=True)
    with pytest.raises(RecipeError, match="is the input"), file:
        pass


def test_a_foreign_file_among_the_own_ones_is_told_before_the_work(tmp_path) -> None:
    output = written(tmp_path / "out")
    (tmp_path / "out" / "b").write_text("mine")
    with pytest.raises(RecipeError, match="b: mambamed did not write this file"):
        output.check(["a", "b"])
    output.check(["a", "c"])


def test_a_failed_command_leaves_no_new_folder(tmp_path) -> None:
    with pytest.raises(ValueError), Output(tmp_path / "out", "test").locked():
        raise ValueError
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError), Output(tmp_path / "out", "test").locked():
        write_text(tmp_path / "out" / "a", "a")
        raise ValueError
    assert (tmp_path / "out" / "a").exists()
    written(tmp_path / "out")


def test_a_file_in_the_place_of_a_folder_and_the_reverse_are_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match="expected a folder, got a file"):
        Output(tmp_path / "file", "test").check()
    with pytest.raises(RecipeError, match="expected a file, got a folder"), own_file(tmp_path):
        pass
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="expected a folder"):
        Output(tmp_path / "dangling", "test").check()


def test_two_commands_on_one_folder_exclude_each_other(tmp_path) -> None:
    output = Output(tmp_path / "out", "test")
    with output.locked(), pytest.raises(RunError, match="is writing there"), output.locked():
        pass


def test_a_reader_excludes_writers_and_a_writer_readers(tmp_path) -> None:
    output = written(tmp_path / "out")
    with reading(tmp_path / "out"), reading(tmp_path / "out"), pytest.raises(RunError), output.locked():
        pass
    with output.locked(), pytest.raises(RunError, match="is writing there"), reading(tmp_path / "out"):
        pass


def test_reading_creates_nothing(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        with reading(place):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("link", [False, True])
def test_a_lock_file_of_somebody_else_is_left_alone(link, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    own = tmp_path / ("precious" if link else "out/.lock")
    own.write_text("precious")
    if link:
        (tmp_path / "out" / LOCK_NAME).symlink_to(own)
    with pytest.raises(RecipeError, match="not a lock file of mambamed"), folder_lock(tmp_path / "out"):
        pass
    assert own.read_text() == "precious"


def test_a_failed_replacement_does_not_change_what_the_folder_is_made_from(tmp_path) -> None:
    written(tmp_path / "out", "prepared dataset", "/data/a")
    with (
        pytest.raises(ValueError, match="faulty"),
        Output(tmp_path / "out", "prepared dataset", source="/data/b", overwrite=True).locked(),
    ):
        raise ValueError("faulty")
    written(tmp_path / "out", "prepared dataset", "/data/a")


def test_an_empty_folder_is_empty_again_after_a_failure(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "x" / "y" / "z"):
        with pytest.raises(ValueError, match="faulty"), Output(folder, "test").locked():
            raise ValueError("faulty")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_folders_inside_that_are_links_files_or_of_another_kind_are_refused(tmp_path) -> None:
    output = written(tmp_path / "out")
    (tmp_path / "out" / "file").write_text("x")
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    written(tmp_path / "out" / "inner", "folder of masks")
    for name, words in (
        ("file", "did not write"),
        ("link", "is a link"),
        ("inner", "holds a folder of masks"),
    ):
        with pytest.raises(RecipeError, match=words):
            output.check([f"{name}/a"])


def test_a_reader_waits_for_a_lock_that_is_held_briefly(tmp_path) -> None:
    written(tmp_path / "out")
    lock, released = waiting_lock(tmp_path / "out"), threading.Event()

    def release() -> None:
        released.set()
        lock.__exit__(None, None, None)

    lock.__enter__()
    threading.Timer(0.3, release).start()
    with reading(tmp_path / "out"):
        assert released.is_set()


def test_parts_that_are_written_are_not_read(tmp_path) -> None:
    with (
        Shard(1, 2).lock(tmp_path / "out"),
        pytest.raises(RunError, match="a part of it is being written"),
        reading(tmp_path / "out"),
    ):
        pass


def test_a_reader_is_not_called_a_writer(tmp_path) -> None:
    output = written(tmp_path / "out")
    with (
        reading(tmp_path / "out"),
        pytest.raises(RunError, match="another command is reading"),
        output.locked(),
    ):
        pass


def edited_output(folder: Path, text: str, **options: bool) -> None:
    with Output(folder, "test", edited=("*.csv",), **options).locked():
        write_text(folder / "cases.csv", text)
        write_text(folder / "page.html", text)


def test_a_table_that_a_person_edited_is_not_replaced(tmp_path) -> None:
    folder = tmp_path / "out"
    edited_output(folder, "first")
    edited_output(folder, "second")  # its own earlier result
    (folder / "page.html").write_text("nobody edits that")
    (folder / "cases.csv").write_text("second, with a remark")
    before = contents(folder)
    with pytest.raises(RecipeError, match=r"cases\.csv: was changed after mambamed wrote it\. Move it"):
        edited_output(folder, "third")
    assert contents(folder) == before
    edited_output(folder, "third", overwrite=True)
    (folder / "cases.csv").unlink()
    edited_output(folder, "fourth")
    assert (folder / "cases.csv").read_text() == "fourth"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RecipeError])
def test_a_table_written_before_a_failure_is_still_replaced(failure, tmp_path) -> None:
    edited_output(tmp_path / "out", "first")
    with pytest.raises(failure), Output(tmp_path / "out", "test", edited=("*.csv",)).locked():
        write_text(tmp_path / "out" / "cases.csv", "half of the work")
        raise failure("stopped")
    edited_output(tmp_path / "out", "whole")
    (tmp_path / "out" / "cases.csv").write_text("edited")
    with pytest.raises(RecipeError, match="was changed"):
        edited_output(tmp_path / "out", "again")


def test_after_a_kill_the_files_have_no_digests(tmp_path) -> None:
    """A process that ends between its writes and the end of the command leaves no old digests."""
    edited_output(tmp_path, "first")
    killed = Output(tmp_path, "test", edited=("*.csv",)).locked()
    killed.__enter__()
    write_text(tmp_path / "cases.csv", "second")
    assert Ledger(tmp_path).refresh().digests == {}
    assert Ledger(tmp_path).changed() is None
    killed.__exit__(None, None, None)
    assert set(Ledger(tmp_path).refresh().digests) == {"cases.csv"}
