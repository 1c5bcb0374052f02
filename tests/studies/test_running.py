"""The command: its cost in advance, its files, what is kept and what is rejected."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path

import pytest

from mambamed import api
from mambamed.cli import show
from mambamed.cluster.destination import Destination
from mambamed.documents.study import StudyRecord
from mambamed.errors import RecipeError
from mambamed.io.ownership import Output
from mambamed.recipe import dump_recipe, load_recipe
from mambamed.studies.running import find_study, run_study
from mambamed.training.training import train
from tests.cluster.fake_slurm import FakeSlurm
from tests.kills import ROOT, contents
from tests.training.small_run import CONVOLUTIONS, small_recipe

STUDY = """name: "<b>small</b>"
datasets:
  boxes: {{prepared: {prepared}}}
recipes:
  wide: {{recipe: {recipe}}}
  narrow: {{recipe: {recipe}, set: {{network.channels: 2}}}}
seeds: [0, 3]
{more}
"""


def written(folder: Path, prepared: Path, more: str = "") -> Path:
    (folder / "small.yaml").write_text(dump_recipe(small_recipe(CONVOLUTIONS, epochs=1)))
    file = folder / "study.yaml"
    file.write_text(STUDY.format(prepared=prepared, recipe=folder / "small.yaml", more=more))
    return file


def train_one(folder: Path, prepared: Path, output: Path, name: str, seed: int) -> None:
    """What the study's command would train."""
    settings = ["training.seed=" + str(seed), *(["network.channels=2"] if name == "narrow" else [])]
    recipe = load_recipe(folder / "small.yaml", settings)
    train(recipe, prepared=prepared, output=output / "runs" / "boxes" / name / f"seed_{seed}", device="cpu")


@pytest.fixture(scope="module")
def half(prepared, tmp_path_factory) -> Path:
    """A study of which three runs of four are trained."""
    folder = tmp_path_factory.mktemp("half")
    written(folder, prepared)
    with Output(folder / "out", "study").locked():
        (folder / "out" / "runs").mkdir()
    for name, seed in (("wide", 0), ("narrow", 0), ("wide", 3)):
        train_one(folder, prepared, folder / "out", name, seed)
    return folder


def test_the_report_of_what_is_finished(half, prepared, tmp_path, capsys) -> None:
    shutil.copytree(half / "out", tmp_path / "out")
    summary = run_study(half / "study.yaml", tmp_path / "out", report_only=True)
    assert (summary.finished, summary.runs) == (3, 4)
    (fault,) = summary.faults
    assert fault.startswith("boxes.narrow.seed_3: is not finished.")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in summary.written}
    assert {"results_boxes.csv", "results_boxes.md", "results_boxes.tex", "curves_boxes.png"} <= names
    record = StudyRecord.read(tmp_path / "out" / "study.json")
    assert [(run.recipe, run.seed, run.finished) for run in record.runs] == [
        ("wide", 0, True), ("narrow", 0, True), ("wide", 3, True), ("narrow", 3, False),
    ]  # fmt: skip
    assert record.runs[0].hours and record.runs[0].device == "cpu" and record.runs[0].steps == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;small&lt;/b&gt;" in page and "<b>small" not in page and "data:image/png" in page
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    means = [
        float(r["mean"])
        for r in rows
        if (r["recipe"], r["structure"], r["metric"]) == ("wide", "one", "dice")
    ]
    for mean, seed in zip(means, (0, 3), strict=True):
        cases = half / "out" / "runs" / "boxes" / "wide" / f"seed_{seed}" / "fold_0" / "cases.csv"
        with cases.open(newline="") as file:
            values = [float(r["dice"]) for r in csv.DictReader(file) if r["region"] == "one"]
        assert mean == pytest.approx(sum(values) / len(values))
    show.study(summary)
    assert "3 of 4 runs are finished" in capsys.readouterr().out
    again = run_study(half / "study.yaml", tmp_path / "out", report_only=True)
    assert again.finished == 3
    (tmp_path / "out" / "results_boxes.md").write_text("mine")
    with pytest.raises(RecipeError, match=r"results_boxes\.md: was changed after mambamed wrote it"):
        run_study(half / "study.yaml", tmp_path / "out", report_only=True)


