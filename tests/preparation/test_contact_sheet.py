import io

import matplotlib.image
import numpy as np

from mambamed.preparation.contact_sheet import encode_png, sheet_of, write_index

RNG = np.random.default_rng(5)


def pixels(data: bytes) -> np.ndarray:
    """As Matplotlib's reader sees the file."""
    return (matplotlib.image.imread(io.BytesIO(data), format="png")[..., :3] * 255).round().astype(np.uint8)


def test_a_picture_is_read_back_as_it_was() -> None:
    picture = RNG.integers(0, 256, (7, 11, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels(encode_png(picture)), picture)


def test_planes_stand_as_radiologists_look_at_them() -> None:
    """A bright block at the patient's right, in front, on top; axes are RAS+."""
    image = np.zeros((1, 30, 30, 30), np.float16)
    image[0, 20:, 20:, 20:] = 1
    label = np.zeros((30, 30, 30), np.uint8)
    label[24:27, 24:27, 24:27] = 1
    picture = pixels(sheet_of(image, (1, 1, 1), label))
    axial, coronal, sagittal = np.split(picture[:192], [196, 392], axis=1)
    for plane, (row, column) in ((axial, (0, 0)), (coronal, (0, 0)), (sagittal, (0, 1))):
        corners = [[plane[10, 10, 0], plane[10, 180, 0]], [plane[180, 10, 0], plane[180, 180, 0]]]
        assert np.argwhere(np.array(corners) > 200).tolist() == [[row, column]]


def test_labels_are_outlined_in_color_and_points_crossed() -> None:
    image = RNG.normal(size=(2, 20, 24, 12)).astype(np.float16)
    label = np.zeros((20, 24, 12), np.uint8)
    label[5:12, 6:15, 3:9] = 2
    plain, outlined = pixels(sheet_of(image, (1, 1, 3))), pixels(sheet_of(image, (1, 1, 3), label))
    crossed = pixels(sheet_of(image, (1, 1, 3), points={"nose": np.array([3.0, 4.0, 5.0])}))
    assert not np.ptp(plain, axis=2).any()  # gray
    assert (outlined == [86, 180, 233]).all(2).any()
    assert (crossed == [255, 60, 60]).all(2).sum() >= 3 * 2 * 5
    # 20 x 24 x 36 mm: 36 mm are 192 pixels; two channels, two rows, four pixels between.
    assert plain.shape == (2 * 192 + 2 * 4, 107 + 107 + 128 + 3 * 4, 3)


def test_the_page_shows_every_case_and_runs_nothing(tmp_path) -> None:
    write_index(tmp_path / "index.html", "a <b>", {"c 1": ["<script>alert(1)</script>"], "d": []})
    page = (tmp_path / "index.html").read_text()
    assert 'src="c%201.png"' in page
    assert "a &lt;b&gt;: 2 cases" in page
    assert "<script" not in page
