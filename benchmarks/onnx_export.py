"""Every network as ONNX: its outputs against torch's, and the time of ONNX Runtime against mambamed's.

    python benchmarks/onnx_export.py [NETWORK ...] [--shape 32 32 32]

Prints a row of the table in docs/deployment.md per network, small as in the tests, with noise in all its
parameters: the largest difference of the outputs of three images, as a fraction of what varies over images
and voxels; the share of voxels (of a classifier: images) with the same largest output; and the ratio of the
CPU times of a forward pass of one image on one thread, measured alternately; the smallest of several
repetitions counts on each side.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mambamed.networks import NETWORKS
from mambamed.programs import onnx_file
from mambamed.programs.exporting import write_checked
from tests.networks.small_networks import difference_of, randomized, small, varied_images

_REPETITIONS = 5


def seconds_of(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def row(name: str, shape: tuple[int, ...], folder: Path) -> str:
    """One network's row of the table."""
    network = randomized(small(name))
    shape = getattr(network, "grid", None) or shape  # of learned positions
    files, _ = write_checked(network, (2, *shape), folder / f"{name}.onnx", onnx_file)
    options = onnx_file.session_options()
    session = onnxruntime.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])
    images = varied_images(shape)
    image = images[:1]
    feed = {"image": image.numpy()}
    with torch.inference_mode():
        (found,) = session.run(["logits"], {"image": images.numpy()})
        expected = network(images)
        difference = difference_of(torch.from_numpy(found), expected)
        same = float((torch.from_numpy(found).argmax(1) == expected.argmax(1)).float().mean())
        times = [
            (seconds_of(lambda: network(image)), seconds_of(lambda: session.run(["logits"], feed)))
            for _ in range(_REPETITIONS + 1)
        ][1:]
    ours, theirs = (min(each) for each in zip(*times, strict=True))
    times = f"{ours * 1e3:.1f} | {theirs * 1e3:.1f} | {theirs / ours:.1f}"
    return f"| {name} | {difference:.0e} | {same:.4%} | {times} | {files[0].stat().st_size / 1e6:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--shape", nargs=3, type=int, default=[32, 32, 32])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | difference | same label | mambamed, ms | ONNX Runtime, ms | ratio | file, MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.networks:
            print(row(name, tuple(asked.shape), Path(folder)), flush=True)


if __name__ == "__main__":
    main()
