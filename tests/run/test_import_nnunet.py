"""A model of nnU-Net 2 becomes a run that predicts as nnU-Net does; what cannot be done is named in one line.

The keys and documents are written by hand (`nnunet_files`), and so is the prediction: nnU-Net's networks as
plain functions of their state dict on transposed (z, y, x) arrays, its windows and their weights. nnU-Net
itself is the judge in benchmarks/nnunet_masks.py.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor
from torch.nn import functional

from mambamed import import_weights, predict
from mambamed.documents.plan import Ct, MinMax, Rgb, Unchanged, ZScore, ZScoreNonzero
from mambamed.errors import MambamedError, ModelError, RecipeError
from mambamed.run.folder import Run
from mambamed.run.import_nnunet import import_nnunet
from mambamed.run.model import load_network
from tests.documents.foreign.test_mutations import DROPPED, OTHERS, positions, replaced
from tests.run.nnunet_files import (
    CONFIGURATION,
    DATASET,
    EARLY,
    OPTIONS,
    PLAIN,
    PLANS,
    REGIONS,
    RESIDUAL,
    checkpoint,
    model_folder,
    plans,
    residual_plans,
    weights_of,
)

STRIDES, KERNELS = OPTIONS["strides"], OPTIONS["kernel_sizes"]


def unit(state: dict[str, Tensor], name: str, x: Tensor, stride: Any = 1, active: bool = True) -> Tensor:
    """Convolution, instance norm, LeakyReLU."""
    weight = state[f"{name}.conv.weight"]
    padding = [(n - 1) // 2 for n in weight.shape[2:]]
    x = functional.conv3d(x, weight, state.get(f"{name}.conv.bias"), stride, padding)
    x = functional.instance_norm(x, weight=state[f"{name}.norm.weight"], bias=state[f"{name}.norm.bias"])
    return functional.leaky_relu(x, 0.01) if active else x


def plain_stage(state: dict[str, Tensor], stage: int, x: Tensor) -> Tensor:
    x = unit(state, f"encoder.stages.{stage}.0.convs.0", x, STRIDES[stage])
    return unit(state, f"encoder.stages.{stage}.0.convs.1", x)


def residual_stage(state: dict[str, Tensor], stage: int, x: Tensor) -> Tensor:
    x = unit(state, "encoder.stem.convs.0", x) if stage == 0 else x
    for block in range(2 if stage == 2 else 1):
        name = f"encoder.stages.{stage}.blocks.{block}"
        stride = STRIDES[stage] if block == 0 else [1, 1, 1]
        y = unit(state, f"{name}.conv1", x, stride)
        y = unit(state, f"{name}.conv2", y, active=False)
        if block == 0 and stage:
            x = unit(state, f"{name}.skip.1", functional.avg_pool3d(x, stride, stride), active=False)
        x = functional.leaky_relu(x + y, 0.01)
    return x


def network(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The finest logits of either network, on nnU-Net's axes."""
    stage = residual_stage if "encoder.stem.convs.0.conv.weight" in state else plain_stage
    skips = []
    for number in range(3):
        x = stage(state, number, x)
        skips.append(x)
    x = skips.pop()
    for step, count in enumerate((2, 1)):
        stride, up = STRIDES[2 - step], f"decoder.transpconvs.{step}"
        x = functional.conv_transpose3d(x, state[f"{up}.weight"], state[f"{up}.bias"], stride)
        x = torch.cat([x, skips.pop()], 1)
        for number in range(count):
            x = unit(state, f"decoder.stages.{step}.convs.{number}", x)
    return functional.conv3d(x, state["decoder.seg_layers.1.weight"], state["decoder.seg_layers.1.bias"])


