import matplotlib.image
import numpy as np

from mambamed.report.pictures import PicturedCase, draw_cases
from mambamed.report.planes import color_of, gray_window
from mambamed.report.progress import draw_progress


def test_outlines_are_drawn_where_the_mask_is(tmp_path) -> None:
    """Without a mask the picture is gray; with one it holds the outline's color (orange: red over blue)."""
    image = np.random.default_rng(0).normal(100, 10, (20, 24, 16)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[5:12, 6:14, 4:9] = 1
    case = PicturedCase("c", image, np.diag([1.0, 1.0, 2.0, 1.0]))
    draw_cases(tmp_path / "plain.png", [case])
    draw_cases(tmp_path / "outlined.png", [PicturedCase("c", image, case.affine, mask, np.roll(mask, 2, 0))])
    plain, outlined = (matplotlib.image.imread(tmp_path / f"{n}.png") for n in ("plain", "outlined"))
    assert np.allclose(plain[..., 0], plain[..., 2], atol=0.02)
    assert (outlined[..., 0] - outlined[..., 2] > 0.5).sum() > 200


def test_a_case_without_content_is_drawn_too(tmp_path) -> None:
    empty = np.zeros((8, 8, 8), np.int16)
    draw_cases(tmp_path / "a.png", [PicturedCase("<script>", empty, np.eye(4), empty, empty)], {"x": 1})
    assert (tmp_path / "a.png").stat().st_size > 0


def test_the_curves_of_a_training_are_drawn(tmp_path) -> None:
    row = {"loss": 1.0, "validation_loss": float("nan"), "dice": 0.5, "dice_a": 0.5, "dice_b": float("nan")}
    rows = [row | {"epoch": e, "learning_rate": 1e-3 / e, "seconds": 3.0} for e in (1, 2, 3)]
    draw_progress(rows, tmp_path / "progress.png")
    assert matplotlib.image.imread(tmp_path / "progress.png").std() > 0.05


def test_all_labels_have_a_legend_that_fits(tmp_path) -> None:
    """Sixty labels: the picture grows by the rows of its legend, and nothing reaches its edges."""
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[5:9, 5:8, 5:10] = np.arange(1, 61).reshape(4, 3, 5)
    names = {f"left upper lobe of lung {k}": k for k in range(1, 61)}
    case = PicturedCase("c", np.zeros(mask.shape), np.eye(4), prediction=mask)
    draw_cases(tmp_path / "many.png", [case], names)
    draw_cases(tmp_path / "one.png", [PicturedCase("c", case.image, case.affine, prediction=mask > 0)], names)
    many, one = (matplotlib.image.imread(tmp_path / f"{n}.png")[..., :3] for n in ("many", "one"))
    assert many.shape[0] > one.shape[0] + 150
    assert many[:, :3].max() == many[:, -3:].max() == 0


def test_a_label_has_the_same_color_in_every_picture() -> None:
    """Whether or not other labels occur: the second color of Okabe & Ito, and never that of a neighbor."""
    assert color_of(1) == "#56B4E9"
    assert len({color_of(number) for number in range(120)}) == 120


def test_the_window_ignores_background_and_outliers() -> None:
    image = np.zeros((40, 40, 40))
    image[10:30, 10:30, 10:30] = np.random.default_rng(0).uniform(100, 200, (20, 20, 20))
    image[15, 15, 15] = 1e6
    low, high = gray_window(image)
    assert 80 < low < 100
    assert 195 < high < 201
    assert gray_window(np.full((3, 3, 3), 7.0))[0] == 7.0
