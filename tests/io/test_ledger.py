"""The list of files that mambamed wrote into a folder."""

from __future__ import annotations

import json
import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from mambamed.errors import RecipeError, RunError
from mambamed.io.atomic import append_text, write_text
from mambamed.io.ledger import LEDGER_NAME, Ledger, remove, single


def begun(folder: Path, *names: str) -> Ledger:
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder)
    ledger.begin("test", "", names)
    return ledger


def test_every_file_is_on_the_list_before_it_is_written(tmp_path) -> None:
    ledger = begun(tmp_path / "out")
    write_text(ledger.root / "a.txt", "a")
    append_text(ledger.root / "a.log", "line\n")
    write_text(ledger.root / "sub" / "b.txt", "b")
    assert ledger.refresh().names == {"a.txt", "a.log", "sub/b.txt"}
    lines = (ledger.root / LEDGER_NAME).read_text().splitlines()
    assert json.loads(lines[0]) == {"format": 1, "kind": "test"} and len(lines) == 4
    write_text(ledger.root / "a.txt", "again")  # its own file; it is not listed twice
    assert (ledger.root / LEDGER_NAME).read_text().splitlines() == lines


@pytest.mark.parametrize("write", [write_text, append_text])
def test_a_file_of_somebody_else_is_not_written(write, tmp_path) -> None:
    ledger = begun(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"notes\.txt: mambamed did not write this file"):
        write(tmp_path / "notes.txt", "x")
    assert (tmp_path / "notes.txt").read_text() == "mine" and not ledger.refresh().names


