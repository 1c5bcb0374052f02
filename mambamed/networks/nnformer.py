"""nnFormer: attention in windows of a grid of tokens, with strided convolutions between the stages.

Source: Zhou et al., "nnFormer: Volumetric Medical Image Segmentation via a 3D Transformer", IEEE TIP 32
(2023), arXiv 2109.03201, and the authors' three public files, which are this network with three sets of
options. With `channels` = C, tokens of `token_size` = P voxels, and a grid of R tokens:

    embedding  conv3, GELU, LN, conv3, GELU, LN to C/2; conv3, GELU, LN, conv3 to C; LN. The strides of the
               first and third convolution multiply to P. No position embedding
    stage i    0..3, width C 2^i on the grid R/2^i: blocks, alternately on windows and on shifted windows
    block      x + proj(attention(LN x)), x + MLP(LN x), W -> 4W -> W; a learned bias per relative position
    down       GELU, LN, conv3 stride 2 to twice the width; the skip of a stage is LN of its output
    decoder    stages 2, 1, 0: LN, transposed conv2; then blocks, of which the first is a cross block
    cross      y = up + skip; y + proj(attention(LN up, LN skip)), y + MLP(LN y). One LN for both; the queries
               are LN up itself, without a projection
    head i     transposed conv, kernel = stride = P, from stage i of the decoder to the classes

`variant="cube"` is the form of the files for tumor and synapse. A window is a cube; where it is not smaller
than the shortest axis of the grid, it shrinks to this axis and is not shifted. `variant="acdc"` has fixed
windows, halves the slice axis between the second and third stage, and halves it after one voxel is cut
between the third and fourth.

From the public code and not from the text, because published weights need it:

- `relative_index="public"`: different relative positions share entries of the table. "exact" does not.
- `acdc` has no mask: its shifted windows mix both ends of an axis.
- `decoder_heads` of the tumor file are those of the encoder one stage deeper.
- Where the grid is not a multiple of the window, zeros are appended after the LN; they take part as keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mambamed.errors import RecipeError
from mambamed.networks.parts.blocks import AxisOrder, ChannelNorm, Triple, check_choice, run_checkpointed
from mambamed.networks.parts.dense import DenseNetwork, PublicOption, Row
from mambamed.networks.parts.window_attention import Attention, RelativeIndex, Windows, fits_table

Variant = Literal["cube", "acdc"]

# Of the files for synapse and for acdc.
_PLATES = [[3, 5, 5], [3, 5, 5], [7, 10, 10], [3, 5, 5]]
_DEFAULTS: dict[Variant, dict[str, Any]] = {
    "cube": dict(channels=192, token_size=[2, 4, 4], windows=[4, 4, 8, 4], patch_size=[64, 128, 128]),
    "acdc": dict(channels=96, token_size=[1, 4, 4], windows=_PLATES, patch_size=[14, 160, 160]),
}


class Block(nn.Module):
    """Attention in windows and an MLP, each after a layer norm and with a residual.

    Args:
        cross: attend to a skip, which is added to the input.
        drop_path: probability of omitting each of the two branches in training.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        windows: Windows,
        form: RelativeIndex,
        *,
        shifted: bool = False,
        cross: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.windows, self.drop_path = windows, drop_path
        self.shifted = shifted and any(windows.shift)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, windows.size, form, cross)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        parts = windows.parts() if self.shifted and windows.masked else None
        self.register_buffer("parts", parts, persistent=False)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Tokens `(B, D, H, W, C)`, and those of the skip -> the same shape."""
        queries = context = self.windows.split(self.norm1(x), self.shifted)
        if skip is not None:
            context = self.windows.split(self.norm1(skip), self.shifted)
            x = x + skip
        attended = self.windows.join(self.attention(queries, context, self.parts), self.shifted)
        x = x + self._dropped(attended)
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        """In training, set a branch to zero for some patches of the batch, and scale it for the others."""
        if not self.training or not self.drop_path:
            return x
        kept = x.new_empty(len(x), 1, 1, 1, 1).bernoulli_(1 - self.drop_path)
        return x * (kept / (1 - self.drop_path))


class Stage(nn.Module):
    """Blocks on the tokens of a grid."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """`(B, C, D, H, W)`, and the skip for a cross block at the start -> the same shape."""
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x) if skip is None else block(x, skip.movedim(1, -1))
            skip = None
        return x.movedim(-1, 1)


def _stage(
    channels: int,
    heads: int,
    depth: int,
    windows: Windows,
    form: RelativeIndex,
    rates: Iterator[float],
    cross: bool = False,
) -> Stage:
    """Blocks, every second one shifted; each takes the next of the rates as `drop_path`."""
    return Stage(
        [
            Block(
                channels,
                heads,
                windows,
                form,
                shifted=j % 2 == 1,
                cross=cross and j == 0,
                drop_path=next(rates),
            )
            for j in range(depth)
        ]
    )


class NnFormer(DenseNetwork):
    """nnFormer for segmentation; all sizes are in the order of the axes D, H, W on which it computes.

    Args:
        variant: "cube" or "acdc", see the module.
        patch_size: of the training; windows follow from it. It is rounded up to multiples of 8 P, with acdc
            along D to 4 n + 2 tokens. A smaller input is padded to it, a larger one is a RecipeError
            (default: 64, 128, 128; acdc: 14, 160, 160).
        channels: width of the first stage, doubled with each of the four (default: 192; acdc: 96).
        token_size: P, voxels of a token, 1, 2 or 4 along each axis (default: 2, 4, 4; acdc: 1, 4, 4).
        depths: blocks of each stage, in encoder and decoder.
        heads: attention heads of the four stages of the encoder (default: one per 32 channels).
        decoder_heads: those of stages 0, 1, 2 of the decoder (default: as in the encoder).
        windows: size of the windows of the four stages in tokens: one number each; acdc: three (default: 4,
            4, 8, 4; acdc: 3, 5, 5 and in the third stage 7, 10, 10).
        drop_path: probability of omitting a branch of the last block; it rises linearly from 0 at the first,
            in encoder and decoder.
        relative_index: "public" or "exact", see the module.
    """

    examples = (
        "channels: 96, token_size: [4, 4, 4], decoder_heads: [6, 12, 24], patch_size: [128, 128, 128]",
        "",
        "variant: acdc",
    )
    small: ClassVar = dict(
        channels=8, heads=[1, 2, 2, 2], windows=[2, 2, 2, 2], patch_size=[32, 32, 32], drop_path=0.0
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        variant: Variant = "cube",
        patch_size: Sequence[int] | None = None,
        channels: int | None = None,
        token_size: Sequence[int] | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] | None = None,
        decoder_heads: Sequence[int] | None = None,
        windows: Sequence[int] | Sequence[Sequence[int]] | None = None,
        drop_path: float = 0.2,
        relative_index: RelativeIndex = "public",
        deep_supervision: bool = False,
        gradient_checkpointing: bool = False,
        axis_order: AxisOrder = "xyz",
    ) -> None:
        check_choice("variant", variant, ("cube", "acdc"))
        check_choice("relative_index", relative_index, ("public", "exact"))
        if not 0 <= drop_path < 1:
            raise RecipeError(f"network.drop_path: expected 0 to less than 1, got {drop_path}. Correct it.")
        default = _DEFAULTS[variant]
        token = _three("token_size", token_size or default["token_size"])
        if not {1, 2, 4}.issuperset(token):
            raise RecipeError(
                f"network.token_size: expected 1, 2 or 4 per axis, got {list(token)}. Correct it."
            )
        patch = _rounded_up(_three("patch_size", patch_size or default["patch_size"]), token, variant)
        grids, sizes = _grids(patch, token, variant), _sizes(windows or default["windows"], variant)
        divided = [_windows_of(grid, size, variant) for grid, size in zip(grids, sizes, strict=True)]
        for window in divided:
            if not fits_table(window.size, relative_index):
                raise RecipeError(
                    f"network.windows: expected no axis much shorter than the others with relative_index: "
                    f"public, got {list(window.size)}. Change it or use relative_index: exact."
                )
        width = channels or default["channels"]
        widths = [width * 2**i for i in range(4)]
        depths = _listed("depths", depths, 4)
        heads = _listed("heads", heads or _heads_of(width), 4)
        back = _listed("decoder_heads", decoder_heads or heads[:3], 3)
        for option, numbers in (("heads", heads), ("decoder_heads", back)):
            if any(count < 1 or width % count for width, count in zip(widths, numbers, strict=False)):
                raise RecipeError(
                    f"network.{option}: expected divisors of the widths {widths[: len(numbers)]}, got "
                    f"{numbers}. Change them or network.channels."
                )
        deeper = [(2, 2, 2), (4, 4, 4)] if variant == "cube" else [(1, 2, 2), (2, 4, 4)]
        strides = [(1, 1, 1), *deeper] if deep_supervision else [(1, 1, 1)]
        super().__init__((1, 1, 1), strides=strides, axis_order=axis_order, patch_size=patch)
        self.gradient_checkpointing = gradient_checkpointing
        self.embedding = _embedding(in_channels, width, token)
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.encoder = nn.ModuleList(
            _stage(widths[i], heads[i], depths[i], divided[i], relative_index, rates) for i in range(4)
        )
        self.outputs = nn.ModuleList(ChannelNorm(width, 1e-5) for width in widths)
        self.downs = nn.ModuleList(_down(widths[i], i, variant) for i in range(3))
        self.ups = nn.ModuleList(_up(widths[i], i, variant) for i in (2, 1, 0))
        rates = iter(torch.linspace(0, drop_path, sum(depths[:3]), device="cpu").tolist())
        self.decoder = nn.ModuleList(
            _stage(widths[i], back[i], depths[i], divided[i], relative_index, rates, cross=True)
            for i in (2, 1, 0)
        )
        count = 3 if deep_supervision else 1
        self.heads = nn.ModuleList(
            nn.ConvTranspose3d(width, out_channels, token, token) for width in widths[:count]
        )

    def compute(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` -> logits at the strides; outside training only the finest."""
        again = self.gradient_checkpointing
        x = run_checkpointed(self.embedding, x, wanted=again)
        skips = []
        for i, (stage, output) in enumerate(zip(self.encoder, self.outputs, strict=True)):
            x = run_checkpointed(stage, x, wanted=again)
            skips.append(output(x))
            if i < len(self.downs):
                x = run_checkpointed(self.downs[i], x, wanted=again)
        x = skips.pop()
        levels: list[Tensor] = []
        for up, stage in zip(self.ups, self.decoder, strict=True):
            x = run_checkpointed(stage, run_checkpointed(up, x, wanted=again), skips.pop(), wanted=again)
            levels.insert(0, x)
        heads = self.heads if self.training else self.heads[:1]
        return [head(level) for head, level in zip(heads, levels, strict=False)]

    @staticmethod
    def public_options(public: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[PublicOption]:
        """What the shapes show, and the patch of the public file; see `mambamed.networks.public_names`."""
        table = "{}.layers.{}.blocks.0.attn.relative_position_bias_table"
        named = [
            table.format(of, i) for of, count in (("model_down", 4), ("decoder", 3)) for i in range(count)
        ]
        down, head = "model_down.layers.0.downsample.reduction.weight", "final.0.up.weight"
        dimensions = {down: 5, head: 5} | dict.fromkeys(named, 2)
        if any(key not in public or public[key].ndim != count for key, count in dimensions.items()):
            return []
        variant: Variant = "acdc" if public[down].shape[2] == 1 else "cube"
        default, (width, _, *token) = _DEFAULTS[variant], public[head].shape
        heads = [public[key].shape[1] for key in named]
        usual = {"variant": "cube", **default, "heads": _heads_of(width), "decoder_heads": heads[:3]}
        found = {"variant": variant, "channels": width, "token_size": token}
        found |= {"heads": heads[:4], "decoder_heads": heads[4:]}
        shown = [
            PublicOption(option, value, "shown", "Shapes of tensors of the file show it.")
            for option, value in found.items()
            if (options.get(option) or usual[option]) != value
        ]
        patch = [128, 128, 128] if token == [4, 4, 4] else default["patch_size"]
        remark = "It is that of the authors' code for this size of tokens; the windows follow from it."
        return [*shown, PublicOption("patch_size", patch, "assumed", remark)]

    def public_names(self) -> list[Row]:
        """Rows for the three public files; see `mambamed.networks.public_names`."""
        parts = {
            "norm1.": "norm1.",
            "norm2.": "norm2.",
            "attn.qkv.": "attention.project.",
            "attn.kv.": "attention.project.",
            "attn.proj.": "attention.output.",
            "attn.relative_position_bias_table": "attention.table",
            "mlp.fc1.": "mlp.0.",
            "mlp.fc2.": "mlp.2.",
        }
        part = "|".join(parts).replace(".", r"\.")
        block = rf"layers\.(\d)\.blocks\.(\d+)\.({part})"
        proj = r"model_down\.patch_embed\.proj"
        return [
            (r".*\.relative_position_index$", None),
            (rf"{proj}(\d)\.conv(\d)\.", lambda i, k: f"embedding.{6 * i + 3 * k - 9}."),
            (rf"{proj}(\d)\.norm(\d)\.", lambda i, k: f"embedding.{6 * i + 3 * k - 7}.norm."),
            (r"model_down\.patch_embed\.norm\.", lambda: "embedding.10.norm."),
            (rf"model_down\.{block}", lambda i, j, of: f"encoder.{i}.blocks.{j}.{parts[of]}"),
            (r"model_down\.layers\.(\d)\.downsample\.norm\.", lambda i: f"downs.{i}.1.norm."),
            (r"model_down\.layers\.(\d)\.downsample\.reduction\.", lambda i: f"downs.{i}.2."),
            (r"model_down\.norm(\d)\.", lambda i: f"outputs.{i}.norm."),
            (rf"decoder\.{block}", lambda i, j, of: f"decoder.{2 - i}.blocks.{j}.{parts[of]}"),
            (r"decoder\.layers\.(\d)\.Upsample\.norm\.", lambda i: f"ups.{2 - i}.0.norm."),
            (r"decoder\.layers\.(\d)\.Upsample\.up\.", lambda i: f"ups.{2 - i}.1."),
            (r"final\.(\d)\.up\.", lambda i: f"heads.{i}."),
        ]


def _embedding(in_channels: int, channels: int, token: Triple) -> nn.Sequential:
    """Two pairs of convolutions; the first of each has a stride, together the size of a token."""
    half = channels // 2
    d, h, w = token
    first = (min(d, 2), min(h, 2), min(w, 2))
    second = (d // first[0], h // first[1], w // first[2])
    return nn.Sequential(
        nn.Conv3d(in_channels, half, 3, first, 1),
        nn.GELU(),
        ChannelNorm(half, 1e-5),
        nn.Conv3d(half, half, 3, 1, 1),
        nn.GELU(),
        ChannelNorm(half, 1e-5),
        nn.Conv3d(half, channels, 3, second, 1),
        nn.GELU(),
        ChannelNorm(channels, 1e-5),
        nn.Conv3d(channels, channels, 3, 1, 1),
        ChannelNorm(channels, 1e-5),
    )


def _down(channels: int, stage: int, variant: Variant) -> nn.Sequential:
    """From a stage to half its grid and twice its width."""
    sizes = ((3, 3, 3), (2, 2, 2), (1, 1, 1))  # kernel, stride, padding
    if variant == "acdc":
        in_plane = ((1, 3, 3), (1, 2, 2), (0, 1, 1))
        sizes = (in_plane, sizes, ((3, 3, 3), (2, 2, 2), (0, 1, 1)))[stage]
    return nn.Sequential(nn.GELU(), ChannelNorm(channels, 1e-5), nn.Conv3d(channels, 2 * channels, *sizes))


def _up(channels: int, stage: int, variant: Variant) -> nn.Sequential:
    """From twice the width of a stage and half its grid to the stage: the inverse of `_down`."""
    size, more = (2, 2, 2), (0, 0, 0)
    if variant == "acdc":
        size, more = ((1, 2, 2), more) if stage == 0 else (size, (1, 0, 0) if stage == 2 else more)
    up = nn.ConvTranspose3d(2 * channels, channels, size, size, output_padding=more)
    return nn.Sequential(ChannelNorm(2 * channels, 1e-5), up)


def _rounded_up(patch: Triple, token: Triple, variant: Variant) -> Triple:
    """The patch as voxels that each stage can divide, and that the decoder returns to.

    acdc: of 4 n + 2 tokens along D, the second half of the stages have 2 n + 1, then n.
    """
    d, h, w = (-(-size // (8 * edge)) * 8 * edge for size, edge in zip(patch, token, strict=True))
    if variant == "acdc":
        n = max(1, -(-(patch[0] - 2 * token[0]) // (4 * token[0])))
        d = (4 * n + 2) * token[0]
    return d, h, w


def _grids(patch: Triple, token: Triple, variant: Variant) -> list[Triple]:
    """Grids of the four stages."""
    d, h, w = (size // edge for size, edge in zip(patch, token, strict=True))
    depths = (d, d // 2, d // 4, d // 8) if variant == "cube" else (d, d, d // 2, d // 4)
    return [(depth, h // 2**i, w // 2**i) for i, depth in enumerate(depths)]


def _sizes(windows: Sequence[int] | Sequence[Sequence[int]], variant: Variant) -> list[Triple]:
    """Sizes of the windows of the four stages."""
    if variant == "cube":
        return [(n, n, n) for n in _listed("windows", windows, 4)]
    if len(windows) != 4:
        raise RecipeError(f"network.windows: expected four windows, got {windows}. Give one per stage.")
    return [_three("windows", each) for each in windows]


def _windows_of(grid: Triple, size: Triple, variant: Variant) -> Windows:
    """The windows of a stage; where one is as large as the grid, nothing is left to shift."""
    d, h, w = (n // 2 for n in size)
    if variant == "acdc":
        return Windows(grid, size, (0, 0, 0) if grid == size else (d, h, w), masked=False)
    if (least := min(grid)) <= size[0]:
        return Windows(grid, (least, least, least), (0, 0, 0), masked=True)
    return Windows(grid, size, (d, h, w), masked=True)


def _heads_of(channels: int) -> list[int]:
    """Attention heads of the four stages of the encoder in the public files."""
    return [channels * 2**i // 32 for i in range(4)]


def _three(option: str, values: object) -> Triple:
    """Three sizes of a recipe."""
    d, h, w = _listed(option, values, 3)
    return d, h, w


def _listed(option: str, values: object, count: int) -> list[int]:
    """A list of a recipe with so many whole numbers; RecipeError if it is none."""
    if (
        not isinstance(values, Sequence)
        or len(values) != count
        or any(not isinstance(n, int) for n in values)
    ):
        what = "three whole numbers" if count == 3 else "four whole numbers, one per stage"
        raise RecipeError(f"network.{option}: expected {what}, got {values!r}. Correct the list.")
    return list(values)
