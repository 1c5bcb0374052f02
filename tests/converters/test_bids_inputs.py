"""Which images of a BIDS dataset a model reads; the suffixes and entities are those of the specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from mambamed.converters.bids_inputs import Pattern, find_sessions, pairs_of, patterns_of
from mambamed.errors import DatasetError, RecipeError


def dataset(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name.split("_")[0] / "anat" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_the_channels_of_brats_are_told_apart_by_the_contrast_agent(tmp_path) -> None:
    names = ("ce-gad_T1w", "T1w", "T2w", "FLAIR", "desc-x_dseg")
    root = dataset(tmp_path, *(f"sub-1_{name}" for name in names))
    (session,) = find_sessions(root)
    patterns = patterns_of(["t1n", "t1c", "t2w", "t2f"], {}, [session], root)
    assert {name: str(pattern) for name, pattern in patterns.items()} == {
        "t1n": "T1w",
        "t1c": "ce-*_T1w",
        "t2w": "T2w",
        "t2f": "FLAIR",
    }
    chosen = session.chosen(patterns, {})
    assert [image.path.name for image in chosen.images.values()] == [
        f"sub-1_{name}.nii.gz" for name in ("T1w", "ce-gad_T1w", "T2w", "FLAIR")
    ]


def test_a_name_without_a_suffix_is_the_only_one_or_must_be_given(tmp_path) -> None:
    root = dataset(tmp_path, "sub-1_T2w")
    assert str(patterns_of(["MRI"], {}, find_sessions(root), root)["MRI"]) == "T2w"
    dataset(tmp_path, "sub-1_FLAIR")
    with pytest.raises(DatasetError, match=r"channel MRI; the images have FLAIR, T2w.*--channels MRI=T1w"):
        patterns_of(["MRI"], {}, find_sessions(root), root)
    with pytest.raises(DatasetError, match="channels a and b both are T2w"):
        patterns_of(["a", "b"], {"a": "T2w", "b": "T2w"}, find_sessions(root), root)
    with pytest.raises(RecipeError, match="the model reads a, and no 'c'"):
        patterns_of(["a"], {"c": "T2w"}, find_sessions(root), root)


def test_a_filter_chooses_by_entity_and_none_means_without_it(tmp_path) -> None:
    (session,) = find_sessions(dataset(tmp_path, "sub-1_acq-a_T1w", "sub-1_acq-b_T1w", "sub-1_T1w"))
    for label, name in (("a", "sub-1_acq-a_T1w"), ("b", "sub-1_acq-b_T1w"), ("none", "sub-1_T1w")):
        kept = session.chosen({"T1": Pattern.of("T1w")}, {"acq": label, "run": "1"})
        shown = [image.path.name for image in kept.images.values()]
        # an image without the entity is not excluded by a label, so that the choice is still ambiguous
        assert shown == ([f"{name}.nii.gz"] if label == "none" else []), kept.fault
    precise = session.chosen({"T1": Pattern.of("acq-b_T1w")}, {})
    assert precise.images["T1"].path.name == "sub-1_acq-b_T1w.nii.gz"


@pytest.mark.parametrize("text", ["a", "a=", "=b", "a=1,a=2"])
def test_options_that_are_no_pairs_are_refused(text) -> None:
    with pytest.raises(RecipeError, match="--filter"):
        pairs_of(text, "--filter")
    assert pairs_of(["a=1", "b=2,c=3"], "--filter") == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize("text", ["T1w/..", "x_T1w", "", "ce-_T1w"])
def test_patterns_that_are_none_are_refused(text) -> None:
    with pytest.raises(RecipeError, match="--channels"):
        Pattern.of(text)
