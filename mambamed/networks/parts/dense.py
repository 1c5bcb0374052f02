"""Dense networks that compute in the axis order of their public weights: axes, padding, cropping."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mambamed.networks.parts.blocks import (
    Answer,
    AxisOrder,
    Triple,
    check_choice,
    crop_logits,
    pad_to_divisor,
    pad_to_grid,
)

# A row of a table of public names: pattern of the public name, ours; see `public_names`.
Row = tuple[str, Callable[..., str] | None]


@dataclass(frozen=True)
class PublicOption:
    """An option of the network to which published weights belong; see `public_names.settle_options`.

    Args:
        option: its name in our network.
        value: of the authors' network.
        known: "shown": the keys of the file show it. "assumed": they do not, but the authors have one value.
            "asked": they do not, and the authors published weights with several values.
        remark: a sentence on where the value comes from; for "asked", on the values.
    """

    option: str
    value: Any
    known: Literal["shown", "assumed", "asked"]
    remark: str


class DenseNetwork(nn.Module, ABC):
    """Base of networks whose windows, positions or strides depend on the order of the axes.

    The network itself computes on `(B, C, D, H, W)`. With `axis_order="xyz"` these are the axes of the
    volume; with "zyx" the volume is permuted on entry, and the logits are permuted back. Imported kernels
    therefore stay as they are. A subclass defines `compute`; all its options are in the order D, H, W.

    Args:
        divisor: multiple to which an input is padded with zeros at its end, in the order D, H, W.
        strides: of the outputs in training, the finest first, in the order D, H, W.
        patch_size: the only shape on which the network computes, e.g. because of learned positions, in the
            order D, H, W. A smaller input is padded to it, a larger one is a RecipeError.
    """

    sizes_in_own_order: ClassVar[bool] = True

    def __init__(
        self,
        divisor: Triple,
        *,
        strides: Sequence[Triple] = ((1, 1, 1),),
        axis_order: AxisOrder = "xyz",
        patch_size: Triple | None = None,
    ) -> None:
        super().__init__()
        check_choice("axis_order", axis_order, ("xyz", "zyx"))
        self.axis_order: AxisOrder = axis_order
        self.grid = None if patch_size is None else self._turned(patch_size)
        self.divisor = self.grid or self._turned(divisor)
        self.deep_supervision_strides = [self._turned(stride) for stride in strides]

    @abstractmethod
    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` of a permitted shape -> logits at `strides`; outside training one."""

    def forward(self, x: Tensor) -> Answer:
        """`(B, in_channels, X, Y, Z)` -> `(B, K, X, Y, Z)` logits; a list in training with depths."""
        shape = x.shape[2:]
        x = pad_to_divisor(x, self.divisor) if self.grid is None else pad_to_grid(x, self.grid)
        if self.axis_order == "xyz":
            outputs = self.compute(x)
        else:
            outputs = [y.permute(0, 1, 4, 3, 2) for y in self.compute(x.permute(0, 1, 4, 3, 2).contiguous())]
        return crop_logits(outputs, shape, self.deep_supervision_strides)

    def _turned(self, sizes: Triple) -> Triple:
        """Sizes along D, H, W as sizes along X, Y, Z."""
        return sizes if self.axis_order == "xyz" else (sizes[2], sizes[1], sizes[0])