def test_a_relative_folder_has_the_same_names(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = begun(Path("out"))
    write_text(Path("out/a.txt"), "a")
    write_text(Path("out/sub/b.txt"), "b")
    write_text(tmp_path / "out" / "c.txt", "c")
    assert ledger.refresh().names == {"a.txt", "sub/b.txt", "c.txt"}
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(RecipeError, match="did not write"):
        write_text(Path("out/mine"), "x")


def test_a_link_is_not_followed(tmp_path) -> None:
    begun(tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "log").write_text("mine")
    (tmp_path / "out" / "fold_0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "log").symlink_to(tmp_path / "elsewhere" / "log")
    with pytest.raises(RecipeError, match="fold_0: is a link"):
        write_text(tmp_path / "out" / "fold_0" / "new", "x")
    for write in (write_text, append_text):
        with pytest.raises(RecipeError, match="log: is a link"):
            write(tmp_path / "out" / "log", "x")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["log"]
    assert (tmp_path / "elsewhere" / "log").read_text() == "mine"


def test_a_listed_link_is_not_appended_to(tmp_path) -> None:
    (tmp_path / "mine").write_text("mine")
    begun(tmp_path / "out", "log")
    (tmp_path / "out" / "log").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="log: cannot be written"):
        append_text(tmp_path / "out" / "log", "x")
    assert (tmp_path / "mine").read_text() == "mine"


def test_only_listed_files_are_removed(tmp_path) -> None:
    ledger = begun(tmp_path)
    write_text(tmp_path / "own", "x")
    (tmp_path / "foreign").write_text("x")
    for name in ("own", "foreign", "absent"):
        remove(tmp_path / name)
    assert not (tmp_path / "own").exists() and (tmp_path / "foreign").exists()
    (tmp_path / "own").write_text("now mine")  # a name that was removed is no longer ours
    with pytest.raises(RecipeError, match="did not write"):
        write_text(tmp_path / "own", "x")
    ledger.compact()
    assert ledger.refresh().names == set()


@pytest.mark.parametrize(
    "entry",
    [
        *(
            '"../x"',
            '"/x"',
            '"a/../../x"',
            "3",
            "null",
            "[]",
            "{}",
            '{"removed": "../x"}',
            "nonsense",
        ),
        *('{"removed": "a", "more": 1}', '{"removed": "a", "removed": "b"}', '{"source": 1}', "[" * 5000),
        r'"\ud800"',  # no name of a file
    ],
)
def test_a_damaged_list_is_one_line(entry, tmp_path) -> None:
    (tmp_path / LEDGER_NAME).write_text(f'{{"format": 1, "kind": "test"}}\n{entry}\n')
    with pytest.raises(RunError, match="is damaged"):
        write_text(tmp_path / "a", "x")


@pytest.mark.parametrize(
    "head", ['{"format": true, "kind": "a"}', '{"format": 1, "kind": 3}', '{"format": 0}']
)
def test_a_damaged_first_line_is_one_line(head, tmp_path) -> None:
    (tmp_path / LEDGER_NAME).write_text(head + "\n")
    with pytest.raises(RunError, match="is damaged"):
        write_text(tmp_path / "a", "x")


def test_a_source_may_have_a_name_that_is_not_utf_8(tmp_path) -> None:
    Ledger(tmp_path).begin("test", "/old/\udce4", ["a\udce4"])
    found = Ledger(tmp_path).refresh()
    assert found.source == "/old/\udce4" and found.names == {"a\udce4"}


def test_any_name_of_a_file_can_be_listed(tmp_path) -> None:
    ledger = begun(tmp_path)
    names = {"2024-01-05T10:30.nii.gz", "a b\nc", "ä", "back\\slash", ".hidden"}
    for name in names:
        write_text(tmp_path / name, "x")
    ledger.compact()
    assert ledger.refresh().names == names == Ledger(tmp_path).refresh().names


def test_a_list_that_cannot_grow_is_not_torn(tmp_path) -> None:
    ledger = begun(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / LEDGER_NAME).stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
        with pytest.raises(RunError, match="cannot be written"):
            write_text(tmp_path / "long name", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    write_text(tmp_path / "long name", "x")
    assert ledger.refresh().names == {"long name"}


def test_a_list_of_a_newer_version_is_rejected(tmp_path) -> None:
    (tmp_path / LEDGER_NAME).write_text('{"format": 2, "kind": "test"}\n')
    with pytest.raises(RunError, match="Update mambamed"):
        write_text(tmp_path / "a", "x")


@pytest.mark.parametrize("torn", ['{"form', '{"format": 1, "kind": "test"}\n"a"\n"b'])
def test_half_a_line_after_a_power_failure_is_cut_off(torn, tmp_path) -> None:
    (tmp_path / LEDGER_NAME).write_text(torn)
    ledger = begun(tmp_path)
    write_text(tmp_path / "new", "x")
    assert ledger.refresh().kind == "test" and ledger.names == {"new", *(["a"] if '"a"' in torn else [])}


def _write_many(folder: Path, number: int) -> None:
    for index in range(40):
        write_text(folder / f"{number}_{index}", "x")


def test_processes_write_one_list(tmp_path) -> None:
    ledger = begun(tmp_path)
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(_write_many, [tmp_path] * 3, range(3)))
    assert ledger.refresh().names == {f"{n}_{i}" for n in range(3) for i in range(40)}


def test_the_nearest_list_counts(tmp_path) -> None:
    outer, inner = begun(tmp_path / "outer"), begun(tmp_path / "outer" / "inner")
    write_text(inner.root / "a", "x")
    assert inner.refresh().names == {"a"} and not outer.refresh().names


def test_a_single_file_is_no_part_of_the_folder(tmp_path) -> None:
    ledger = begun(tmp_path)
    with single(tmp_path / "model", replace=False):
        write_text(tmp_path / "model", "x")
        write_text(tmp_path / "model", "x")  # the same content is no replacement
        with pytest.raises(RecipeError, match="exists with other content"):
            write_text(tmp_path / "model", "y")
    with single(tmp_path / "model", replace=True):
        write_text(tmp_path / "model", "y")
    assert (tmp_path / "model").read_text() == "y" and not ledger.refresh().names
    with pytest.raises(RecipeError, match="did not write"):
        write_text(tmp_path / "model", "z")
