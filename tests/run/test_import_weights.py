"""Published weights become a run: the file is only read, the run predicts, and what does not fit is said."""

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mambamed.errors import ModelError, RecipeError
from mambamed.networks import build_network
from mambamed.recipe import Recipe, load_recipe
from mambamed.run.folder import Run
from mambamed.run.import_weights import import_weights, plan_of, read_state_dict
from mambamed.run.model import load_network

RECIPE = """
task: segmentation
dataset:
  channels: {T1: mri}
  labels: {background: 0, a: 1, b: 2}
preprocess: {spacing: [1.0, 1.0, 1.0], crop: none, normalize: zscore}
network: {name: nnunet, channels: 4, stages: 2, blocks: 1}
training: {patch_size: [16, 16, 24], batch_size: 1}
inference: {tta: none}
"""


def recipe_in(folder: Path, text: str = RECIPE) -> Recipe:
    (folder / "small.yaml").write_text(text)
    return load_recipe(folder / "small.yaml")


def original() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network("nnunet", 1, 3, channels=4, stages=2, blocks=1).eval()


def public(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """One conv unit a stage and a step, named as dynamic-network-architectures does."""
    own = network.state_dict()
    units = {
        "stages.0.0": "encoder.stages.0.0.convs.0",
        "stages.1.0": "encoder.stages.1.0.convs.0",
        "steps.0.convolve.0": "decoder.stages.0.convs.0",
    }
    names = {}
    for ours, theirs in units.items():
        for kind in ("weight", "bias"):
            names[f"{theirs}.conv.{kind}"] = own[f"{ours}.0.{kind}"]
            names[f"{theirs}.norm.{kind}"] = own[f"{ours}.1.{kind}"]
    for kind in ("weight", "bias"):
        names[f"decoder.transpconvs.0.{kind}"] = own[f"steps.0.up.{kind}"]
        names[f"decoder.seg_layers.0.{kind}"] = own[f"heads.0.{kind}"]
    return {name: tensor.clone() for name, tensor in names.items()}


def checkpoint_of_nnunet(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """With a log whose scores are numbers of NumPy, as nnU-Net's trainer keeps them."""
    log = {"mean_fg_dice": [np.float64(0.5)], "lrs": [np.float32(0.01)], "epochs": [np.int64(3)]}
    torch.save({"network_weights": weights, "logging": log, "current_epoch": 1000}, path)
    return path


@pytest.mark.parametrize("axis_order", ["zyx", "xyz"])
def test_an_imported_run_answers_as_the_original(tmp_path, axis_order) -> None:
    network, recipe = original(), recipe_in(tmp_path)
    weights = checkpoint_of_nnunet(tmp_path / "checkpoint_final.pth", public(network))
    summary = import_weights(weights, recipe, tmp_path / "run", axis_order=axis_order)
    assert summary.parameters == sum(p.numel() for p in network.parameters())
    assert summary.tensors == len(public(network))
    run = Run.open(tmp_path / "run")
    imported = load_network(run, fold=0)
    assert run.folds == [0]
    x = torch.randn(1, 1, 16, 24, 32)
    back = (0, 1, 4, 3, 2) if axis_order == "zyx" else (0, 1, 2, 3, 4)
    with torch.no_grad():
        answer = imported(x.permute(back)).permute(back)
        torch.testing.assert_close(answer, network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("axis_order", "axes"), [("zyx", ("x", "z")), ("xyz", ("x", "z"))])
def test_a_checkpoint_of_nnunet_says_which_axes_are_mirrored(tmp_path, axis_order, axes) -> None:
    content = {"network_weights": public(original()), "inference_allowed_mirroring_axes": (0, 2)}
    torch.save(content, tmp_path / "c.pth")
    recipe = recipe_in(tmp_path)
    assert recipe.training.augment.mirror == ("x", "y", "z")
    summary = import_weights(tmp_path / "c.pth", recipe, tmp_path / "run", axis_order=axis_order)
    assert Run.open(tmp_path / "run").recipe.training.augment.mirror == axes
    assert summary.notes == ("mirrored axes: x, z, as in the checkpoint.",)


def test_an_imported_run_predicts(tmp_path) -> None:
    from mambamed.api import predict

    save_file(public(original()), tmp_path / "weights.safetensors")
    import_weights(tmp_path / "weights.safetensors", recipe_in(tmp_path), tmp_path / "run")
    (tmp_path / "images").mkdir()
    volume = np.random.default_rng(0).normal(size=(20, 18, 26)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "images" / "case_0000.nii.gz")
    predict([tmp_path / "run"], tmp_path / "images", tmp_path / "masks", device="cpu")
    (mask,) = (tmp_path / "masks").glob("*.nii.gz")
    labels = np.asarray(nib.load(mask).dataobj)
    assert labels.shape == volume.shape
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_a_network_that_scans_keeps_the_axis_order_in_its_run(tmp_path) -> None:
    """The tables themselves are tested beside the networks; here only that the recipe says it."""
    text = RECIPE.replace("nnunet, channels: 4, stages: 2, blocks: 1", "nnmamba_v1, channels: 4, head: paper")
    torch.manual_seed(0)
    network = build_network("nnmamba_v1", 1, 3, channels=4, head="paper")
    renamed = {_v1_name(key): tensor.clone() for key, tensor in network.state_dict().items()}
    torch.save(renamed, tmp_path / "weights.pth")
    import_weights(tmp_path / "weights.pth", recipe_in(tmp_path, text), tmp_path / "run")
    assert Run.open(tmp_path / "run").recipe.network.options["axis_order"] == "zyx"
    import_weights(tmp_path / "weights.pth", recipe_in(tmp_path, text), tmp_path / "other", axis_order="xyz")
    assert "axis_order" not in Run.open(tmp_path / "other").recipe.network.options


def _v1_name(ours: str) -> str:
    words = ours.split(".")
    if words[0] == "stem":
        return ".".join(["in_conv", "conv", *words[1:]])
    if words[0] == "readers":
        return ".".join([f"mamba_layer_{words[1]}", *words[2:]])
    if words[0] == "decoder":
        number = 8 if words[1] == "head" else 5 + int(words[2])
        return ".".join([f"conv{number}", "conv", *words[words.index("convs") + 1 :]])
    part = words[3].replace("norm", "bn").replace("shortcut", "downsample")
    return ".".join([f"layer{int(words[1]) + 1}", words[2], part, *words[4:]])


def test_a_trained_fold_is_not_replaced(tmp_path) -> None:
    weights, run = public(original()), tmp_path / "run"
    torch.save(weights, tmp_path / "weights.pth")
    for _ in range(2):  # the same weights again are no replacement
        import_weights(tmp_path / "weights.pth", recipe_in(tmp_path), run)
    before = (run / "fold_0" / "checkpoint_best.safetensors").read_bytes()
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "weights.pth")
    with pytest.raises(RecipeError, match="fold_0: already contains a trained model"):
        import_weights(tmp_path / "weights.pth", recipe_in(tmp_path), run)
    assert (run / "fold_0" / "checkpoint_best.safetensors").read_bytes() == before
    import_weights(tmp_path / "weights.pth", recipe_in(tmp_path), run, fold=1)


def test_a_recipe_with_covariates_is_refused(tmp_path) -> None:
    text = (
        RECIPE.replace("segmentation", "classification")
        .replace("labels: {background: 0, a: 1, b: 2}", "classes: [a, b]\n  covariates: {age: number}")
        .replace("nnunet, channels: 4, stages: 2, blocks: 1", "nnmamba_classifier, channels: 4")
        .replace("inference: {tta: none}\n", "")
    )
    torch.save(public(original()), tmp_path / "weights.pth")
    with pytest.raises(RecipeError, match=r"dataset\.covariates: published weights have none"):
        import_weights(tmp_path / "weights.pth", recipe_in(tmp_path, text), tmp_path / "run")


def test_every_key_that_does_not_fit_is_in_the_message(tmp_path) -> None:
    weights = public(original())
    del weights["decoder.seg_layers.0.bias"]
    weights["encoder.extra.weight"] = torch.zeros(3)
    weights["decoder.transpconvs.0.weight"] = torch.zeros(8, 4, 1, 1, 1)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ModelError) as caught:
        import_weights(tmp_path / "weights.pth", recipe_in(tmp_path), tmp_path / "run")
    message = str(caught.value)
    assert "3 keys do not fit nnunet" in message
    for fact in (
        "unknown encoder.extra.weight (3,)",
        "missing heads.0.bias (3,)",
        "(8, 4, 1, 1, 1) instead of",
    ):
        assert fact in message
    assert not (tmp_path / "run").exists()


