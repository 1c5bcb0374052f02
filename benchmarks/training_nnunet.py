"""nnU-Net 2's own way to a training, for `benchmarks/train.py`: its planner, its store, its trainer.

Nothing of it is changed but the number of processes, none, so that all of its work is one process' CPU time.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATASET = "Dataset004_Benchmark"
CONFIGURATION = "3d_fullres"


def use_folder(folder: Path) -> None:
    """Let nnU-Net keep all it writes under `folder`, and do all its work in this process."""
    places = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    os.environ.update({**places, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"})


def prepare_dataset(source: Path, folder: Path, splits: Sequence[dict[str, list[str]]]) -> None:
    """A dataset in the Decathlon's form -> what nnU-Net trains from: fingerprint, plan, store, the splits.

    Args:
        source: holds dataset.json, imagesTr, labelsTr.
        folder: of all that is written; what is there already is kept.
        splits: a dict of "train" and "val" case ids for each fold.
    """
    use_folder(folder)
    done = folder / "preprocessed" / DATASET / "splits_final.json"
    if done.is_file():
        return
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    raw = folder / "raw" / DATASET
    document = json.loads((source / "dataset.json").read_text())
    channels = [document["modality"][key] for key in sorted(document["modality"], key=int)]
    labels = {name: int(value) for value, name in document["labels"].items()}
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    images = sorted(p for p in (source / "imagesTr").glob("*.nii.gz") if not p.name.startswith("."))
    for image in images:
        case_id = image.name.removesuffix(".nii.gz")
        shutil.copyfile(source / "labelsTr" / image.name, raw / "labelsTr" / image.name)
        if len(channels) == 1:
            shutil.copyfile(image, raw / "imagesTr" / f"{case_id}_0000.nii.gz")
        else:
            _write_channels(image, raw / "imagesTr", case_id)
    facts = {
        "channel_names": dict(enumerate(channels)),
        "labels": labels,
        "numTraining": len(images),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(facts))
    os.environ.update({"nnUNet_n_proc_DA": "1"})  # its planner counts threads by it
    with redirect_stdout(sys.stderr):
        api.extract_fingerprints([4], num_processes=1, show_progress_bar=False)
        api.plan_experiments([4])
        api.preprocess([4], configurations=[CONFIGURATION], num_processes=[1], show_progress_bar=False)
    use_folder(folder)
    done.write_text(json.dumps(list(splits)))


def _write_channels(image: Path, folder: Path, case_id: str) -> None:
    """One file a channel, as nnU-Net reads them."""
    import nibabel

    whole: Any = nibabel.load(image)
    array = np.asanyarray(whole.dataobj)
    for channel in range(array.shape[-1]):
        part = nibabel.Nifti1Image(array[..., channel], whole.affine)
        nibabel.save(part, folder / f"{case_id}_{channel:04d}.nii.gz")


def make_trainer(
    folder: Path,
    fold: int,
    *,
    batch_size: int | None = None,
    patch_size: Sequence[int] | None = None,
    deep_supervision: bool = True,
) -> Any:
    """Its trainer of 3d_fullres on the CPU, network, optimizer and loss made.

    Args:
        folder: from `prepare_dataset`.
        fold: index of the fold.
        batch_size, patch_size: in the place of the plan's; None: the very plan.
        deep_supervision: as in its plan; False spares the smaller targets.
    """
    use_folder(folder)
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    place = folder / "preprocessed" / DATASET
    plans = json.loads((place / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    settings = plans["configurations"][CONFIGURATION]
    if batch_size is not None:
        settings["batch_size"] = batch_size
    if patch_size is not None:
        settings["patch_size"] = list(patch_size)
    with redirect_stdout(sys.stderr):
        trainer = nnUNetTrainer(
            plans,
            CONFIGURATION,
            fold,
            json.loads((place / "dataset.json").read_text()),
            torch.device("cpu"),
        )
        trainer.enable_deep_supervision = deep_supervision
        trainer.initialize()
    trainer.set_deep_supervision_enabled(deep_supervision)
    return trainer


def make_loader(trainer: Any) -> Any:
    """Its loader of training batches, its augmentation included, without processes of its own."""
    with redirect_stdout(sys.stderr):
        return trainer.get_dataloaders()[0]


def planned(folder: Path) -> dict[str, Any]:
    """What its planner decided for 3d_fullres."""
    file = folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    return json.loads(file.read_text())["configurations"][CONFIGURATION]


def segment(trainer: Any, folder: Path, case_id: str, mirror: bool) -> NDArray:
    """Labels of a case on its native grid `(X, Y, Z)`, by its predictor and its export.

    Args:
        trainer: whose network answers; it is left in evaluation mode, without deep supervision.
        mirror: whether all mirror images are averaged in, nnU-Net's default.
    """
    import torch
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as as_native,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        use_mirroring=mirror, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    manager = trainer.configuration_manager
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        manager,
        None,
        trainer.dataset_json,
        "nnUNetTrainer",
        (0, 1, 2),
    )
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case_id])
    data, _, _, properties = dataset.load_case(case_id)
    with torch.inference_mode():
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:])))
    labels = as_native(
        logits, trainer.plans_manager, manager, trainer.label_manager, properties, num_threads_torch=1
    )
    return np.asarray(labels).T  # its reader gives (Z, Y, X)
