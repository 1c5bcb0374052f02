"""docs/own-data.md, executed on six small cases: its first three commands lead to masks."""

from __future__ import annotations

import re
import shlex

import nibabel as nib
import numpy as np

from tests.answers.stubs import write_nifti
from tests.faults.in_process import call
from tests.test_docs import ROOT


def test_the_three_commands_lead_to_masks(tmp_path, monkeypatch) -> None:
    """The training is limited to some seconds; the table of cases is that of the page."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    label = np.zeros((16, 18, 14), np.uint8)
    label[4:11, 5:12, 4:10] = 1
    rows = []
    for number in range(1, 7):
        image = (random.normal(0, 0.1, label.shape) + label).astype(np.float32)
        write_nifti(tmp_path / "MyData" / "images" / f"case_{number}.nii.gz", image)
        write_nifti(tmp_path / "MyData" / "labels" / f"case_{number}.nii.gz", label)
        write_nifti(tmp_path / "NewImages" / f"new_{number}.nii.gz", image)
        rows.append(f"case_{number},images/case_{number}.nii.gz,labels/case_{number}.nii.gz\n")
    page = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    table = re.search(r"```csv\n(.*?)```", page, re.DOTALL)
    assert table is not None
    header, first, *_ = (line.strip() for line in table[1].splitlines())
    assert f"{first}\n" == rows[0]
    (tmp_path / "MyData" / "cases.csv").write_text("".join([f"{header}\n", *rows]))
    names = re.search(r"`(\{\"labels\".*?)`", page)
    assert names is not None
    (tmp_path / "MyData" / "cases.json").write_text(names[1])

    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line)[1:] for line in block[1].splitlines()]
    assert [command[0] for command in commands] == ["prepare", "train", "predict"]
    for command in commands:
        done = call(*["0.006" if word == "1" else word for word in command])
        assert done.code == 0, done
    masks = sorted((tmp_path / "predictions" / "mine").glob("*.nii.gz"))
    assert [path.name for path in masks] == [f"new_{number}.nii.gz" for number in range(1, 7)]
    assert np.asanyarray(nib.load(masks[0]).dataobj).shape == label.shape
