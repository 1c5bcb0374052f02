"""What is known of a case beside its image: how it travels to the network, and how it is read there.

Covariates travel as constant channels behind those of the image, raw, NaN where not known; so all that
stands between file and network need not know of them. The network takes them off, standardizes them by
what its training cases showed, and adds to the logits what a logistic regression on them would say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mambamed.errors import CaseError

# name -> "number", or the words that it may be
Wanted = Mapping[str, Literal["number"] | Sequence[str]]
_NOT_KNOWN = {"", "n/a", "na", "nan", "none", "unknown"}


class WithCovariates(nn.Module):
    """A classifier of images that hears a few numbers about the case too.

    Logits = those of the image + a linear function of the standardized numbers. A number that is not known
    counts as the mean, and one that was not known for some training cases has a say by its absence. The
    linear function begins at zero: at first the image alone decides.

    Args:
        network: maps `(B, C, X, Y, Z)` to `(B, K)` logits.
        channels: C, channels of the image.
        covariates: M, how many numbers.
        out_channels: K, classes.

    Attributes:
        mean, sd: `(M,)`, of the training cases; part of the weights.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, network: nn.Module, channels: int, covariates: int, out_channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels
        self.linear = nn.Linear(2 * covariates, out_channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(covariates))
        self.register_buffer("sd", torch.ones(covariates))

    def standardize_by(self, values: NDArray[np.floating]) -> None:
        """Take mean and standard deviation of the training cases.

        Args:
            values: `(n, M)`, NaN where not known. One that never varies, or is never known, is let be.
        """
        known = np.isfinite(values)
        counts = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, values, 0).sum(axis=0) / counts
        variance = np.where(known, (values - mean) ** 2, 0).sum(axis=0) / counts
        self.mean.copy_(torch.as_tensor(mean))
        self.sd.copy_(torch.as_tensor(np.where(variance > 0, np.sqrt(variance), 1.0)))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C + M, X, Y, Z)`, the last M channels constant or NaN -> `(B, K)` logits."""
        image, numbers = x[:, : self.channels], x[:, self.channels :, 0, 0, 0].float()
        absent = torch.isnan(numbers)
        standardized = torch.where(absent, torch.zeros_like(numbers), (numbers - self.mean) / self.sd)
        told = self.linear(torch.cat([standardized, absent.to(standardized.dtype)], dim=1))
        return self.network(image) + told


def covariate_count(wanted: Wanted) -> int:
    """How many numbers the covariates make: one a number, one less than there are words.

    >>> covariate_count({"age": "number", "sex": ("F", "M"), "site": ("A", "B", "C")})
    4
    """
    return sum(1 if kind == "number" else len(kind) - 1 for kind in wanted.values())


def is_known(value: Any) -> bool:
    """Whether a cell says something.

    >>> is_known("n/a"), is_known(None), is_known("0")
    (False, False, True)
    """
    return value is not None and str(value).strip().lower() not in _NOT_KNOWN


def covariate_numbers(values: Mapping[str, Any], wanted: Wanted, case_id: str) -> NDArray[np.float64]:
    """The covariates of a case as numbers, NaN where not known.

    Args:
        values: name -> text or number; further names are passed over.
        wanted: what the recipe asks for. A word becomes an indicator of each but the first.
        case_id: for messages.

    Raises:
        CaseError: a number that is none, or a word that the recipe does not know.

    >>> covariate_numbers({"age": "70", "sex": "M"}, {"age": "number", "sex": ("F", "M")}, "a").tolist()
    [70.0, 1.0]
    """
    numbers: list[float] = []
    for name, kind in wanted.items():
        value = values.get(name)
        if kind == "number":
            numbers.append(_number(value, name, case_id))
            continue
        words = list(kind)
        word = str(value).strip()
        if is_known(value) and word not in words:
            raise CaseError(f"{case_id}: {name} is {word!r}, not one of {', '.join(words)}; correct it")
        numbers += [float(word == each) if is_known(value) else math.nan for each in words[1:]]
    return np.array(numbers)


def _number(value: Any, name: str, case_id: str) -> float:
    if not is_known(value):
        return math.nan
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise CaseError(f"{case_id}: {name} is {value!r}, not a number; correct it, or n/a if not known")
    return number


def with_covariates(patch: NDArray[np.float32], values: NDArray[np.floating]) -> NDArray[np.float32]:
    """`(C, X, Y, Z)` and `(M,)` numbers -> `(C + M, X, Y, Z)`: the numbers as constant channels.

    >>> with_covariates(np.zeros((1, 2, 1, 1), np.float32), np.array([70.0]))[:, :, 0, 0].tolist()
    [[0.0, 0.0], [70.0, 70.0]]
    """
    if not len(values):
        return patch
    constant = np.broadcast_to(
        np.asarray(values, np.float32)[:, None, None, None], (len(values), *patch.shape[1:])
    )
    return np.concatenate([patch, constant])
