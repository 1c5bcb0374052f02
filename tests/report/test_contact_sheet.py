import io

import matplotlib.image
import numpy as np

from mambamed.report.contact_sheet import Marks, SeenPatch, sheet_of, sheet_of_patches, write_index

RNG = np.random.default_rng(5)


def pixels(data: bytes) -> np.ndarray:
    """As Matplotlib's reader sees the file."""
    return (matplotlib.image.imread(io.BytesIO(data), format="png")[..., :3] * 255).round().astype(np.uint8)


def test_planes_stand_as_radiologists_look_at_them() -> None:
    """A bright block at the patient's right, in front, on top; axes are RAS+."""
    image = np.zeros((1, 30, 30, 30), np.float16)
    image[0, 20:, 20:, 20:] = 1
    label = np.zeros((30, 30, 30), np.uint8)
    label[24:27, 24:27, 24:27] = 1
    picture = pixels(sheet_of(image, (1, 1, 1), label))[16:]  # below the channel's name
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
    assert (crossed == [230, 159, 0]).all(2).sum() >= 3 * 2 * 5
    # 20 x 24 x 36 mm: 36 mm are 192 pixels; two channels, two rows, four pixels and a line of text between.
    assert plain.shape == (2 * (16 + 192 + 4), 107 + 107 + 128 + 3 * 4, 3)


def test_the_sheet_names_channels_labels_and_landmarks() -> None:
    """Each name changes the pixels of its place alone: above the row, or in the legend below."""
    image, label = np.zeros((1, 20, 20, 20), np.float16), np.zeros((20, 20, 20), np.uint8)
    label[5:12, 6:15, 3:9] = 2
    at = {"nose": np.array([3.0, 4.0, 5.0])}

    def sheet(**names):
        return pixels(sheet_of(image, (1, 1, 1), label, at, **names))

    plain = sheet(channels=["T1w"], labels={"a": 1, "left lung": 2})
    for other, rows in (
        (sheet(channels=["FLAIR"], labels={"a": 1, "left lung": 2}), slice(0, 16)),
        (sheet(channels=["T1w"], labels={"a": 1, "heart": 2}), slice(-16, None)),
    ):
        differs = (plain != other).any(axis=(1, 2))
        assert differs[rows].any()
        differs[rows] = False
        assert not differs.any()
    # A landmark keeps its color where others are absent.
    second = sheet(landmarks=["ear", "nose"])
    assert (second == [86, 180, 233]).all(2).sum() > (plain == [86, 180, 233]).all(2).sum()


def test_planes_of_a_channel_have_one_gray_window() -> None:
    """A block of value 2 is equally gray in every plane, though another plane holds a brighter one."""
    image = np.zeros((1, 40, 40, 40), np.float16)
    image[0, 10:30, 10:30, 10:30] = 2
    image[0, 12:28, 12:28, 34:40] = 4  # in the coronal and sagittal planes, not in the axial one
    picture = pixels(sheet_of(image, (1, 1, 1)))[16:208]
    grays = [picture[130, 196 * k + 70, 0] for k in range(3)]
    assert len(set(grays)) == 1
    assert 0 < grays[0] < 255


def test_the_page_shows_every_case_and_runs_nothing(tmp_path) -> None:
    lines = {"c 1": ["<script>alert(1)</script>"], "d": []}
    write_index(tmp_path / "index.html", "a <b>", lines, {"<script>": "#123456"})
    page = (tmp_path / "index.html").read_text()
    assert 'src="c%201.png"' in page
    assert "a &lt;b&gt;: 2 cases" in page
    assert 'style="color:#123456"' in page
    assert "<script" not in page


def test_a_patch_has_its_reference_above_its_prediction() -> None:
    """Label 1 is drawn in #E69F00 in the first row, label 2 in #56B4E9 in the second; planes are the same."""
    image = RNG.normal(size=(20, 20, 20)).astype(np.float32)
    truth, found = np.zeros((2, 20, 20, 20), np.int32)
    truth[5:12, 6:15, 3:9], found[5:12, 6:15, 3:9] = 1, 2
    patch = SeenPatch("p1", image, Marks(truth), Marks(found))
    picture = pixels(sheet_of_patches([patch, patch], (1, 1, 1), {"a": 1, "b": 2}, []))
    assert len(picture) % 2 == 0 and np.array_equal(*np.split(picture, 2))  # one below the other
    upper, lower = picture[16:208], picture[212 + 16 : 212 + 208]
    first, second = ((row == [230, 159, 0]).all(2) for row in (upper, lower))
    assert first.any() and not second.any()
    assert np.array_equal(first, (lower == [86, 180, 233]).all(2))
