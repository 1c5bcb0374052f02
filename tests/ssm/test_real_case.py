"""A checkpoint trained with one backend segments a real case the same with every other."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mambamed.api import predict
from mambamed.converters import convert
from mambamed.preparation.prepare import prepare
from mambamed.recipe import load_recipe
from mambamed.ssm import chosen_backend, scan, set_backend
from mambamed.training import train
from tests.decathlon import SOURCE, link_hippocampus

CASES = 5
TINY = [
    "network.channels=8", "training.epochs=3", "training.steps_per_epoch=12", "training.batch_size=2",
    "training.patch_size=[32,48,32]", "training.validation_patches=1", "training.schedule.warmup_steps=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory) -> Path:
    """Some of the real cases in the Decathlon's layout, and one more by itself, unseen in training."""
    root = tmp_path_factory.mktemp("hippocampus")
    unseen = link_hippocampus(root, CASES)[0]
    (root / "unseen").mkdir()
    (root / "unseen" / Path(unseen["image"]).name).symlink_to((SOURCE / unseen["image"]).resolve())
    return root


@pytest.fixture(scope="module")
def trained(hippocampus) -> Path:
    """A small nnMamba with MICCSS, a few dozen steps by `cpu`, in float32."""
    if reason := scan.why_unavailable("cpu"):
        pytest.skip(f"cpu: {reason}")
    prepare(convert(hippocampus), hippocampus / "prepared", workers=1)
    run = hippocampus / "run"
    set_backend("cpu")
    try:
        recipe = load_recipe("hippocampus_nnmamba", TINY)
        train(recipe, prepared=hippocampus / "prepared", output=run, device="cpu", precision="fp32")
    finally:
        set_backend("auto")
    return run


def mask_by(backend: str, run: Path, images: Path, device: str = "cpu") -> np.ndarray:
    output = images.parent / f"by_{backend}_on_{device}"
    set_backend(backend)
    try:
        assert chosen_backend(device) == (backend, "set by set_backend")
        predict([run], images, output, device=device, precision="fp32")
    finally:
        set_backend("auto")
    (file,) = output.glob("hippocampus_*.nii.gz")
    return np.asarray(nib.load(file).dataobj)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def by_definition(trained, hippocampus) -> np.ndarray:
    """The mask by the loop of the paper."""
    mask = mask_by("reference", trained, hippocampus / "unseen")
    # a mask in which all is one label would agree with anything
    shares = np.bincount(mask.astype(int).ravel(), minlength=3) / mask.size
    assert shares[0] > 0.5
    assert shares[1:].sum() > 0.01
    return mask


@pytest.mark.data
@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ("chunked", "cpu"),
        ("cpu", "cpu"),
        pytest.param("chunked", "cuda", marks=pytest.mark.gpu),
        pytest.param("triton", "cuda", marks=pytest.mark.gpu),
        pytest.param("cuda", "cuda", marks=pytest.mark.gpu),
    ],
)
def test_backends_agree_on_a_real_case(backend, device, trained, hippocampus, by_definition) -> None:
    """At least 99.99 % of the voxels have the label that the definition's scan gives them."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA or ROCm device")
    if reason := scan.why_unavailable(backend):
        pytest.skip(f"{backend}: {reason}")
    mask = mask_by(backend, trained, hippocampus / "unseen", device)
    assert mask.shape == by_definition.shape
    equal = (mask == by_definition).mean()
    print(f"{backend} on {device}: {mask.size - int(equal * mask.size)} of {mask.size} voxels differ")
    assert equal >= 0.9999
