"""`export --format onnx` and `torch-export`: a run as a program, and its description.

```
model.onnx        the network: the mean of the logits of its folds
model.onnx.data   its weights, if they exceed 2 GB
model.onnx.json   how images become its input, and its outputs answers; `documents.program.Program`
```
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import mambamed
from mambamed.documents.program import Program, ProgramFile
from mambamed.documents.splits import FoldName
from mambamed.errors import MambamedError, ModelError, RecipeError
from mambamed.io.atomic import open_atomic
from mambamed.io.lock import LOCK_NAME, waiting_lock
from mambamed.programs.description import described
from mambamed.programs.tracing import MeanOf, traced
from mambamed.run.export import ExportSummary
from mambamed.run.export_outputs import export_outputs
from mambamed.run.folder import Run
from mambamed.run.model import load_network
from mambamed.run.provenance import sha256_of
from mambamed.terminal import command_line

Kind = Literal["onnx", "torch-export"]
SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
LARGEST_DIFFERENCE = 1e-3  # from the outputs of mambamed, as a fraction of their range
_BLOCK = 2**24  # bytes that are copied at once


def export_program(
    run_folder: Path,
    output: Path | None = None,
    *,
    kind: Kind,
    folds: str = "all",
    checkpoint: Literal["best", "last"] = "best",
    overwrite: bool = False,
) -> ExportSummary:
    """Write the networks of a run as one program that runs without mambamed.

    The program is compared with the networks on a random patch before it gets its name.

    Args:
        run_folder: what `train` wrote.
        output: the file, `*.onnx` or `*.pt2` (default: `model.onnx` or `model.pt2` in the run folder).
        folds: "all" that are trained, or numbers, e.g. "0,2": the program averages their logits.
        checkpoint: "best" or "last".
        overwrite: replace output files with other content.

    Raises:
        RecipeError: an output is somebody else's.
        ModelError: no such run, fold or checkpoint; another suffix; a package is not installed; the model
            has covariates, or classifies with several folds; the program does not compute the same.
        RunError: a file cannot be written.
    """
    run = Run.open(run_folder)
    default = f"model{SUFFIXES[kind]}"
    output = output or run_folder / default
    _check(run, output, kind)
    chosen = run.chosen_folds(folds)
    if run.recipe.task == "classification" and len(chosen) > 1:
        raise ModelError(
            f"{run_folder}: a program averages logits, and classify averages the probabilities of "
            f"{len(chosen)} folds. Export one fold each, e.g. --folds {chosen[0]}."
        )
    format_module = _format(kind)
    names = [output.name, f"{output.name}.data", f"{output.name}.json"]
    with export_outputs(run_folder, output, default, names, overwrite) as replaceable:
        if not replaceable:
            _check_replaceable(output)
        network = _network(run, chosen, checkpoint)
        with tempfile.TemporaryDirectory() as place:
            files, difference = write_checked(
                network,
                (len(run.manifest.channels), *run.plan.patch_size),
                Path(place) / output.name,
                format_module,
            )
            description = described(
                run,
                chosen,
                version=mambamed.__version__,
                program=kind,
                opset=format_module.OPSET if kind == "onnx" else None,
                files=tuple(
                    ProgramFile(name=each.name, bytes=each.stat().st_size, sha256=sha256_of(each))
                    for each in files
                ),
                checkpoint=checkpoint,
                largest_difference=difference,
            )
            _put(files, description, output)
    return ExportSummary(
        output=output,
        folds=tuple(chosen),
        bytes=sum(each.bytes for each in description.files),
        sha256=description.files[0].sha256,
        next_command=command_line("schema", "program"),
    )


def write_checked(
    network: nn.Module, shape: Sequence[int], path: Path, format_module: ModuleType
) -> tuple[list[Path], float]:
    """Write a network as a program and compare the outputs of both.

    Args:
        network: in evaluation mode, on the CPU.
        shape: `(C, X, Y, Z)` of its input.
        format_module: `onnx_file` or `torch_file`.

    Returns: the files, and the largest difference as a fraction of the range of the network's outputs.

    Raises ModelError: the difference is too large, or the network cannot be written.
    """
    channels, x, y, z = shape
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image).numpy()
    write, run = _functions(format_module)
    try:
        files = write(traced(network, channels, (x, y, z)), path)
        found = run(path, image)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of exporters and runtimes, which have no common class
        fact = str(error).strip().partition("\n")[0][:300]
        raise ModelError(f"{path.name}: the network cannot be exported: {fact}. Report this.") from error
    difference = float(np.abs(found - expected).max() / max(float(np.ptp(expected)), 1e-30))
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelError(
            f"{path.name}: its outputs differ from the network's by {difference:.1e} of their range, "
            f"expected at most {LARGEST_DIFFERENCE:g}. Nothing was written. Report this."
        )
    return files, difference


def _functions(
    format_module: ModuleType,
) -> tuple[Callable[[Any, Path], list[Path]], Callable[[Path, Tensor], np.ndarray]]:
    if hasattr(format_module, "write_onnx"):
        return format_module.write_onnx, format_module.run_onnx
    return format_module.write_torch_export, format_module.run_torch_export


def _check(run: Run, output: Path, kind: Kind) -> None:
    if output.suffix != SUFFIXES[kind]:
        raise ModelError(
            f"{output}: the name of a program for --format {kind} ends in {SUFFIXES[kind]}. "
            f"Use -o model{SUFFIXES[kind]}."
        )
    if run.recipe.dataset.covariates:
        names = ", ".join(run.recipe.dataset.covariates)
        raise ModelError(
            f"{run.root}: --format {kind}: the network reads covariates ({names}), which a program of images "
            "does not. Use --format mambamed."
        )


def _check_replaceable(output: Path) -> None:
    """Raise RecipeError, before any work, if a file is there that is not described as a program of ours."""
    if not output.exists():
        return
    try:
        known = Program.read(output.with_name(f"{output.name}.json")).files[0].sha256
    except MambamedError:
        known = ""
    if not output.is_file() or known != sha256_of(output):
        raise RecipeError(
            f"{output}: already exists, and is not a program with its description. Give another -o, or "
            "--overwrite."
        )


def _format(kind: Kind) -> ModuleType:
    """The module that writes a format; ModelError if its packages are not installed."""
    try:
        if kind == "onnx":
            from mambamed.programs import onnx_file as found
        else:
            from mambamed.programs import torch_file as found
    except ImportError as error:
        raise ModelError(
            f"--format {kind}: the package {error.name} is not installed. Run pip install 'mambamed[onnx]'."
        ) from error
    return found


def _network(run: Run, folds: Sequence[FoldName], checkpoint: str) -> nn.Module:
    networks = [load_network(run, fold, checkpoint) for fold in folds]
    return networks[0] if len(networks) == 1 else MeanOf(networks).eval()


def _put(files: Sequence[Path], description: Program, output: Path) -> None:
    """Write all files: the description first, the program last, and no other export in between.

    A first export that is killed here leaves a description without a program, and the same command completes
    it. One that replaces another program may leave that program, which is then not the one described.
    """
    lock = f"{LOCK_NAME}-{output.name}"
    with waiting_lock(output.parent, lock):
        try:
            with ExitStack() as complete:  # whose files get their names at its end, the first one last
                for each in files:
                    target = complete.enter_context(open_atomic(output.with_name(each.name)))
                    with each.open("rb") as source:
                        shutil.copyfileobj(source, target, _BLOCK)
                description.write(output.with_name(f"{output.name}.json"))
        finally:
            with suppress(OSError):  # Windows removes no open file
                (output.parent / lock).unlink()
