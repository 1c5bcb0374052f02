"""Digits that `int` does not read are rejected like other text."""

import pytest

from mambamed.converters import convert
from mambamed.errors import MambamedError
from mambamed.evaluation.pairing import read_regions
from mambamed.jobs.shard import chosen_shard
from mambamed.run.device import choose_device
from mambamed.training.seeds import chosen_seeds
from mambamed.training.training import chosen_folds
from tests.converters.dataset_folders import msd, nnunet

STRANGE = ["²", "9" * 5000, "١"]


@pytest.mark.parametrize("digits", STRANGE)
def test_strange_digits_in_options_are_rejected(digits, tmp_path) -> None:
    for read in (
        chosen_seeds,
        lambda text: read_regions(f"liver={text}"),
        lambda text: chosen_shard(f"1/{text}"),
        lambda text: choose_device(f"cuda:{text}"),
        lambda text: chosen_folds(text, 5, tmp_path),
    ):
        with pytest.raises(MambamedError):
            read(digits)


@pytest.mark.parametrize("digits", STRANGE)
def test_strange_digits_in_documents_are_rejected(digits, tmp_path) -> None:
    msd(tmp_path / "a", labels={"0": "background", digits: "liver"})
    nnunet(tmp_path / "b", channel_names={"0": "CT", digits: "PET"})
    for folder in ("a", "b"):
        with pytest.raises(MambamedError, match=r"dataset\.json"):
            convert(tmp_path / folder)


def test_the_environment_of_a_cluster_may_hold_anything() -> None:
    assert chosen_shard(None, {"RANK": "²", "WORLD_SIZE": "³"}).count == 1