class Harmful:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Harmful(tmp_path / "ran")}, tmp_path / "w.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    for name in ("w.pth", "bare.pth"):
        with pytest.raises(ModelError, match="could run code"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_holds_no_weights_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_state_dict(tmp_path / "absent.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ModelError, match="holds a tensor, not named tensors"):
        read_state_dict(tmp_path / "tensor.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    with pytest.raises(ModelError, match="contains no tensor"):
        read_state_dict(tmp_path / "numbers.pth")
    whole = checkpoint_of_nnunet(tmp_path / "whole.pth", public(original())).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, kind in (("half.pth", "file of weights"), ("half.safetensors", "safetensors file")):
        with pytest.raises(ModelError, match=f"not a complete {kind}"):
            read_state_dict(tmp_path / name)


def test_a_recipe_without_a_plan_asks_for_a_prepared_dataset(tmp_path) -> None:
    text = (
        RECIPE.replace("spacing: [1.0, 1.0, 1.0], ", "")
        .replace("T1: mri", "CT: ct")
        .replace("zscore", "auto")
    )
    with pytest.raises(RecipeError, match=r"preprocess.spacing in mm, the window of CT\. .* -d"):
        plan_of(recipe_in(tmp_path, text))


def test_a_network_without_published_names_is_refused(tmp_path) -> None:
    text = RECIPE.replace("nnunet, channels: 4, stages: 2, blocks: 1", "resnet")
    with pytest.raises(RecipeError, match=r"published weights can be read for .*, not for resnet"):
        import_weights(tmp_path / "w.pth", recipe_in(tmp_path, text), tmp_path / "run")