def test_a_folder_of_other_settings_is_rejected_and_more_recipes_are_not(half, prepared, tmp_path) -> None:
    shutil.copytree(half / "out", tmp_path / "out")
    run_study(half / "study.yaml", tmp_path / "out", report_only=True)
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other", prepared, "set: {training.ema: 0.25}")
    other.write_text(
        other.read_text().replace(str(tmp_path / "other" / "small.yaml"), str(half / "small.yaml"))
    )
    with pytest.raises(RecipeError, match=r"wide.seed_0 belongs to another study: 'mambamed train .*' there"):
        run_study(other, tmp_path / "out", report_only=True)
    text = (half / "study.yaml").read_text().replace("seeds: [0, 3]", "seeds: [0]")
    other.write_text(text + "compare_with: wide\n")
    assert run_study(other, tmp_path / "out", report_only=True).finished == 2


def test_the_cost_is_reported_before_anything_is_written(prepared, tmp_path) -> None:
    file = written(tmp_path, prepared, "budget: {hours: 0.5}\nfolds: [0, 1]")
    summary = api.study(file, tmp_path / "out", jobs=2, dry_run=True)
    (table,) = summary.tables
    assert [row[:3] for row in table.rows] == [
        ["boxes", "wide", "4"],
        ["boxes", "narrow", "4"],
        ["all", "", "8"],
    ]
    assert table.rows[-1][5] == "4.0 h" and "with 2 at a time the whole takes about 2.0 h" in table.notes[0]
    assert not (tmp_path / "out").exists()


def test_a_budget_of_steps_is_measured(prepared, tmp_path) -> None:
    file = written(tmp_path, prepared, "budget: {steps: 40}")
    (table,) = run_study(file, tmp_path / "out", dry_run=True).tables
    assert [row[3] for row in table.rows] == ["40", "40", ""] and "measured on this device" in table.notes[1]


def test_shipped_studies_are_found_by_name(tmp_path) -> None:
    assert find_study(Path("hippocampus")).name == "hippocampus.yaml"
    with pytest.raises(RecipeError, match="no such study"):
        find_study(tmp_path / "nothing.yaml")


@pytest.mark.slow
def test_a_study_trains_predicts_the_test_part_and_goes_on_where_it_was_killed(prepared, tmp_path) -> None:
    """In processes of their own, as on a cluster; the test part is a split of the same images."""
    from mambamed.converters import convert
    from mambamed.preparation.prepare import prepare
    from mambamed.recipe import Split

    source = prepared.parent
    prepare(convert(source), tmp_path / "split", split=Split(train=0.5, val=0.25, test=0.25), workers=1)
    file = written(tmp_path, tmp_path / "split")
    file.write_text(file.read_text().replace("prepared: ", "part: test, prepared: "))
    summary = run_study(file, tmp_path / "out", device="cpu")
    assert (summary.finished, summary.runs, summary.faults) == (4, 4, ())
    record = StudyRecord.read(tmp_path / "out" / "study.json")
    assert {score.units for score in record.scores} <= {1, 2}
    shutil.rmtree(tmp_path / "out" / "runs" / "boxes" / "wide" / "seed_3")
    again = run_study(file, tmp_path / "out", device="cpu")
    assert again.finished == 4 and again.faults == ()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no bash")
def test_a_study_has_the_same_results_one_by_one_in_two_processes_and_on_a_batch_system(
    prepared, tmp_path, monkeypatch
) -> None:
    fake = FakeSlurm(tmp_path / "fake")
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "no site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("mambamed.cluster.runners.BatchRunner.poll_seconds", 0.5)
    file, found = written(tmp_path, prepared), []
    for name, place in {
        "alone": Destination(),
        "local": Destination.of("local", jobs=2),
        "slurm": Destination.of("slurm", jobs=2),
    }.items():
        summary = run_study(file, tmp_path / name, device="cpu", place=place)
        assert (summary.finished, summary.runs, summary.faults) == (4, 4, ())
        found.append({path: digest for path, digest in contents(tmp_path / name).items() if is_result(path)})
    assert found[0] == found[1] == found[2]
    # of each run: weights, two masks, two tables and a curve; of the study: scores, cases, four tables
    assert len(found[0]) > 4 * 5 + 6
    assert len(fake.lines("submitted")) == 4


def is_result(path: str) -> bool:
    """Whether a file of a study has no times, costs or paths in it."""
    names = ("checkpoint_best", "cases.csv", "scores.csv", "summary.csv", "tests_", "structures_", "curves_")
    return Path(path).name.startswith(names) or path.endswith(".nii.gz")