def logits_of(state: dict[str, Tensor], image: np.ndarray, mirrored: tuple[int, ...]) -> np.ndarray:
    """Windows of half a step over `(C, y, z, x)`, weighted by a smoothed peak at size // 2."""
    patch = CONFIGURATION["patch_size"]
    peak = np.zeros(patch)
    peak[tuple(n // 2 for n in patch)] = 1
    weight = scipy.ndimage.gaussian_filter(peak, [n / 8 for n in patch], mode="constant")
    starts = []
    for size, n in zip(image.shape[1:], patch, strict=True):
        count = int(np.ceil((size - n) / (n / 2))) + 1
        starts.append([round(i * (size - n) / max(count - 1, 1)) for i in range(count)])
    total, weights = 0.0, np.zeros(image.shape[1:])
    axes = [c for k in range(len(mirrored) + 1) for c in itertools.combinations(mirrored, k)]
    for corner in itertools.product(*starts):
        box = (slice(None), *(slice(a, a + n) for a, n in zip(corner, patch, strict=True)))
        x = torch.from_numpy(image[box].copy())[None]
        dims = [tuple(2 + axis for axis in chosen) for chosen in axes]
        logits = sum(torch.flip(network(state, torch.flip(x, d)), d) for d in dims)[0] / len(dims)
        if isinstance(total, float):
            total = np.zeros((len(logits), *image.shape[1:]))
        total[box] += logits.numpy() * weight
        weights[box[1:]] += weight
    return np.asarray(total) / weights


# Stored as (left, posterior, superior), and with the axes in another order.
AFFINES = {
    "LPS": np.diag([-1.0, -4.0, 2.0, 1.0]),
    "SLA": np.array([[0, -4.0, 0, 0], [0, 0, 2.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]]),
}


def images_in(folder: Path, affine: np.ndarray, shape: tuple[int, ...] = (20, 10, 11)) -> list[np.ndarray]:
    """Two channels of a case, zero on three planes of their first axis."""
    folder.mkdir()
    random = np.random.default_rng(1)
    channels = []
    for number in range(2):
        array = random.normal(30, 60, shape)
        array = scipy.ndimage.gaussian_filter(array, 1.5) * 6
        array[:3] = 0
        channels.append(array.astype(np.float32))
        nib.save(nib.Nifti1Image(channels[-1], affine), folder / f"case_{number:04}.nii.gz")
    return channels


def ct(array: np.ndarray) -> np.ndarray:
    return (np.clip(array, -100, 250) - 40) / 80


def zscore(array: np.ndarray) -> np.ndarray:
    return (array - array.mean()) / array.std()


def prepared(channels: list[np.ndarray]) -> np.ndarray:
    """Without the empty planes, normalized, as `(C, y, z, x)`."""
    cropped = [channel[3:] for channel in channels]
    both = np.stack([ct(cropped[0]), zscore(cropped[1])]).astype(np.float32)
    return np.ascontiguousarray(both.transpose(0, 3, 2, 1).transpose(0, 2, 1, 3))


def restored(labels: np.ndarray) -> np.ndarray:
    """`(y, z, x)` labels on the grid of the file."""
    return np.pad(labels.transpose(1, 0, 2).transpose(2, 1, 0), [(3, 0), (0, 0), (0, 0)])


def masks(model: Path, folder: Path, **options: Any) -> np.ndarray:
    import_weights(model, output=folder / "run")
    predict(folder / "run", folder / "images", folder / "masks", precision="fp32", device="cpu", **options)
    return np.asarray(nib.load(folder / "masks" / "case.nii.gz").dataobj)


@pytest.mark.parametrize("layout", ["plain", "residual"])
@pytest.mark.parametrize("stored", AFFINES)
@pytest.mark.parametrize("mirrored", [None, (0, 2)])
def test_a_checkpoint_predicts_as_its_network_on_nnunets_arrays(tmp_path, layout, stored, mirrored) -> None:
    channels = images_in(tmp_path / "images", AFFINES[stored])
    state = weights_of(RESIDUAL if layout == "residual" else PLAIN, seed=11)
    documents = {"plans": residual_plans() if layout == "residual" else PLANS}
    file = checkpoint(
        tmp_path / "checkpoint_final.pth", state, documents, inference_allowed_mirroring_axes=mirrored
    )
    found = masks(file, tmp_path)
    expected = restored(logits_of(state, prepared(channels), mirrored or ()).argmax(0))
    assert all((expected == label).mean() > 0.05 for label in range(3))
    assert (found == expected).mean() > 0.9995


def test_regions_are_written_in_the_order_of_the_file(tmp_path) -> None:
    """A later region overwrites an earlier one, even if it has more labels."""
    channels = images_in(tmp_path / "images", AFFINES["LPS"])
    state = weights_of(seed=3)
    documents = {"dataset_json": DATASET | REGIONS}
    file = checkpoint(tmp_path / "c.pth", state, documents, inference_allowed_mirroring_axes=())
    found = masks(file, tmp_path)
    logits = logits_of(state, prepared(channels), ())
    expected = np.zeros(logits.shape[1:], int)
    for channel, value in enumerate(REGIONS["regions_class_order"]):
        expected[logits[channel] > 0] = value
    assert {0, 2, 3} <= {*np.unique(expected)}
    assert (found == restored(expected)).mean() > 0.9995
    manifest = Run.open(tmp_path / "run").manifest
    assert list(manifest.regions.items()) == [("edema", (1,)), ("whole", (1, 2, 3)), ("core", (2, 3))]
    assert manifest.region_values == (1, 2, 3)


def test_nested_regions_need_no_order_of_their_own(tmp_path) -> None:
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}}
    documents = {"dataset_json": DATASET | regions | {"regions_class_order": [1, 2]}}
    run = imported(tmp_path, documents, outputs=2)
    assert run.manifest.regions == {"whole": (1, 2), "core": (2,)}
    assert run.manifest.region_values == ()
    assert "region_values" not in json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert run.manifest.labels == {"background": 0, "label_1": 1, "label_2": 2, "ignore": 3}


