"""Window accumulation against MONAI's sliding_window_inference and against the identity."""

import itertools
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn

from mambamed.errors import CaseError, RunError
from mambamed.volumes import window_source, window_sum
from mambamed.volumes.forward import class_logits
from mambamed.volumes.sliding_window import Windows, window_logits, window_positions, window_slabs
from mambamed.volumes.window_sum import gaussian_profile

CPU = torch.device("cpu")


class Smooth(nn.Module):
    """A stand-in whose answer depends on where in the window a voxel lies, as a real network's does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 3, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("shape", [(20, 17, 33), (9, 40, 16), (16, 16, 16), (5, 6, 7)])
@pytest.mark.parametrize("gaussian", [True, False])
def test_a_network_that_copies_gives_the_volume_back(shape, gaussian) -> None:
    image = torch.randn(2, *shape)
    windows = Windows((16, 16, 16), gaussian=gaussian, mirror_axes=(0, 2), batch_size=3)
    torch.testing.assert_close(
        window_logits([nn.Identity()], image, windows, device=CPU), image, rtol=1e-5, atol=1e-5
    )


def test_constant_weights_give_what_monai_gives() -> None:
    from monai.inferers import sliding_window_inference

    image, network = torch.randn(2, 24, 24, 40), Smooth().eval()
    ours = window_logits([network], image, Windows((16, 16, 16), gaussian=False), device=CPU)
    with torch.inference_mode():
        theirs = sliding_window_inference(image[None], (16, 16, 16), 1, network, overlap=0.5, mode="constant")
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)


def test_gaussian_weights_are_those_of_the_formula() -> None:
    """By hand, in float64: sum of w * logits over sum of w, w = exp(-d^2 / (2 (patch/8)^2))."""
    image, network, patch = torch.randn(2, 24, 16, 40), Smooth().eval(), 16
    offset = torch.arange(patch).double() - 7.5
    line = torch.exp(-(offset**2) / (2 * 2.0**2))
    weight = line[:, None, None] * line[:, None] * line
    total, covered = torch.zeros(3, 24, 16, 40).double(), torch.zeros(24, 16, 40).double()
    with torch.inference_mode():
        for x in (0, 8):
            for z in (0, 8, 16, 24):
                logits = network(image[None, :, x : x + patch, :, z : z + patch])[0].double()
                total[:, x : x + patch, :, z : z + patch] += weight * logits
                covered[x : x + patch, :, z : z + patch] += weight
    ours = window_logits([network], image, Windows((patch, patch, patch)), device=CPU)
    torch.testing.assert_close(ours, (total / covered).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [16, 15])
def test_weights_like_nnunets_are_a_smoothed_peak_at_half_of_the_size(size) -> None:
    """nnU-Net smooths a single one at voxel size // 2 by sigma = size / 8 and scales the largest to 1."""
    peak = np.zeros(size)
    peak[size // 2] = 1
    smoothed = scipy.ndimage.gaussian_filter(peak, size / 8, mode="constant")
    ours = gaussian_profile(size, like_nnunet=True).numpy()
    np.testing.assert_allclose(ours, smoothed / smoothed.max(), rtol=1e-5)


def test_mirrored_copies_are_averaged_in_the_images_own_direction() -> None:
    class Ramp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(x.shape[2], dtype=x.dtype)[:, None, None]

    image = torch.zeros(1, 8, 8, 8)
    windows = Windows((8, 8, 8), gaussian=False, mirror_axes=(0,))
    # By hand: the mean of i and 7 - i is 3.5 everywhere.
    assert torch.all(window_logits([Ramp()], image, windows, device=CPU) == 3.5)


class Sides(nn.Module):
    """Channel 1 is the left half of what is bright, channel 2 the right half, whatever is above or below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.zeros_like(x)
        left[:, :, : x.shape[2] // 2] = 1
        return torch.cat([1 - x, x * left, x * (1 - left)], dim=1)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_mirrored_copies_of_a_symmetric_body_change_nothing_when_sides_are_swapped_back(axes) -> None:
    """By hand: the network is equivariant, so that every copy, mirrored back, is the plain answer."""
    image = torch.zeros(1, 8, 8, 8)
    image[:, 1:3, 2:4, 3:7] = image[:, 5:7, 2:4, 3:7] = 1
    plain = window_logits([Sides()], image, Windows((8, 8, 8)), device=CPU)
    swapped = Windows((8, 8, 8), mirror_axes=axes, mirror_order=(0, 2, 1))
    torch.testing.assert_close(window_logits([Sides()], image, swapped, device=CPU), plain)
    mixed = window_logits([Sides()], image, Windows((8, 8, 8), mirror_axes=axes), device=CPU)
    assert torch.allclose(mixed, plain) == (0 not in axes)


def test_classes_of_mirrored_copies_are_swapped_back() -> None:
    class Side(nn.Module):
        """The brightness of the left half, of the right half, and a constant."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            halves = x[:, 0, :4].mean((1, 2, 3)), x[:, 0, 4:].mean((1, 2, 3)), torch.full((len(x),), 5.0)
            return torch.stack(halves, dim=1)

    patches = torch.zeros(2, 1, 8, 8, 8)
    patches[0, :, :4], patches[1, :, 4:] = 2, 1
    found = class_logits(Side(), patches, (0, 1), (1, 0, 2), device=CPU, precision="fp32")
    assert found.tolist() == [[2, 0, 5], [0, 1, 5]]
    mixed = class_logits(Side(), patches, (0, 1), device=CPU, precision="fp32")
    assert mixed.tolist() == [[1, 1, 5], [0.5, 0.5, 5]]


def test_an_ensemble_is_the_mean_of_its_networks() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, self.value)

    windows = Windows((8, 8, 8))
    logits = window_logits([Constant(1), Constant(4)], torch.zeros(1, 12, 8, 8), windows, device=CPU)
    torch.testing.assert_close(logits, torch.full((1, 12, 8, 8), 2.5))


