import numpy as np

from mambamed.preparation.label_kernels import count_labels, foreground_places, in_c_order

RNG = np.random.default_rng(2)


def test_counts_are_numpys() -> None:
    label = np.repeat(RNG.integers(0, 5, (9, 8, 3)), 4, axis=2)
    for dtype in (np.uint8, np.int16, np.int32):
        theirs = np.bincount(label.ravel(), minlength=7)
        np.testing.assert_array_equal(count_labels(label.astype(dtype), 6), theirs)


def test_a_copy_in_c_order_is_the_same_map() -> None:
    label = RNG.integers(0, 5, (40, 8, 7)).astype(np.uint8)
    for view in (np.asfortranarray(label), label[::-1, :, ::-1], label):
        ours = in_c_order(view)
        assert ours.flags.c_contiguous
        np.testing.assert_array_equal(ours, view)


def test_all_places_are_kept_up_to_the_cap_and_an_even_draw_above_it() -> None:
    label = np.zeros((30, 20, 10), np.uint8)
    label[:20], label[25, 3:5, 7] = 1, 3
    rows = foreground_places(label, count_labels(label, 3), 500, seed=1)
    assert rows.dtype == np.int16
    assert (rows[:, 0] == 1).sum() == 500
    np.testing.assert_array_equal(rows[rows[:, 0] == 3][:, 1:], [[25, 3, 7], [25, 4, 7]])
    np.testing.assert_array_equal(label[tuple(rows[:, 1:].T)], rows[:, 0])
    np.testing.assert_array_equal(rows, np.unique(rows, axis=0))  # sorted, none twice
    # 500 of 0..19 along x, evenly: the mean is 9.5 within four standard errors of 5.77 / sqrt(500).
    assert abs(rows[rows[:, 0] == 1][:, 1].mean() - 9.5) < 1.03
    again = foreground_places(label, count_labels(label, 3), 500, seed=1)
    np.testing.assert_array_equal(rows, again)
    assert not np.array_equal(rows, foreground_places(label, count_labels(label, 3), 500, seed=2))


def test_a_map_without_foreground_has_no_places() -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    assert foreground_places(label, count_labels(label, 0), 10, seed=0).shape == (0, 4)
