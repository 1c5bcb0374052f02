"""Labels that nothing names: those that the label maps hold."""

import numpy as np

from mambamed.converters.found_labels import labels_in
from mambamed.io.images import Image, write_image
from mambamed.progress import Silence
from tests.converters.small_images import LPS, write_small


def test_labels_are_those_that_the_maps_hold(tmp_path) -> None:
    maps = [write_small(tmp_path / f"{n}.nii.gz", value=n) for n in (1, 2)]
    maps += [None, tmp_path / "absent.nii.gz"]
    assert labels_in(maps) == {"background": 0, "label_1": 1, "label_2": 2}
    whole = np.arange(10**3, dtype=np.int16).reshape(10, 10, 10)
    write_image(tmp_path / "image.nii.gz", whole, Image(whole, LPS))
    assert labels_in([tmp_path / "image.nii.gz"]) == {"background": 0}


def test_reading_the_label_maps_is_told(tmp_path) -> None:
    told = []

    class Told(Silence):
        def start(self, stage: str, total: int, unit: str) -> None:
            told.append((stage, total, unit))

        def advance(self, count: int = 1, **facts: str | float) -> None:
            told.append(count)

    labels_in([write_small(tmp_path / "1.nii.gz", value=1), None, tmp_path / "absent.nii.gz"], Told())
    assert told == [("finding labels", 2, "label maps"), 1, 1]
