"""What the tests of training share."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mambamed.converters import convert
from mambamed.io.json_files import write_json
from mambamed.preparation.prepare import prepare

CASES = 6


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Six noisy images with two boxes each, in the Decathlon's layout, not all of one orientation."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    entries = []
    for number in range(CASES):
        label = np.zeros((18, 20, 17), np.uint8)
        label[3:9, 4:12, 4:12] = 1
        label[9:15, 8:16, 5:13] = 2
        image = (random.normal(0, 0.2, label.shape) + label + 5).astype(np.float32)
        affine = np.diag([-1.0, 1.0, 1.0, 1.0] if number % 2 else [1.0, 1.0, 1.0, 1.0])
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            (root / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), root / folder / f"box_{number}.nii.gz")
        entries.append(
            {"image": f"./imagesTr/box_{number}.nii.gz", "label": f"./labelsTr/box_{number}.nii.gz"}
        )
    write_json(
        root / "dataset.json",
        {
            "name": "boxes",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "one", "2": "two"},
            "training": entries,
            "test": [],
            "numTraining": CASES,
        },
    )
    output = root / "prepared"
    prepare(convert(root), output, workers=1)
    return output
