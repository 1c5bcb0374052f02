"""Models of nnU-Net 2 as its trainer writes them: documents and keys, written by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.networks.public_layout import read_layout

# Arrays are (z, y, x), then (y, z, x): y has the largest spacing.
OPTIONS: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 12],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [8, 8, 16],
    "median_image_size_in_voxels": [9.0, 10.0, 20.0],
    "spacing": [4.0, 2.0, 1.0],
    "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
    "use_mask_for_norm": [False, False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": OPTIONS,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
    "batch_dice": False,
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset123_Small",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [4.0, 2.0, 1.0],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [1, 0, 2],
    "transpose_backward": [1, 0, 2],
    "configurations": {"2d": {"patch_size": [64, 64]}, "3d_fullres": CONFIGURATION},
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 900.0,
            "mean": 40.0,
            "median": 50.0,
            "min": -200.0,
            "percentile_00_5": -100.0,
            "percentile_99_5": 250.0,
            "std": 80.0,
        }
    },
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": 1, "tumor": 2},
    "numTraining": 10,
    "file_ending": ".nii.gz",
}
REGIONS: dict[str, Any] = {
    "labels": {"background": 0, "edema": 1, "whole": [1, 2, 3], "core": [2, 3]},
    "regions_class_order": [1, 2, 3],
}

_COPIES = """
    encoder.stages.{s=0..2}.0.convs.{c=0..1}.all_modules.0 = encoder.stages.{s}.0.convs.{c}.conv
    encoder.stages.{s=0..2}.0.convs.{c=0..1}.all_modules.1 = encoder.stages.{s}.0.convs.{c}.norm
"""
_DECODER = """
    decoder.transpconvs.0                transposed(12, 8, (2, 2, 2))
    decoder.transpconvs.1                transposed(8, 4, (1, 2, 2))
    decoder.stages.0.convs.0.conv        conv(16, 8, 3)
    decoder.stages.0.convs.1.conv        conv(8, 8, 3)
    decoder.stages.1.convs.0.conv        conv(8, 4, (1, 3, 3))
    decoder.stages.0.convs.{0,1}.norm    norm(8)
    decoder.stages.1.convs.0.norm        norm(4)
    decoder.seg_layers.0                 conv(8, outputs, 1)
    decoder.seg_layers.1                 conv(4, outputs, 1)
    decoder.encoder                      = encoder
"""
PLAIN = f"""
    encoder.stages.0.0.convs.0.conv      conv(2, 4, (1, 3, 3))
    encoder.stages.0.0.convs.1.conv      conv(4, 4, (1, 3, 3))
    encoder.stages.1.0.convs.0.conv      conv(4, 8, 3)
    encoder.stages.1.0.convs.1.conv      conv(8, 8, 3)
    encoder.stages.2.0.convs.0.conv      conv(8, 12, 3)
    encoder.stages.2.0.convs.1.conv      conv(12, 12, 3)
    encoder.stages.{{s=0..2}}.0.convs.{{0,1}}.norm  norm(4 + 4 * s)
    {_COPIES}
    {_DECODER}
"""
RESIDUAL = f"""
    encoder.stem.convs.0.conv            conv(2, 4, (1, 3, 3))
    encoder.stem.convs.0.norm            norm(4)
    encoder.stages.0.blocks.0.conv{{1,2}}.conv  conv(4, 4, (1, 3, 3))
    encoder.stages.1.blocks.0.conv1.conv  conv(4, 8, 3)
    encoder.stages.1.blocks.0.conv2.conv  conv(8, 8, 3)
    encoder.stages.1.blocks.0.skip.1.conv  conv(4, 8, 1, bias=False)
    encoder.stages.1.blocks.0.skip.1.norm  norm(8)
    encoder.stages.2.blocks.0.conv1.conv  conv(8, 12, 3)
    encoder.stages.2.blocks.{{0,1}}.conv2.conv  conv(12, 12, 3)
    encoder.stages.2.blocks.1.conv1.conv  conv(12, 12, 3)
    encoder.stages.2.blocks.0.skip.1.conv  conv(8, 12, 1, bias=False)
    encoder.stages.2.blocks.0.skip.1.norm  norm(12)
    encoder.stages.{{s=0..2}}.blocks.0.conv{{1,2}}.norm  norm(4 + 4 * s)
    encoder.stages.2.blocks.1.conv{{1,2}}.norm  norm(12)
    encoder.stem.convs.0.all_modules.0 = encoder.stem.convs.0.conv
    encoder.stages.{{s=0..2}}.blocks.0.conv1.all_modules.0 = encoder.stages.{{s}}.blocks.0.conv1.conv
    encoder.stages.{{s=0..2}}.blocks.0.conv2.all_modules.1 = encoder.stages.{{s}}.blocks.0.conv2.norm
    encoder.stages.{{s=1..2}}.blocks.0.skip.1.all_modules.1 = encoder.stages.{{s}}.blocks.0.skip.1.norm
    {_DECODER}
"""
# Keys of early plans in place of `architecture`
EARLY = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 12,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 1],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def plans(**changes: Any) -> dict[str, Any]:
    """The plans with other values in the configuration 3d_fullres."""
    changed = copy.deepcopy(PLANS)
    changed["configurations"]["3d_fullres"] |= changes
    return changed


def residual_plans() -> dict[str, Any]:
    """Those of a residual encoder."""
    options = {key: value for key, value in OPTIONS.items() if key != "n_conv_per_stage"}
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    new = {"network_class_name": name, "arch_kwargs": options | {"n_blocks_per_stage": [1, 1, 2]}}
    return plans(architecture=new)


def weights_of(layout: str = PLAIN, outputs: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of a key list, large enough that the labels of an image differ."""
    tensors = read_layout(layout, outputs=outputs).tensors(seed)
    for name, tensor in tensors.items():
        if "seg_layers" in name:
            tensor *= 0 if name.endswith("bias") else 10
        elif tensor.ndim == 1 and not name.endswith("bias"):
            tensor += 1  # of a norm
    return tensors


def checkpoint(path: Path, weights: dict[str, Tensor], init_args: Any = None, **changes: Any) -> Path:
    """What `nnUNetTrainer.save_checkpoint` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"plans": PLANS, "configuration": "3d_fullres", "fold": 2, "dataset_json": DATASET}
    known["device"] = torch.device("cpu")
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], 0.01, momentum=0.99)
    parameter.sum().backward()
    optimizer.step()
    content = {
        "network_weights": weights,
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [0.01], "epoch_end_timestamps": [1.5]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": ... if init_args is ... else known | (init_args or {}),
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save({key: value for key, value in (content | changes).items() if value is not ...}, path)
    return path


def model_folder(root: Path, folds: tuple[str, ...] = ("0", "3", "all"), **changes: Any) -> Path:
    """A trained model: its documents, and a checkpoint per fold."""
    folder = root / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for number, fold in enumerate(folds):
        named = {"fold": fold if fold == "all" else int(fold)} | changes
        checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth", weights_of(seed=number), named)
    (folder / "plans.json").write_text(json.dumps(PLANS))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder
