"""Where the documents of a model of nnU-Net are found, and what is said if they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mambamed.errors import ModelError
from mambamed.run.nnunet_model import open_nnunet
from tests.run.nnunet_files import DATASET, PLANS, checkpoint, model_folder, weights_of


def test_a_checkpoint_has_its_documents_within(tmp_path) -> None:
    (tmp_path / "plans.json").write_text("{}")  # of another model
    model = open_nnunet(checkpoint(tmp_path / "checkpoint_final.pth", weights_of()))
    (found,) = model.checkpoints
    assert (model.name, model.plans.dataset_name) == ("3d_fullres", "Dataset123_Small")
    assert (found.fold, found.trainer, found.mirrored) == (2, "nnUNetTrainer", (0, 1, 2))
    assert set(found.weights()) == set(weights_of())


@pytest.mark.parametrize("place", ["beside", "above"])
def test_documents_may_lie_next_to_a_checkpoint_or_above_its_fold(tmp_path, place) -> None:
    fold = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_4"
    file = checkpoint(fold / "checkpoint_final.pth", weights_of(), init_args=..., trainer_name=...)
    folder = fold if place == "beside" else fold.parent
    for name, content in (("plans.json", PLANS), ("dataset.json", DATASET)):
        with pytest.raises(ModelError, match=f"no {name} next to it. Give the recipe"):
            open_nnunet(file)
        (folder / name).write_text(json.dumps(content))
    model = open_nnunet(file)
    assert (model.name, model.checkpoints[0].fold) == ("3d_fullres", 4)
    save_file(weights_of(), fold / "weights.safetensors")
    assert open_nnunet(fold / "weights.safetensors").checkpoints[0].mirrored == ()


def test_the_documents_of_a_folder_override_those_of_its_checkpoints(tmp_path) -> None:
    """As in nnU-Net's own prediction."""
    folder = model_folder(tmp_path, ("0",))
    (folder / "plans.json").write_text(json.dumps(PLANS | {"dataset_name": "Dataset124_Other"}))
    assert open_nnunet(folder).plans.dataset_name == "Dataset124_Other"
    assert open_nnunet(folder / "fold_0" / "checkpoint_final.pth").plans.dataset_name == "Dataset123_Small"
    (folder / "plans.json").unlink()
    assert open_nnunet(folder).plans.dataset_name == "Dataset123_Small"


def test_the_best_checkpoints_of_a_folder_are_read_only_if_none_is_final(tmp_path) -> None:
    folder = model_folder(tmp_path, ("0", "10", "2"))
    assert [each.fold for each in open_nnunet(folder).checkpoints] == [0, 2, 10]
    (folder / "fold_2" / "checkpoint_final.pth").rename(folder / "fold_2" / "checkpoint_best.pth")
    assert [each.fold for each in open_nnunet(folder).checkpoints] == [0, 10]
    for fold in ("0", "10"):
        (folder / f"fold_{fold}" / "checkpoint_final.pth").unlink()
    assert [each.fold for each in open_nnunet(folder).checkpoints] == [2]


def line_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_nnunet(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_that_are_no_model_are_named(tmp_path) -> None:
    assert "has no fold_*/checkpoint_final.pth. Give a checkpoint, or a model's folder" in line_of(tmp_path)
    folder = model_folder(tmp_path)
    assert f"but contains 1. Give one of them, e.g. {folder}" in line_of(tmp_path)
    assert "no such file" in line_of(tmp_path / "absent.pth")


def test_folds_of_different_trainings_are_not_one_model(tmp_path) -> None:
    folder = model_folder(tmp_path, ("0", "1"))
    file = folder / "fold_1" / "checkpoint_final.pth"
    checkpoint(file, weights_of(), {"fold": 1}, inference_allowed_mirroring_axes=(0, 1))
    line = line_of(folder)
    assert line.startswith(f"{file}: mirrored: expected that of fold_0, (0, 1, 2), got (0, 1)")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"inference_allowed_mirroring_axes": (0, 3)}, "expected some of 0, 1 and 2, got [0, 3]"),
        ({"inference_allowed_mirroring_axes": "xyz"}, "expected some of 0, 1 and 2, got 'xyz'"),
        ({"trainer_name": 3}, "trainer_name: expected a name, got 3"),
        ({"init_args": {"plans": {"x": torch.ones(2)}}}, "init_args.plans.x: expected text, numbers"),
        ({"init_args": {"plans": {"x": torch.device("cpu")}}}, "got torch.device"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path, changes, line) -> None:
    changes = {"init_args": None} | changes
    assert line in line_of(checkpoint(tmp_path / "c.pth", weights_of(), **changes))
