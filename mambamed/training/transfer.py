"""Initial weights from another run."""

from __future__ import annotations

from pathlib import Path

from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError
from mambamed.run.checkpoint import check_finite, read_checkpoint
from mambamed.run.export import open_model
from mambamed.schema_errors import some_of
from mambamed.training.state import TrainingState


def load_initial_weights(state: TrainingState, source: Path, fold: FoldName, strict: bool = False) -> str:
    """Copy another run's weights into the network of a state at step 0, if names and shapes match.

    `source` is a run folder or a model file. The weights of the same fold are used, or of its first fold.

    Returns a line that reports which tensors were loaded, which were not, and which were ignored.

    Raises:
        ModelError: the run does not exist, no tensor matches, one is not finite, or, with `strict`, not all
            of both networks match.
    """
    other = open_model(source)
    folds = other.chosen_folds("all")
    path = other.weights(fold if fold in folds else folds[0])
    content = read_checkpoint(path, parts=("network", "ema"))
    weights = content.part("ema") or content.part("network")
    own = state.network.state_dict()
    fitting = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    if not fitting:
        raise ModelError(f"{path}: no tensor matches {type(state.network).__name__}. Use another run.")
    reached = {own[n].data_ptr() for n in fitting}  # a module that is used twice has two names
    new = [n for n in own if own[n].data_ptr() not in reached]
    left = [n for n in weights if n not in fitting]
    line = f"weights of {path}: {len(fitting)} of the {len(weights)} tensors in the file match, "
    line += f"for {len(own) - len(new)} of the {len(own)} tensors of the network"
    line += f"; new: {some_of(new, most=3)}" if new else ""
    line += f"; ignored: {some_of(left, most=3)}" if left else ""
    if strict and (new or left):
        raise ModelError(f"{line}. Remove --init-strict to load those that match.")
    check_finite(fitting, path)
    networks = [state.network] + ([state.average.network] if state.average else [])
    for network in networks:
        network.load_state_dict(fitting, strict=False)
    return line
