import multiprocessing

import numpy as np
import pytest

from mambamed.converters.point_sets import holds_points, read_point_set
from mambamed.errors import DatasetError, RunError
from mambamed.evaluation.classification import probability_files
from mambamed.io.points import write_points
from mambamed.io.probabilities import Probabilities, write_probabilities
from mambamed.viewer.notes import Notes


def test_a_note_is_kept_changed_and_removed(tmp_path) -> None:
    path = tmp_path / "x.notes.csv"
    with Notes.opened(path) as notes:
        assert not path.exists()
        notes.put("b", "wrong", "misses the\n left lobe")
        notes.put("a", "", "=1+1")
        notes.put("c", "right", "")
        notes.put("c", "", "")
    assert path.read_text() == "case,mark,note\na,,'=1+1\nb,wrong,misses the left lobe\n"
    assert Notes(path).entries()["a"] == {"mark": "", "note": "=1+1"}


def test_what_a_person_changed_in_the_file_is_kept(tmp_path) -> None:
    path = tmp_path / "x.notes.csv"
    with Notes.opened(path) as notes:
        notes.put("a", "right", "")
        path.write_text(path.read_text() + "z,doubtful,by hand\n")
        notes.put("a", "wrong", "")
    assert path.read_text() == "case,mark,note\na,wrong,\nz,doubtful,by hand\n"


def test_another_table_is_not_replaced(tmp_path) -> None:
    path = tmp_path / "x.notes.csv"
    path.write_text("case,score\na,1\n")
    with pytest.raises(DatasetError, match="expected the columns case, mark, note, got case, score"):
        Notes(path)
    path.write_text("case,mark,note\na,good,\n")
    with pytest.raises(DatasetError, match=r"x.notes.csv:2: .*right, wrong, doubtful"):
        Notes(path)


def test_marks_and_lengths_are_limited(tmp_path) -> None:
    notes = Notes(tmp_path / "x.notes.csv")
    for mark, note in (("maybe", ""), ("right", "x" * 2001)):
        with pytest.raises(RunError, match="notes: "):
            notes.put("a", mark, note)
    assert not notes.path.exists()


ODD = ["a", "a ", " a", "caf\udce9", "'=1", "=1", "tab\t", "\\u0020", "line\nbreak", "図"]


def test_every_case_has_its_own_note(tmp_path) -> None:
    """Names of files on Linux: any bytes; a table strips its cells and is UTF-8."""
    path = tmp_path / "x.notes.csv"
    for _ in range(2):
        for number, case in enumerate(ODD):
            Notes(path).put(case, "wrong", f"no. {number}")
    assert {case: entry["note"] for case, entry in Notes(path).entries().items()} == {
        case: f"no. {number}" for number, case in enumerate(ODD)
    }


def _write(path, letter) -> None:
    for number in range(20):
        Notes(path).put(f"{letter}{number}", "right", "")


def test_two_viewers_lose_nothing_of_each_other(tmp_path) -> None:
    path = tmp_path / "x.notes.csv"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(Notes(path).entries()) == 40
    assert [each.name for each in tmp_path.iterdir()] == ["x.notes.csv"]


def test_notes_are_no_tables_of_predictions(tmp_path) -> None:
    classes, points = tmp_path / "classes", tmp_path / "points"
    classes.mkdir()
    table = Probabilities(("left", "right"), ("p",), np.array([[0.2, 0.8]]), None, False)
    write_probabilities(classes / "preds.csv", table)
    points.mkdir()
    write_points(points / "p.csv", {"apex": (1.0, 2.0, 3.0)})
    for file in (classes / "preds.csv", points / "p.csv"):
        Notes(file.with_name(f"{file.name}.notes.csv")).put("p", "right", "")
        Notes(file.with_name(f"a{file.name}.notes.csv")).put("p", "right", "")
    assert probability_files(classes) == [classes / "preds.csv"]
    assert holds_points(points) and list(read_point_set(points).points) == ["p"]
