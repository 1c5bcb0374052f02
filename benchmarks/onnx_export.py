"""Every network as ONNX: its outputs against torch's, and the time of ONNX Runtime against mambamed's.

    python benchmarks/onnx_export.py [NETWORK ...] [--shape 32 32 32] [--write]
    python benchmarks/onnx_export.py --recipes [RECIPE ...] [--shape X Y Z] [--write]

Prints a row of a table in docs/deployment.md per network, small as in the tests, or per recipe, with the
recipe's network and patch (`--shape`: a smaller one). All parameters get noise. A row has the largest
difference of the outputs, as a fraction of what varies over images and voxels; the share of voxels (of a
classifier: images) with the same largest output; and the ratio of the CPU times of a forward pass of one
image on one thread, measured alternately. Of a small network, the outputs of three images are compared, and
the smallest time of several repetitions counts on each side; of a recipe, those of one image, and the time of
one pass after the first. `--write` replaces these rows of the page.
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
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sections import replace_rows
from mambamed.networks import NETWORKS
from mambamed.programs import onnx_file
from mambamed.programs.tracing import traced
from mambamed.recipe import load_recipe, shipped_recipes
from mambamed.run.cost import manifest_of
from mambamed.run.model import make_network
from tests.networks.small_networks import difference_of, randomized, small, varied_images

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "deployment.md"
_COLUMNS = "difference | same label | mambamed, {0} | ONNX Runtime, {0} | ratio | file, MB |"
_HEADERS = {
    "onnx": ("| network | " + _COLUMNS.format("ms"), "|---" * 7 + "|"),
    "onnx-recipes": ("| recipe | network | patch | " + _COLUMNS.format("s"), "|---" * 9 + "|"),
}
_RECIPES = (
    "brats_nnmamba",
    "brats_segmamba",
    "brats_umamba_bot",
    "brats_nnunet",
    "msd_braintumor_mamba_multi",
    "adni_nnmamba",
)


def seconds_of(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def network_row(name: str, shape: tuple[int, int, int], folder: Path) -> str:
    """A small network's row."""
    network = randomized(small(name))
    shape = getattr(network, "grid", None) or shape  # of learned positions
    return f"| {name} | {_cells(network, varied_images(shape), folder, repetitions=5, unit=1e3)}"


def recipe_row(name: str, shape: tuple[int, int, int] | None, folder: Path) -> str:
    """The row of a recipe's network, built as training would."""
    recipe = load_recipe(name)
    manifest = manifest_of(recipe)
    shape = shape or recipe.training.patch_size
    assert shape, f"{name} leaves the patch to the dataset: give --shape"
    image = torch.randn(1, len(manifest.channels), *shape, generator=torch.Generator().manual_seed(1))
    cells = _cells(randomized(make_network(recipe, manifest)), image, folder, repetitions=1, unit=1)
    return f"| {name} | {recipe.network.name} | {' x '.join(map(str, shape))} | {cells}"


def _cells(network: nn.Module, images: Tensor, folder: Path, *, repetitions: int, unit: float) -> str:
    """The cells that both tables have; times in seconds times `unit`."""
    _, channels, x, y, z = images.shape
    with torch.inference_mode():
        expected = network(images)  # before the export, which needs the choice of a scan
    files = onnx_file.write_onnx(traced(network, channels, (x, y, z)), folder / "model.onnx")
    options = onnx_file.session_options()
    session = onnxruntime.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])
    image = images[:1]
    feed = {"image": image.numpy()}
    with torch.inference_mode():
        found = torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])
        times = [
            (seconds_of(lambda: network(image)), seconds_of(lambda: session.run(["logits"], feed)))
            for _ in range(repetitions)
        ]
    difference = difference_of(found, expected)
    same = float((found.argmax(1) == expected.argmax(1)).float().mean())
    ours, theirs = (min(each) for each in zip(*times, strict=True))
    size = sum(each.stat().st_size for each in files) / 1e6
    return (
        f"{difference:.0e} | {same:.4%} | {ours * unit:.1f} | {theirs * unit:.1f} | {theirs / ours:.1f} | "
        f"{size:.1f} |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--recipes", action="store_true")
    parser.add_argument("--shape", nargs=3, type=int)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    shape = tuple(asked.shape) if asked.shape else None
    key = "onnx-recipes" if asked.recipes else "onnx"
    order = list(shipped_recipes() if asked.recipes else NETWORKS)
    print(*_HEADERS[key], sep="\n")
    for name in asked.names or (_RECIPES if asked.recipes else NETWORKS):
        with tempfile.TemporaryDirectory() as folder:
            if asked.recipes:
                line = recipe_row(name, shape, Path(folder))
            else:
                line = network_row(name, shape or (32, 32, 32), Path(folder))
        print(line, flush=True)
        if asked.write:
            replace_rows(_PAGE, key, "onnx_export.py", _HEADERS[key], [line], order)


if __name__ == "__main__":
    main()
