"""Takes options as long as a paired test shows that they raise the score beyond chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mambamed.documents.ensemble import Choice
from mambamed.metrics.statistics import holm, paired_test

Option = TypeVar("Option")
Stage = Literal["runs", "weights", "postprocessing"]
Scores = Mapping[str, NDArray[np.float64]]
"""Option -> `(cases, structures)` scores, higher = better; NaN where a structure is in neither mask."""

_MOST_ROUNDS = 50


def climb(
    stage: Stage,
    current: Option,
    options_of: Callable[[Option], Mapping[str, Option]],
    score: Callable[[Mapping[str, Option]], Scores],
    subjects: Sequence[str],
    absent: float,
    alpha: float = 0.05,
    level: float = 0.95,
) -> tuple[Option, list[Choice]]:
    """From what is there, take one option after the other.

    In each round all options are tested against the present choice: two-sided sign-flip permutation tests of
    the mean difference, paired by subject, corrected by Holm's method for all options of the round. The first
    one in the order of `options_of` that is significantly better is taken, so that simple options come before
    costly ones; the next round starts from it. It ends where no option is significantly better. If no option
    is better in truth, the probability that any is taken is at most `alpha`.

    A test of the mean is used because the mean is what is reported; Wilcoxon's test may prefer an option that
    lowers the mean.

    Args:
        options_of: present choice -> name of each option -> the choice with it.
        score: names and choices -> their scores; the present one is called "".
        absent: score of a structure that only other options predict and the reference does not have.

    Returns:
        The choice, and every test.
    """
    tested: list[Choice] = []
    for _ in range(_MOST_ROUNDS):
        options = options_of(current)
        if not options:
            break
        means = case_means(score({"": current, **options}), absent)
        tests = {name: paired_test(means[""], means[name], subjects, level) for name in options}
        corrected = dict(zip(tests, holm([test.permutation_p for test in tests.values()]), strict=True))
        better = [
            name for name, test in tests.items() if corrected[name] <= alpha and test.mean_difference > 0
        ]
        taken = better[0] if better else None
        tested += [
            Choice(
                stage=stage,
                option=name,
                subjects=test.pairs,
                before=float(means[""].mean()),
                after=float(means[name].mean()),
                interval=test.interval,
                p=corrected[name],
                taken=name == taken,
            )
            for name, test in tests.items()
        ]
        if taken is None:
            break
        current = options[taken]
    return current, tested


def case_means(scores: Scores, absent: float) -> dict[str, NDArray[np.float64]]:
    """Option -> mean over the structures of each case.

    A structure that no option has in a case does not count; the others get `absent` where they lack one that
    some option has. A case without any structure has the mean `absent` for all.
    """
    table = np.stack([*scores.values()])
    known = ~np.isnan(table).all(axis=0)
    filled = np.where(np.isnan(table), absent, table)
    counts = known.sum(axis=1)
    sums = np.where(known, filled, 0.0).sum(axis=2)
    means = np.divide(sums, counts, out=np.full(sums.shape, absent), where=counts > 0)
    return dict(zip(scores, means, strict=True))


def fewest_for(alpha: float) -> int:
    """The number of subjects below which no test can reach `alpha`, even if all differences have one sign.

    >>> fewest_for(0.05)
    6
    """
    return math.ceil(math.log2(2 / alpha))