def imported(folder: Path, documents: dict[str, Any], outputs: int = 3, **changes: Any) -> Run:
    import_nnunet(
        checkpoint(folder / "c.pth", weights_of(outputs=outputs), documents, **changes), folder / "run"
    )
    return Run.open(folder / "run")


def test_the_run_says_what_the_plans_say_in_the_order_x_y_z(tmp_path) -> None:
    file = checkpoint(
        tmp_path / "checkpoint_final.pth", weights_of(), inference_allowed_mirroring_axes=[0, 2]
    )
    summary = import_weights(file, output=tmp_path / "run")
    assert (summary.network, summary.axis_order, summary.folds) == ("nnunet", "yzx", (2,))
    assert summary.parameters == sum(
        tensor.numel()
        for name, tensor in weights_of().items()
        if "all_modules" not in name and "decoder.encoder" not in name
    )
    run = Run.open(tmp_path / "run")
    plan, network = run.plan, run.recipe.network
    assert (plan.spacing_mm, plan.patch_size, plan.shape_median) == ((1, 4, 2), (16, 8, 8), (20, 9, 10))
    assert (plan.axes, plan.like_nnunet, plan.crop, plan.batch_size) == ("stored", True, "nonzero", 2)
    assert plan.normalization == (Ct(mean=40.0, std=80.0, low=-100.0, high=250.0), ZScore())
    assert run.recipe.training.augment.mirror == ("x", "y")
    assert run.recipe.inference.tta == "mirror"
    assert run.manifest.channels == {"CT": "ct", "PET": "mri"}
    assert run.manifest.labels == DATASET["labels"]
    assert run.recipe.name == "Dataset123_Small"
    assert network.options["strides"] == [[1, 1, 1], [2, 1, 2], [2, 2, 2]]
    assert network.options["kernels"] == [[3, 1, 3], [3, 3, 3], [3, 3, 3]]
    assert (network.options["widths"], network.options["decoder_blocks"]) == ([4, 8, 12], [2, 1])
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert text.startswith("# nnU-Net: trainer nnUNetTrainer, plans nnUNetPlans, configuration 3d_fullres")


@pytest.mark.parametrize("mirrored", [None, (), ...])
def test_without_allowed_axes_nothing_is_mirrored(tmp_path, mirrored) -> None:
    run = imported(tmp_path, {}, inference_allowed_mirroring_axes=mirrored)
    assert run.recipe.training.augment.mirror == ()
    assert run.recipe.inference.tta == "none"


def test_every_normalization_is_taken_over(tmp_path) -> None:
    for schemes, masked, expected in [
        (["ZScoreNormalization", "NoNormalization"], [True, False], (ZScoreNonzero(), Unchanged())),
        (["RescaleTo01Normalization", "RGBTo01Normalization"], [True, True], (MinMax(), Rgb())),
    ]:
        folder = tmp_path / schemes[0]
        run = imported(folder, {"plans": plans(normalization_schemes=schemes, use_mask_for_norm=masked)})
        assert run.plan.normalization == expected


