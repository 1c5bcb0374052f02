"""Numbers about a case beside its image: read, standardized on training cases, heard by the network."""

import numpy as np
import pytest
import torch
from torch import nn

from mambamed.errors import CaseError
from mambamed.tasks.covariates import WithCovariates, covariate_numbers, with_covariates

WANTED = {"age": "number", "sex": ("F", "M")}


class Deaf(nn.Module):
    """Says nothing of the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 1
        assert torch.isfinite(x).all()
        return torch.zeros(len(x), 2)


def told(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(
        np.stack([with_covariates(np.zeros((1, 2, 3, 4), np.float32), v) for v in values])
    )


def test_cells_become_numbers_and_indicators() -> None:
    assert covariate_numbers({"age": "71.5", "sex": "F", "more": "x"}, WANTED, "a").tolist() == [71.5, 0]
    unknown = covariate_numbers({"sex": "n/a"}, WANTED, "a")
    assert np.isnan(unknown).all()


@pytest.mark.parametrize(("cells", "says"), [({"age": "old"}, "'old'"), ({"sex": "X"}, "one of F, M")])
def test_a_cell_that_cannot_be_meant_is_named_with_its_case(cells, says) -> None:
    with pytest.raises(CaseError, match=f"sub-1: .*{says}"):
        covariate_numbers(cells, WANTED, "sub-1")


def test_numbers_are_standardized_by_the_training_cases_and_the_unknown_counts_as_their_mean() -> None:
    network = WithCovariates(Deaf(), 1, 2, 2)
    training = np.array([[60.0, 0], [80, 1], [np.nan, 1]])
    network.standardize_by(training)
    assert network.mean.tolist() == pytest.approx([70, 2 / 3])
    assert network.sd.tolist() == pytest.approx([10, np.std([0, 1, 1])])
    nn.init.ones_(network.linear.weight)
    with torch.no_grad():
        logits = network(told(np.array([[90.0, np.nan], [np.nan, np.nan]])))
    # two standard deviations and one absence; two absences
    assert logits[:, 0].tolist() == pytest.approx([3, 2])


def test_at_first_the_image_alone_decides() -> None:
    assert (WithCovariates(Deaf(), 1, 2, 2)(told(np.array([[70.0, 1.0]]))) == 0).all()


def test_a_number_that_never_varies_or_is_never_known_gives_finite_answers() -> None:
    network = WithCovariates(Deaf(), 1, 2, 2)
    network.standardize_by(np.array([[70.0, np.nan], [70, np.nan]]))
    nn.init.ones_(network.linear.weight)
    logits = network(told(np.array([[70.0, 1.0], [np.nan, np.nan]])))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert network.linear.weight.grad is not None
    assert torch.isfinite(network.linear.weight.grad).all()


def test_mean_and_sd_are_part_of_the_weights() -> None:
    network = WithCovariates(Deaf(), 1, 1, 2)
    network.standardize_by(np.array([[1.0], [3.0]]))
    other = WithCovariates(Deaf(), 1, 1, 2)
    other.load_state_dict(network.state_dict())
    assert other.mean.tolist() == [2]
