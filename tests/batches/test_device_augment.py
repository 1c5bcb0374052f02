"""A patch made by torch equals that of the CPU's kernels: labels exactly, intensities up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mambamed.batches.augment import Change, change_intensities, draw_changes
from mambamed.batches.device_augment import change_on_device
from mambamed.batches.loader import PatchReader
from mambamed.batches.sampler import Sampler, random_stream
from mambamed.recipe import Augment
from mambamed.tasks.cases import LabeledCase
from tests.batches.memory_case import blob_case

CPU = torch.device("cpu")
OFTEN = Augment(
    rotate=0.7, scale=0.7, elastic=0.3, noise=0.5, blur=0.5, brightness=0.5, contrast=0.5,
    low_resolution=0.5, gamma=0.5, drop_channel=0.1,
)  # fmt: skip


def readers(augment, patch=(14, 12, 16), shape=(20, 24, 16), encode=None):
    cases = {f"c{i}": LabeledCase(blob_case(shape, seed=i, channels=2, classes=4)) for i in range(4)}
    sampler = Sampler(cases, patch, 2, 0.5, (0, 0))
    spacing = (1.0, 0.8, 1.5)
    return sampler, *(PatchReader(cases, patch, augment, spacing, encode, there) for there in (False, True))


@pytest.mark.parametrize("shape", [(20, 24, 16), (10, 30, 9)], ids=["inside", "smaller than the patch"])
def test_the_patches_are_those_of_the_cpu(shape):
    sampler, host, device = readers(OFTEN, shape=shape, encode=lambda labels, _: labels.long())
    kinds = set()
    for step in range(60):
        requests = sampler.requests(step)
        plain, sources = host.batch(requests), device.batch(requests)
        kinds |= {change.kind for each in sources.patches for change in each.changes}
        assert sources.case_ids == plain.case_ids
        image, target = sources.on(CPU, torch.contiguous_format)
        expected, labels = plain.on(CPU, torch.contiguous_format)
        assert torch.equal(target, labels) and target.dtype == torch.int64
        # A voxel that is clipped or amplified (contrast, gamma) shows the rounding of the interpolation.
        torch.testing.assert_close(image, expected, rtol=1e-3, atol=2e-3)
    assert len(kinds) == 7  # all were tried


def test_a_mirrored_patch_is_the_same_bits():
    still = Augment(**dict.fromkeys(
        ("rotate", "scale", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma"), 0
    ))  # fmt: skip
    sampler, host, device = readers(still)
    for step in range(8):
        requests = sampler.requests(step)
        for one, other in zip(
            host.batch(requests).on(CPU, torch.contiguous_format),
            device.batch(requests).on(CPU, torch.contiguous_format),
            strict=True,
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("seed", range(4))
def test_each_change_of_intensities_is_that_of_the_cpu(seed):
    always = OFTEN.model_copy(
        update=dict.fromkeys(("noise", "blur", "brightness", "contrast", "low_resolution", "gamma"), 1.0)
    )
    volume = np.random.default_rng(seed).normal(0, 1, (3, 11, 9, 13)).astype(np.float32)
    patch = torch.from_numpy(volume.copy())
    for change in draw_changes(volume.shape, always, random_stream(seed)):
        drawn = None if change.drawn is None else torch.from_numpy(change.drawn.view(np.int16))
        change_on_device(patch, change, drawn)
    expected = change_intensities(volume, always, random_stream(seed))
    np.testing.assert_allclose(patch.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_flat_volume_stays_flat():
    patch = torch.full((1, 4, 4, 4), 2.5)
    change_on_device(patch, Change("gamma", 0, 1.4, negative=True))
    assert (patch == 2.5).all()


def test_the_distribution_is_that_of_the_cpu_with_other_random_numbers():
    """Moments of 1000 patches each; the bounds are five standard errors of the difference."""
    found = []
    for first, there in ((0, False), (500, True)):
        sampler, *both = readers(Augment(), patch=(8, 8, 8))
        images = torch.cat(
            [
                both[there].batch(sampler.requests(first + k)).on(CPU, torch.contiguous_format)[0]
                for k in range(500)
            ]
        )
        flat = images.flatten(1).double()
        numbers = torch.stack([flat.mean(1), flat.std(1), flat.amin(1), flat.amax(1), (flat**3).mean(1)])
        found.append((numbers.mean(1), numbers.std(1) / len(flat) ** 0.5, numbers.std(1)))
    (mean_a, error_a, spread_a), (mean_b, error_b, spread_b) = found
    assert ((mean_a - mean_b).abs() < 5 * (error_a**2 + error_b**2).sqrt()).all()
    assert torch.allclose(spread_a, spread_b, rtol=0.25)


def test_targets_that_are_no_label_maps_are_made_on_the_cpu():
    class Classed(LabeledCase):
        def label(self, box=None):
            return None

        def reference(self, label, place, mirrored):
            return np.int64(3)

    case = Classed(blob_case())
    sampler = Sampler({"c": case}, (8, 8, 8), 2, 0.5, (0,))
    reader = PatchReader({"c": case}, (8, 8, 8), OFTEN, (1, 1, 1), lambda t, _: t + 1, on_device=True)
    image, target = reader.batch(sampler.requests(0)).on(CPU, torch.contiguous_format)
    assert image.shape == (2, 1, 8, 8, 8) and target.tolist() == [4, 4]
