import pytest

from mambamed.errors import DatasetError, RunError
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
