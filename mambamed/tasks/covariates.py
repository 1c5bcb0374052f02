"""Covariates: facts about a case that a classification network reads in addition to its image.

They are passed as further constant channels, not standardized, NaN if unknown, so that the code between file
and network does not need to handle them. The network removes these channels and standardizes the values by
its training cases; the logits are those of the image plus those of a logistic regression on the covariates.
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
from mambamed.tasks.covariates_found import is_known

# name -> "number", or the allowed words
Wanted = Mapping[str, Literal["number"] | Sequence[str]]


class WithCovariates(nn.Module):
    """A classifier of images and covariates.

    Logits = logits of the image + a linear function of the standardized covariates. An unknown covariate
    counts as the mean, and has an indicator as a further input. The linear function starts at zero.

    Args:
        network: maps `(B, C, X, Y, Z)` to `(B, K)` logits.
        channels: C, channels of the image.
        covariates: M, number of covariates.
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
        """Set mean and standard deviation from the `(n, M)` values of the training cases, NaN if unknown.

        A covariate that is constant, or always unknown, is not scaled.
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
    """Number of inputs of the covariates: one per number, one less than the words of a word.

    >>> covariate_count({"age": "number", "sex": ("F", "M"), "site": ("A", "B", "C")})
    4
    """
    return sum(1 if kind == "number" else len(kind) - 1 for kind in wanted.values())


def covariate_numbers(values: Mapping[str, Any], wanted: Wanted, case_id: str) -> NDArray[np.float64]:
    """The covariates of a case as numbers, NaN if unknown; a word becomes indicators of all but the first.

    Raises:
        CaseError: an invalid number or word.

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
    """`(C, X, Y, Z)` and `(M,)` numbers -> `(C + M, X, Y, Z)`, with the numbers as constant channels.

    >>> with_covariates(np.zeros((1, 2, 1, 1), np.float32), np.array([70.0]))[:, :, 0, 0].tolist()
    [[0.0, 0.0], [70.0, 70.0]]
    """
    if not len(values):
        return patch
    constant = np.broadcast_to(
        np.asarray(values, np.float32)[:, None, None, None], (len(values), *patch.shape[1:])
    )
    return np.concatenate([patch, constant])
