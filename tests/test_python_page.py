"""The code of docs/python.md is executed in order, on six small cases and with a tiny network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from tests.answers.stubs import write_nifti

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
TIME = "max_hours=0.33"
SHORT = [
    "training.epochs=1",
    "training.steps_per_epoch=2",
    "training.patch_size=[16, 16, 16]",
    "network.channels=4",
    "network.mixer=none",
]


def write_task(root: Path) -> None:
    """A task of the Decathlon: two boxes in noise."""
    random = np.random.default_rng(7)
    names = [f"hippocampus_{number:03d}" for number in (1, 3, 4, 6, 7, 8)]
    for name in names:
        label = np.zeros((20, 22, 18), np.uint8)
        label[4:12, 4:10, 4:12], label[4:12, 12:18, 4:12] = 1, 2
        image = (random.normal(0, 0.1, label.shape) + label).astype(np.float32)
        write_nifti(root / "imagesTr" / f"{name}.nii.gz", image)
        write_nifti(root / "labelsTr" / f"{name}.nii.gz", label)
    write_nifti(root / "imagesTs" / "hippocampus_002.nii.gz", image)
    document = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/hippocampus_002.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(document))


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "Task04_Hippocampus")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks)
    assert code.count(TIME) == 1
    exec(code.replace(TIME, f"set={SHORT!r}"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 cases, patch (")
    assert re.match(r"0 Dice \{'Anterior': [\d.]+, 'Posterior': [\d.]+\}", lines[1])
    scored = [tuple(line.split()[:3]) for line in lines[2:10]]
    assert scored[0] == ("hippocampus_001", "Anterior", "dice")
    assert {case for case, _, _ in scored} == {"hippocampus_001", "hippocampus_003"}
    assert "1 cases in predictions/all" in lines
    assert "runs/hippocampus 0 done" in "\n".join(lines)
    assert (tmp_path / "predictions" / "hippocampus_003" / "hippocampus_003.nii.gz").is_file()
