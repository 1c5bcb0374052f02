"""Several seeds in one command."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from mambamed.cli import show
from mambamed.errors import RecipeError
from mambamed.io.ownership import Output
from mambamed.run.calibration import read_calibration
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run
from mambamed.run.listing import list_runs
from mambamed.training.seeds import chosen_seeds, score_seeds, train_seeds
from mambamed.training.session import FoldSummary
from mambamed.training.training import TrainSummary
from tests.training.small_run import CONVOLUTIONS, small_recipe


def trained(*folds: dict[str, float]) -> TrainSummary:
    lines = [FoldSummary(k, Path(), 1, 1, 0.0, 0.5, "dice", "Dice", s, None) for k, s in enumerate(folds)]
    return TrainSummary(Path(), tuple(lines), None, (), "")


def test_mean_and_sd_are_taken_over_the_seeds_of_the_means_over_their_folds():
    runs = [
        trained({"a": 0.5, "b": 0.9}, {"a": 0.7, "b": 0.7}),
        trained({"a": 0.8, "b": 0.6}, {"a": 0.8, "b": math.nan}),
    ]
    a, b, mean = score_seeds(runs)
    # By hand: a 0.6 and 0.8, b 0.8 and 0.6; SD with n - 1 of two values d apart is d / sqrt 2.
    assert (a.name, b.name, mean.name) == ("a", "b", "mean")
    assert a.each == pytest.approx((0.6, 0.8)) and b.each == pytest.approx((0.8, 0.6))
    assert a.mean == pytest.approx(0.7) and a.sd == pytest.approx(0.2 / math.sqrt(2))
    assert mean.each == pytest.approx((0.7, 0.7)) and mean.sd == pytest.approx(0, abs=1e-12)
    (alone, _) = score_seeds([trained({"a": 0.5})])
    assert alone.mean == 0.5 and math.isnan(alone.sd)
    assert score_seeds([trained({})]) == ()


def test_seeds_are_counted_or_named():
    assert chosen_seeds("3") == [0, 1, 2] and chosen_seeds("7,4,7") == [7, 4] and chosen_seeds("5,") == [5]
    for wrong in ("0", "", "a", "-1", "1.5"):
        with pytest.raises(RecipeError, match=r"--seeds .*e\.g\. 3, or the seeds, e\.g\. 4,7"):
            chosen_seeds(wrong)


def test_each_seed_has_a_run_of_its_own_and_the_table_says_how_they_differ(prepared, tmp_path, capsys):
    root, recipe = tmp_path / "runs", small_recipe(CONVOLUTIONS, epochs=1)
    options = {"prepared": prepared, "output": root, "device": "cpu"}
    summary = train_seeds(recipe, "0,3", **options)
    assert summary.seeds == (0, 3)
    runs = [Run.open(root / f"seed_{seed}") for seed in (0, 3)]
    assert [run.recipe.training.seed for run in runs] == [0, 3]
    cost = runs[0].recorded(0)["sessions"][-1]["cost"]
    assert cost["device"] == "cpu" and cost["processes"] == 1
    assert cost["seconds"] > 0 and cost["cpu_seconds"] > 0 and cost["peak_gib"] > 0.05
    calibration = read_calibration(runs[0], 0)
    assert calibration is not None and calibration.temperature and calibration.cases == 2
    one, other = (read_checkpoint(run.checkpoint(0, "last")).tensors for run in runs)
    weights = [name for name, tensor in one.items() if name.startswith("network") and tensor.ndim > 1]
    assert weights and not any(torch.equal(one[name], other[name]) for name in weights)
    with (root / "seeds.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for structure, row in rows.items():
        if structure != "mean":
            for seed, run in zip((0, 3), summary.runs, strict=True):
                assert float(row[f"seed_{seed}"]) == pytest.approx(run.folds[0].scores[structure])
    assert set(rows) == {"one", "two", "mean"}
    both = f"{root / 'seed_0'} {root / 'seed_3'}"
    assert summary.next_command == f"mambamed predict {both} IMAGES -o predictions/runs"
    show.train(summary)
    shown = capsys.readouterr().out
    assert "mean ± SD" in shown and "seed 3" in shown and " ± " in shown and "next: " in shown
    assert [line.run.name for line in list_runs(root).runs] == ["seed_0", "seed_3"]
    again = train_seeds(recipe, "0,3", resume=True, **options)
    assert again.scores == summary.scores
    with pytest.raises(RecipeError, match="seed_0: is a run, but --seeds writes a folder of runs"):
        train_seeds(recipe, "2", prepared=prepared, output=root / "seed_0")


def test_a_stop_file_ends_the_seeds_that_follow_too_and_resume_goes_on(prepared, tmp_path):
    recipe = small_recipe(CONVOLUTIONS, epochs=1)
    with Output(tmp_path, "folder of runs, one per seed").locked():
        (tmp_path / "seed_0").mkdir()
    (tmp_path / "seed_0" / "STOP").touch()
    options = {"prepared": prepared, "output": tmp_path, "device": "cpu"}
    stopped = train_seeds(recipe, "2", **options)
    assert stopped.seeds == (0,) and stopped.runs[0].folds[0].stopped and not stopped.scores
    assert "--resume" in stopped.next_command and not (tmp_path / "seed_1").exists()
    assert f"--seeds 2 -o {tmp_path} " in stopped.next_command
