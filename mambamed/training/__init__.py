"""From a recipe and a prepared dataset to a run folder: the loop, its state, its schedule, its record."""

from mambamed.training.train import FoldSummary, TrainSummary, train

__all__ = ["FoldSummary", "TrainSummary", "train"]