def test_a_configuration_inherits_and_may_keep_the_spacing(tmp_path) -> None:
    changed = copy.deepcopy(PLANS)
    never = "no_resampling_data_or_seg_to_shape"
    kept = {f"resampling_fn_{part}": never for part in ("data", "seg", "probabilities")}
    kept |= {f"{key}_kwargs": {} for key in list(kept)}
    changed["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 7} | kept
    changed["image_reader_writer"] = "NibabelIOWithReorient"
    run = imported(tmp_path, {"plans": changed, "configuration": "mine"})
    assert (run.plan.batch_size, run.plan.keep_spacing, run.plan.axes) == (7, True, "ras")
    assert run.recipe.preprocess.spacing == "keep"


def test_plans_before_nnunet_2_4_describe_the_network_in_other_words(tmp_path) -> None:
    old = {key: value for key, value in CONFIGURATION.items() if key != "architecture"} | EARLY
    changed = plans_with(old)
    changed["foreground_intensity_properties_by_modality"] = changed.pop(
        "foreground_intensity_properties_per_channel"
    )
    run = imported(tmp_path, {"plans": changed})
    assert run.recipe.network.options["widths"] == [4, 8, 12]
    assert run.plan.normalization[0] == Ct(mean=40.0, std=80.0, low=-100.0, high=250.0)
    with pytest.raises(ModelError, match=r"network_class_name: expected PlainConvUNet, .* got 'Mine'"):
        imported(tmp_path, {"plans": plans_with(old | {"UNet_class_name": "Mine"})})


def plans_with(configuration: dict[str, Any]) -> dict[str, Any]:
    return PLANS | {"configurations": {"3d_fullres": configuration}}


def test_a_network_with_batch_norm_is_recognized_by_its_statistics(tmp_path) -> None:
    """nnU-Net's trainer for batch norm does not say so in the plans."""
    state = weights_of()
    for name, tensor in list(state.items()):
        if name.endswith("norm.weight") or name.endswith("all_modules.1.weight"):
            stem = name.removesuffix("weight")
            state |= {f"{stem}running_mean": torch.zeros_like(tensor)}
            state |= {
                f"{stem}running_var": torch.ones_like(tensor),
                f"{stem}num_batches_tracked": torch.tensor(3),
            }
    file = checkpoint(tmp_path / "c.pth", state, trainer_name="nnUNetTrainerBN")
    import_nnunet(file, tmp_path / "run")
    assert Run.open(tmp_path / "run").recipe.network.options["norm"] == "batch"


def test_all_folds_of_a_folder_become_folds_of_one_run(tmp_path) -> None:
    summary = import_weights(model_folder(tmp_path), output=tmp_path / "run")
    assert summary.folds == (0, 3, "none")
    run = Run.open(tmp_path / "run")
    assert run.folds == [0, 3, "none"]
    heads = [load_network(run, fold).heads[-1].weight for fold in run.folds]
    for number, head in enumerate(heads):
        assert torch.equal(head, weights_of(seed=number)["decoder.seg_layers.1.weight"])


def test_checkpoints_imported_one_by_one_keep_their_folds(tmp_path) -> None:
    folder = model_folder(tmp_path)
    for fold in ("0", "3"):
        import_weights(folder / f"fold_{fold}" / "checkpoint_final.pth", output=tmp_path / "run")
    assert Run.open(tmp_path / "run").folds == [0, 3]
    import_weights(folder / "fold_0" / "checkpoint_final.pth", output=tmp_path / "other", fold=4)
    assert Run.open(tmp_path / "other").folds == [4]
    with pytest.raises(RecipeError, match=r"--fold 1: .* is a folder with its own folds"):
        import_weights(folder, output=tmp_path / "third", fold=1)


def test_options_of_a_recipe_need_one(tmp_path) -> None:
    file = checkpoint(tmp_path / "c.pth", weights_of())
    with pytest.raises(RecipeError, match="--axis-order: needs --recipe"):
        import_weights(file, output=tmp_path / "run", axis_order="zyx")


def architecture(**changes: Any) -> dict[str, Any]:
    return {"plans": plans(architecture=CONFIGURATION["architecture"] | {"arch_kwargs": OPTIONS | changes})}


def named(network: str) -> dict[str, Any]:
    return {"plans": plans(architecture=CONFIGURATION["architecture"] | {"network_class_name": network})}


def resampled(part: str, **changes: Any) -> dict[str, Any]:
    key = f"resampling_fn_{part}_kwargs"
    return {"plans": plans(**{key: CONFIGURATION[key] | changes})}


@pytest.mark.parametrize(
    ("documents", "line"),
    [
        ({"plans": plans(patch_size=[64, 64])}, "patch_size: expected three axes, got 2; mambamed has no 2D"),
        ({"plans": plans(previous_stage="3d_lowres")}, "masks of 3d_lowres, and mambamed has no cascade"),
        ({"plans": plans(normalization_schemes=["Mine", "NoNormalization"])}, "schemes.0: expected CTNorm"),
        ({"plans": plans(normalization_schemes=["NoNormalization"])}, "expected 2 entries, one per channel"),
        ({"plans": plans(use_mask_for_norm=[True])}, "use_mask_for_norm: expected 2 entries"),
        ({"plans": plans(preprocessor_name="Mine")}, "preprocessor_name: expected DefaultPreprocessor, got"),
        ({"plans": plans(resampling_fn_data="resample_torch")}, "data: expected resample_data_or_seg_to"),
        (resampled("data", order=1), "resampling_fn_data_kwargs.order: expected 3, got 1"),
        (resampled("probabilities", force_separate_z=False), "force_separate_z: expected None, got False"),
        ({"plans": PLANS | {"image_reader_writer": "Tiff3DIO"}}, "image_reader_writer: expected SimpleITKIO"),
        ({"plans": PLANS | {"label_manager": "Mine"}}, "label_manager: expected LabelManager, got 'Mine'"),
        ({"plans": PLANS | {"transpose_forward": [0, 1, 1]}}, "expected 0, 1 and 2 in some order, got"),
        ({"configuration": "3d_lowres"}, "configurations: expected one of 2d, 3d_fullres, got '3d_lowres'"),
        (named("a.b.ResidualUNet"), "network_class_name: expected PlainConvUNet, ResidualEncoderUNet, got"),
        (architecture(conv_bias=False), "conv_bias: expected True, got False"),
        (architecture(norm_op="a.GroupNorm"), "norm_op: expected InstanceNorm3d, BatchNorm3d, got"),
        (architecture(nonlin="torch.nn.GELU"), "nonlin: expected LeakyReLU, got 'GELU'"),
        (architecture(features_per_stage=[2000, 4000, 4000]), "keys do not fit the plans' network"),
        (architecture(n_conv_per_stage=10**9), "n_conv_per_stage: expected whole numbers from 1 to 100, got"),
        (architecture(n_stages=300), "n_stages: expected less than or equal to 20, got 300"),
        (architecture(nonlin_first=True), "nonlin_first: expected None, got True"),
        (architecture(strides=[1, 2]), "2 stages, 2 strides, 3 kernels, 3 widths"),
        ({"dataset_json": DATASET | {"labels": {"background": 0, "a": 2}}}, "expected consecutive numbers"),
        ({"dataset_json": DATASET | {"labels": REGIONS["labels"]}}, "one label per region, 3, got 0"),
        ({"dataset_json": DATASET | {"labels": {"a": 1, "b": 0}}}, "labels: no background label"),
        ({"plans": PLANS | {"foreground_intensity_properties_per_channel": {}}}, "per_channel.0: "),
    ],
)  # fmt: skip
def test_what_mambamed_cannot_do_is_named_in_one_line(tmp_path, documents, line) -> None:
    file = checkpoint(tmp_path / "c.pth", weights_of(), documents)
    with pytest.raises(ModelError) as caught:
        import_nnunet(file, tmp_path / "run")
    message = str(caught.value)
    assert line in message and message.startswith(str(file)) and "\n" not in message
    assert not (tmp_path / "run").exists()


def test_any_value_of_the_documents_is_imported_or_reported_in_a_line(tmp_path) -> None:
    random = np.random.default_rng(0)
    known = {"plans": PLANS, "dataset_json": DATASET | REGIONS}
    places = [at for at in positions(known) if len(at) > 1]
    state = weights_of()
    for number in range(250):
        at = places[random.integers(len(places))]
        value = [DROPPED, *OTHERS][random.integers(len(OTHERS) + 1)]
        if value == "\ud800":
            continue  # pickle cannot write it
        file = checkpoint(tmp_path / "c.pth", state, replaced(known, at, value))
        try:
            import_nnunet(file, tmp_path / f"run_{number}")
        except MambamedError as error:
            assert all(line.startswith(str(file)) for line in str(error).splitlines()), (
                at,
                value,
                str(error),
            )
