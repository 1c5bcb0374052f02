"""Scores of whole validation cases: the recipe's main metric, from memory and read again from the file."""

import os
import shutil

import pytest
import torch

from mambamed.cli import show
from mambamed.evaluation.output import write_tables
from mambamed.io.json_files import read_json
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
from mambamed.training.journal import Journal
from mambamed.training.ranks import Ranks
from mambamed.training.seeds import train_seeds
from mambamed.training.training import train
from mambamed.training.validate import read_scores, validate_volumes
from tests.answers.stubs import stub_run
from tests.evaluation.four_cases import evaluation_in
from tests.training.small_run import CONVOLUTIONS, small_recipe


def test_the_recipes_first_metric_is_what_train_reports(prepared, tmp_path, capsys):
    recipe = small_recipe(CONVOLUTIONS, epochs=1)
    rules = recipe.evaluation.model_copy(update={"metrics": ("iou",)})
    recipe = recipe.model_copy(update={"evaluation": rules})
    options = {"prepared": prepared, "output": tmp_path, "device": "cpu"}
    summary = train_seeds(recipe, "1", **options)
    (fold,) = summary.runs[0].folds
    found = read_json(tmp_path / "seed_0" / "fold_0" / "summary.json")["summaries"]
    assert fold.scores == {row["region"]: row["mean"] for row in found if row["metric"] == "iou"} != {}
    assert (fold.score_name, fold.score_title) == ("iou", "IoU")
    assert [score.name for score in summary.scores] == ["one", "two", "mean"]
    show.train(summary)
    show.train(summary.runs[0])
    assert capsys.readouterr().out.count("IoU") >= 2
    again = train_seeds(recipe, "1", resume=True, **options)  # from summary.json
    assert again.runs[0].folds[0].scores == fold.scores


class OneOfTwo(Ranks):
    """A process of two, which meet at `gather`: there the other one does its share."""

    def gather(self, done):
        if self.leads:
            self.meeting()
        return list(done)


def test_processes_share_the_validation_volumes_and_the_first_reports_them(prepared, tmp_path, monkeypatch):
    recipe = small_recipe(CONVOLUTIONS, epochs=1)
    alone = train(recipe, prepared=prepared, output=tmp_path, device="cpu")
    dataset, run = PreparedDataset.open(prepared), Run.open(tmp_path)
    cases, place = dataset.case_ids, Workplace(torch.device("cpu"), "fp32", torch.contiguous_format)
    masks = tmp_path / "fold_0" / "validation"
    shutil.rmtree(masks)
    journal, met = Journal(tmp_path / "fold_0", Silence()), []

    def validate(rank):
        return validate_volumes(run, 0, dataset, cases, place, journal, OneOfTwo(rank, 2))

    def meeting():
        if met:  # where the scores are gathered
            return
        met.append(len(list(masks.iterdir())))
        assert validate(1) is None
        met.append(len(list(masks.iterdir())))

    monkeypatch.setattr(OneOfTwo, "meeting", staticmethod(meeting), raising=False)
    found = validate(0)
    assert met == [3, 6] and found is not None and set(found.scores) == set(alone.folds[0].scores)


def test_scores_are_read_again_unless_the_file_is_damaged_or_older_than_the_checkpoint(tmp_path):
    run = stub_run(tmp_path / "run")
    assert read_scores(run, 0) is None
    *_, summary = write_tables(evaluation_in(run.fold_folder(0)))
    found = read_scores(run, 0)
    assert found is not None and found.faults == ("d.nii: unreadable",)
    assert found.scores == {"organ": pytest.approx((0.8 + 0.4) / 2)}
    text = summary.read_text()
    summary.write_text(text[: len(text) // 2])
    assert read_scores(run, 0) is None
    summary.write_text(text)
    assert read_scores(run, 0) is not None
    later = summary.stat().st_mtime + 1
    os.utime(run.checkpoint(0), (later, later))
    assert read_scores(run, 0) is None
