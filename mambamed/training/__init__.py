"""From a recipe and a prepared dataset to a run folder: the loop, its state, its schedule, its logs."""

from mambamed.training.session import FoldSummary
from mambamed.training.training import TrainSummary, train

__all__ = ["FoldSummary", "TrainSummary", "train"]