def test_windows_cover_the_axis_and_overlap_enough() -> None:
    for size in range(1, 200, 7):
        for patch in (8, 16, 33):
            starts = window_positions(size, patch, 0.5)
            covered = {v for s in starts for v in range(s, s + patch)}
            assert covered >= set(range(size))
            assert all(b - a <= patch / 2 + 1 for a, b in itertools.pairwise(starts))


def test_every_window_is_told() -> None:
    told: list[tuple[int, int]] = []
    image = torch.zeros(1, 16, 8, 8)
    window_logits(
        [nn.Identity()], image, Windows((8, 8, 8)), device=CPU, on_progress=lambda *n: told.append(n)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_gaussian_weights_give_what_monai_gives_with_them() -> None:
    """MONAI cuts its own Gaussian at a thousandth of the peak, which at the volume's faces weighs two windows
    alike that lie at different distances; so it is handed the uncut one."""
    from monai.inferers import sliding_window_inference

    image, network = torch.randn(2, 24, 24, 40), Smooth().eval()
    ours = window_logits([network], image, Windows((16, 16, 16)), device=CPU)
    line = gaussian_profile(16)
    weight = line[:, None, None] * line[:, None] * line
    with torch.inference_mode():
        theirs = sliding_window_inference(image[None], (16, 16, 16), 1, network, 0.5, roi_weight_map=weight)
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("limit", [1, 40_000, 2**26])
def test_slabs_follow_each_other_and_are_the_volume(axis, limit, monkeypatch) -> None:
    monkeypatch.setattr(window_sum, "SLAB_BYTES", limit)
    image, network = torch.randn(2, 20, 9, 40), Smooth().eval()
    windows = Windows((16, 12, 16), overlap=0.6, batch_size=3)
    slabs = list(window_slabs([network], image, windows, device=CPU, axis=axis))
    assert slabs[0].start == 0 and slabs[-1].stop == image.shape[1 + axis]
    assert all(a.stop == b.start for a, b in itertools.pairwise(slabs))
    assert all(slab.planes.is_contiguous() and slab.axis == axis for slab in slabs)
    together = torch.cat([slab.planes for slab in slabs]).movedim(0, axis + 1)
    torch.testing.assert_close(together, window_logits([network], image, windows, device=CPU))


class Counting(nn.Module):
    """Says how many windows it saw; runs out of memory above some."""

    def __init__(self, room: int = 1000) -> None:
        super().__init__()
        self.room, self.batches = room, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(len(x))
        return x + 1


def test_windows_without_content_are_computed_once() -> None:
    image = torch.full((2, 8, 8, 64), -3.0)
    image[:, :, :, :12] = torch.randn(2, 8, 8, 12)
    network, windows = Counting(), Windows((8, 8, 8), overlap=0)
    torch.testing.assert_close(window_logits([network], image, windows, device=CPU), image + 1)
    assert sum(network.batches) == 3  # two with content, and one for all the others


@pytest.mark.parametrize("shape", [(20, 17, 33), (9, 40, 16)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_windows_cut_from_a_copy_on_the_device_give_the_same_bits(shape, batch_size, monkeypatch) -> None:
    image, network = torch.randn(2, *shape), Smooth().eval()
    image[:, :, :, :8] = 1.5  # uniform windows, too
    windows = Windows((8, 8, 8), batch_size=batch_size, mirror_axes=(1,))
    expected = window_logits([network], image, windows, device=CPU)
    cut = []
    original = window_source.WindowSource.cut
    monkeypatch.setattr(window_source, "free_bytes", lambda device: 2**30)  # as a GPU would answer
    monkeypatch.setattr(
        window_source.WindowSource, "cut", lambda self, boxes: cut.append(got := original(self, boxes)) or got
    )
    assert torch.equal(window_logits([network], image, windows, device=CPU), expected)
    assert cut and not any(cut)  # there was a copy, and no list keeps its windows alive


def test_a_copy_on_the_device_is_given_back_if_memory_runs_out(monkeypatch) -> None:
    class Short(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.tries += 1
            if self.tries == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    monkeypatch.setattr(window_source, "free_bytes", lambda device: 2**30)
    image, said = torch.randn(1, 8, 8, 32), []
    network = Short()
    network.tries = 0
    slabs = window_slabs(
        [network], image, Windows((8, 8, 8), overlap=0), device=CPU, axis=0, on_message=said.append
    )
    torch.testing.assert_close(torch.cat([slab.planes for slab in slabs]).movedim(0, 1), image + 1)
    assert said == ["cpu: out of memory; the windows are now summed on the CPU"]
    with pytest.raises(RunError, match="a single window"):  # there is nothing more to give back
        list(window_slabs([Counting(room=0)], image, Windows((8, 8, 8)), device=CPU))


class NotedStreams:
    """Notes the order of what is queued."""

    def __init__(self, events: list[str]) -> None:
        self.events, self.marks = events, 0

    @contextmanager
    def aside(self):
        self.events.append("copy")
        yield

    def mark(self):
        self.marks += 1
        return self.marks

    def join(self, mark, tensors):
        self.events.append(f"join {mark} of {len(list(tensors))}")


def test_windows_that_do_not_fit_on_the_device_are_copied_ahead(monkeypatch) -> None:
    """The copy for a pass is queued when the pass before is, and joined before its own; as on a GPU."""
    events: list[str] = []

    class Noted(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            events.append(f"pass of {len(x)}")
            return super().forward(x)

    image, windows = torch.randn(1, 8, 24, 16), Windows((8, 8, 8), overlap=0, batch_size=2)
    expected = window_logits([Counting()], image, windows, device=CPU)
    monkeypatch.setattr(window_source, "side_streams", lambda device: NotedStreams(events))
    assert torch.equal(window_logits([Noted()], image, windows, device=CPU), expected)
    assert events == [
        "copy", "join 1 of 2", "pass of 2", "copy", "join 2 of 2", "pass of 2", "copy", "join 3 of 2",
        "pass of 2",
    ]  # fmt: skip


def test_windows_are_not_copied_ahead_after_memory_ran_out(monkeypatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(window_source, "side_streams", lambda device: NotedStreams(events))
    image, network, said = torch.randn(1, 8, 8, 64), Counting(room=2), []
    windows = Windows((8, 8, 8), overlap=0, batch_size=8)
    found = window_logits([network], image, windows, device=CPU, on_message=said.append)
    torch.testing.assert_close(found, image + 1)
    assert said == [f"cpu: out of memory; now {n} windows per pass" for n in (4, 2)]
    assert events == ["copy", "join 1 of 8"]  # all windows were in the first batch


def test_too_little_memory_makes_the_batch_smaller_and_is_told_once() -> None:
    said: list[str] = []
    image = torch.randn(1, 8, 8, 64)
    network, windows = Counting(room=2), Windows((8, 8, 8), overlap=0, batch_size=8)
    slabs = window_slabs([network], image, windows, device=CPU, axis=0, on_message=said.append)
    assert sum(len(slab.planes) for slab in slabs) == 8
    assert network.batches == [2, 2, 2, 2]
    assert said == [f"cpu: out of memory; now {n} windows per pass" for n in (4, 2)]
    with pytest.raises(RunError, match="out of memory: a single window needs"):
        list(window_slabs([Counting(room=0)], image, windows, device=CPU))


@pytest.mark.parametrize("words", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "you tried to allocate 9 bytes"])
def test_libraries_say_in_their_own_words_that_memory_is_out(words) -> None:
    """Only what is known to mean it is taken so: other faults of a network are not retried."""

    class Scarce(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise RuntimeError(words)
            return super().forward(x)

    image, windows = torch.randn(1, 8, 8, 32), Windows((8, 8, 8), overlap=0, batch_size=4)
    slabs = window_slabs([Scarce()], image, windows, device=CPU, axis=0)
    if "ALLOC_FAILED" not in words:
        with pytest.raises(RuntimeError, match=words):
            list(slabs)
        return
    assert sum(len(slab.planes) for slab in slabs) == 8


def test_a_network_that_answers_nan_is_told() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x > 2, torch.nan, x)

    image = torch.zeros(1, 20, 8, 8)
    image[0, 17, 3, 3] = 5
    with pytest.raises(CaseError, match="NaN or Inf"):
        window_logits([Broken()], image, Windows((8, 8, 8)), device=CPU)


@pytest.mark.slow
def test_memory_does_not_grow_with_classes_times_voxels() -> None:
    """104 classes on 128 x 128 x 512 prepared voxels are 3.5 GB of logits, and 7 GB on the native grid."""
    code = """
import resource, torch
from types import SimpleNamespace
import numpy as np
from mambamed.geometry import orientation_of
from mambamed.volumes.restore import labels_of_slabs
from mambamed.volumes.forward import class_logits
from mambamed.volumes.sliding_window import Windows, window_slabs
from mambamed.preparation.grid import CaseGeometry

class Stub(torch.nn.Module):
    def forward(self, x):
        return x.expand(1, 104, *x.shape[2:]) * torch.arange(104.0).view(1, -1, 1, 1, 1)

shape = (128, 128, 512)
native = (256, 256, 512)
eye = np.diag([0.5, 0.5, 1.0, 1.0])
rows = tuple(map(tuple, eye.tolist()))
geometry = CaseGeometry(native, rows, orientation_of(eye), (0, 0, 0), native, shape)
task = SimpleNamespace(by_regions=False, values=tuple(range(104)), order=tuple(range(104)))
image = torch.full((1, *shape), -1.0)
image[..., 256:] = 1
device = torch.device("cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
labels = labels_of_slabs(window_slabs([Stub()], image, Windows((64, 64, 64)), device=device), geometry, task)
assert set(np.unique(labels)) == {0, 103}, np.unique(labels)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1200  # MB: a sum one window thick is 436, a window's logits 109
