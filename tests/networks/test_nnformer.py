"""nnFormer against the counts of its three public files, and its quirks against literal formulas.

The keys, shapes and counts are those of architectures2.md, section 21, made with the public code.
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from mambamed.errors import RecipeError
from mambamed.networks import build_network
from mambamed.networks.cost import network_cost
from mambamed.networks.nnformer import Block
from mambamed.networks.parts.window_attention import Windows, relative_index
from mambamed.networks.public_names import settle_options, translate
from tests.networks.public_layout import read_layout

TUMOR = {
    "channels": 96,
    "token_size": [4, 4, 4],
    "decoder_heads": [6, 12, 24],
    "patch_size": [128, 128, 128],
}
# channels in, classes, options as trained, parameters in millions
FILES = {
    "tumor": (4, 4, TUMOR, 37.6067),
    "synapse": (1, 14, {"deep_supervision": True}, 150.0542),
    "acdc": (1, 4, {"variant": "acdc"}, 37.1602),
    "AMOS": (1, 16, {"patch_size": [128, 128, 128], "deep_supervision": True}, 150.140),
}


def on_meta(inputs: int, outputs: int, options: dict) -> torch.nn.Module:
    with torch.device("meta"):
        return build_network("nnformer", inputs, outputs, **options)


@pytest.mark.parametrize(("inputs", "outputs", "options", "millions"), FILES.values(), ids=FILES)
def test_it_has_the_parameters_of_the_public_files(inputs, outputs, options, millions) -> None:
    count = sum(p.numel() for p in on_meta(inputs, outputs, options).parameters())
    assert round(count / 1e6, 4 if millions != 150.140 else 3) == millions


def test_it_has_the_parameters_of_the_parity_reference() -> None:
    """The tumor file with 2 channels and a patch of 64 x 96 x 64, where windows shrink to 4 and 2."""
    options = TUMOR | {"patch_size": [64, 96, 64], "deep_supervision": True}
    assert sum(p.numel() for p in on_meta(2, 4, options).parameters()) == 37_518_126


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "patch", "gmacs"),
    [
        (1, 14, {}, (64, 128, 128), 212.7),
        (1, 16, {"patch_size": [128, 128, 128]}, (128, 128, 128), 426.5),
        (4, 4, TUMOR, (128, 128, 128), 63.9),
        (1, 4, {"variant": "acdc"}, (14, 160, 160), 47.5),
    ],
)
def test_it_costs_what_the_public_files_cost(inputs, outputs, options, patch, gmacs) -> None:
    """The files with 192 channels were counted with all three outputs; ours computes one outside training."""
    counted = network_cost(on_meta(inputs, outputs, options), inputs, patch, 1).gmacs
    if "channels" not in options and "variant" not in options:
        tokens = math.prod(patch) // 32
        for stage in (1, 2):
            counted += tokens / 8**stage * 192 * 2**stage * 32 * outputs / 1e9
    assert round(counted, 1) == gmacs


# With C, K, P, strides of up, tables: rows of the table of each stage; heads of encoder and decoder.
KEYS = """
model_down.patch_embed.proj1.conv1                  conv(inputs, C // 2, 3)
model_down.patch_embed.proj1.conv2                  conv(C // 2, C // 2, 3)
model_down.patch_embed.proj1.norm{1,2}              norm(C // 2)
model_down.patch_embed.proj2.conv1                  conv(C // 2, C, 3)
model_down.patch_embed.proj2.conv2                  conv(C, C, 3)
model_down.patch_embed.proj2.norm1                  norm(C)
model_down.patch_embed.norm                         norm(C)
model_down.layers.{i=0..3}.blocks.{0..1}.norm{1,2}  norm(C * 2**i)
model_down.layers.{i=0..3}.blocks.{0..1}.attn.qkv   linear(C * 2**i, 3 * C * 2**i)
model_down.layers.{i=0..3}.blocks.{0..1}.attn.proj  linear(C * 2**i, C * 2**i)
model_down.layers.{i=0..3}.blocks.{0..1}.mlp.fc1    linear(C * 2**i, 4 * C * 2**i)
model_down.layers.{i=0..3}.blocks.{0..1}.mlp.fc2    linear(4 * C * 2**i, C * 2**i)
model_down.layers.{i=0..3}.blocks.{0..1}.attn.relative_position_bias_table  tensor(tables[i], heads[i])
model_down.layers.{i=0..3}.blocks.{0..1}.attn.relative_position_index       tensor(tokens[i], tokens[i])
model_down.layers.{i=0..2}.downsample.norm          norm(C * 2**i)
model_down.layers.{i=0..2}.downsample.reduction     conv(C * 2**i, 2 * C * 2**i, down[i])
model_down.norm{i=0..3}                             norm(C * 2**i)
decoder.layers.{j=0..2}.blocks.{0..1}.norm{1,2}     norm(C * 2**j)
decoder.layers.{j=0..2}.blocks.0.attn.kv            linear(C * 2**j, 2 * C * 2**j)
decoder.layers.{j=0..2}.blocks.1.attn.qkv           linear(C * 2**j, 3 * C * 2**j)
decoder.layers.{j=0..2}.blocks.{0..1}.attn.proj     linear(C * 2**j, C * 2**j)
decoder.layers.{j=0..2}.blocks.{0..1}.mlp.fc1       linear(C * 2**j, 4 * C * 2**j)
decoder.layers.{j=0..2}.blocks.{0..1}.mlp.fc2       linear(4 * C * 2**j, C * 2**j)
decoder.layers.{j=0..2}.blocks.{0..1}.attn.relative_position_bias_table     tensor(tables[j], back[j])
decoder.layers.{j=0..2}.blocks.{0..1}.attn.relative_position_index          tensor(tokens[j], tokens[j])
decoder.layers.{j=0..2}.Upsample.norm               norm(2 * C * 2**j)
decoder.layers.{j=0..2}.Upsample.up                 transposed(2 * C * 2**j, C * 2**j, up[j])
"""
CUBES = {"tables": [343, 343, 3375, 343], "tokens": [64, 64, 512, 64], "down": [3] * 3, "up": [2] * 3}
PLATES = {
    "tables": [5 * 9 * 9, 5 * 9 * 9, 13 * 19 * 19, 5 * 9 * 9],
    "tokens": [75, 75, 700, 75],
    "down": [(1, 3, 3), 3, 3],
    "up": [(1, 2, 2), 2, 2],
}
LAYOUTS = {
    "tumor": CUBES | {"C": 96, "heads": [3, 6, 12, 24], "back": [6, 12, 24], "P": 4},
    "synapse": CUBES | {"C": 192, "heads": [6, 12, 24, 48], "back": [6, 12, 24], "P": (2, 4, 4)},
    "acdc": PLATES | {"C": 96, "heads": [3, 6, 12, 24], "back": [3, 6, 12], "P": (1, 4, 4)},
}


def public_file(file: str, deep_supervision: bool = False) -> dict[str, torch.Tensor]:
    last = 2 if deep_supervision else 0
    text = f"{KEYS}\nfinal.{{i=0..{last}}}.up transposed(C * 2**i, K, P)"
    layout = read_layout(text, inputs=FILES[file][0], K=FILES[file][1], **LAYOUTS[file])
    return {key: torch.empty(shape, device="meta") for key, shape in layout.shapes.items()}


@pytest.mark.parametrize("file", LAYOUTS)
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_keys_of_the_public_files_fit(file, deep_supervision) -> None:
    inputs, outputs, options, _ = FILES[file]
    network = on_meta(inputs, outputs, options | {"deep_supervision": deep_supervision})
    assert translate("nnformer", network, public_file(file, deep_supervision)).faults == []


@pytest.mark.parametrize("file", LAYOUTS)
@pytest.mark.parametrize("recipe", LAYOUTS)
def test_options_of_another_public_file_are_recognized(file, recipe) -> None:
    """E.g. weights of the tumor file with a recipe for the one of synapse."""
    inputs, outputs, own, _ = FILES[file]
    given = {k: v for k, v in FILES[recipe][2].items() if k not in ("patch_size", "deep_supervision")}
    options, notes = settle_options("nnformer", given, public_file(file))
    assert translate("nnformer", on_meta(inputs, outputs, options), public_file(file)).faults == []
    assert options["patch_size"] == list(on_meta(inputs, outputs, own).grid)
    stated = [note.split(":")[0].removeprefix("network.") for note in notes]
    assert stated == ["patch_size"] if file == recipe else stated[-1] == "patch_size" and len(stated) > 1


def test_a_file_of_another_network_shows_no_options() -> None:
    assert settle_options("nnformer", {}, {"final.0.up.weight": torch.zeros(3)}) == ({}, ())


def test_the_public_index_reaches_115_of_343_entries() -> None:
    """architectures2.md: the first factor is 3 w1 - 1, so that different offsets share entries."""
    index = relative_index((4, 4, 4), "public")
    tokens = list(itertools.product(range(4), repeat=3))
    for (i, one), (j, other) in itertools.product(enumerate(tokens), repeat=2):
        a, b, c = (m - n + 3 for m, n in zip(one, other, strict=True))
        assert index[i, j] == a * 11 + b * 7 + c
    assert len(index.unique()) == 115


@pytest.mark.parametrize("size", [(4, 4, 4), (3, 5, 5), (2, 3, 4)])
def test_the_exact_index_has_one_entry_per_offset(size) -> None:
    index = relative_index(size, "exact")
    tokens = list(itertools.product(*map(range, size)))
    entry_of = {}
    for (i, one), (j, other) in itertools.product(enumerate(tokens), repeat=2):
        offset = tuple(m - n for m, n in zip(one, other, strict=True))
        assert entry_of.setdefault(offset, index[i, j].item()) == index[i, j]
    entries = math.prod(2 * n - 1 for n in size)
    assert sorted(entry_of.values()) == list(range(entries))


def test_the_index_of_a_recipe_reaches_the_attention() -> None:
    torch.manual_seed(0)
    options = {"channels": 8, "heads": [1, 1, 1, 1], "patch_size": [32, 32, 32], "token_size": [2, 2, 2]}
    public = build_network("nnformer", 1, 2, **options).eval()
    exact = build_network("nnformer", 1, 2, **options, relative_index="exact").eval()
    exact.load_state_dict(public.state_dict())
    x = torch.randn(1, 1, 32, 32, 32)
    assert not torch.allclose(public(x), exact(x), atol=1e-5)


WINDOWS = Windows((4, 4, 4), (2, 2, 2), (1, 1, 1), masked=True)


def scattered(block: Block) -> Block:
    """Large numbers in every tensor, so that no term of a formula is too small to notice."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape) / max(1, parameter[0].numel()) ** 0.5)
    return block.eval()


def literal(block: Block, x: torch.Tensor, skip: torch.Tensor | None, groups) -> torch.Tensor:
    """The block on `(D, H, W, C)`; `groups`: places that attend to each other, None for a padded one."""
    attention, heads = block.attention, block.attention.heads
    channels = x.shape[-1]
    width = channels // heads
    size = block.windows.size
    normed = block.norm1(x)
    if skip is not None:
        context = block.norm1(skip)
        x = x + skip
    else:
        context = normed
    attended = torch.zeros_like(x)
    for group in groups:
        zero = torch.zeros(channels)
        inside = torch.stack([zero if p is None else context[p[0]] for p in group])
        projected = attention.project(inside)
        keys, values = projected[:, -2 * channels : -channels], projected[:, -channels:]
        asking = torch.stack([zero if p is None else normed[p[0]] for p in group])
        queries = asking if skip is not None else projected[:, :channels]
        for i, at in enumerate(group):
            if at is None:
                continue
            result = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                logits = keys[:, part] @ queries[i, part] / width**0.5
                places = [_place(p, k, size) for k, p in enumerate(group)]
                offsets = [[m - n for m, n in zip(places[i], place, strict=True)] for place in places]
                entries = [
                    (a + size[0] - 1) * (3 * size[1] - 1)
                    + (b + size[1] - 1) * (2 * size[1] - 1)
                    + c
                    + size[2]
                    - 1
                    for a, b, c in offsets
                ]
                logits = logits + attention.table[entries, head]
                result.append(logits.softmax(0) @ values[:, part])
            attended[at[0]] = attention.output(torch.cat(result))
    x = x + attended
    return x + block.mlp(block.norm2(x))


def _place(at, number, size):
    """Where in its window a token of a group lies: stated, or by its number in a whole window."""
    if at is not None and len(at) == 2:
        return at[1]
    return (number // (size[1] * size[2]), number // size[2] % size[1], number % size[2])


def whole_windows(grid, size):
    """Places of the tokens of each window; None where the grid has ended."""
    counts = [range(-(-n // edge)) for n, edge in zip(grid, size, strict=True)]
    for window in itertools.product(*counts):
        group = []
        for inner in itertools.product(*map(range, size)):
            at = tuple(w * edge + k for w, edge, k in zip(window, size, inner, strict=True))
            group.append((at,) if all(a < n for a, n in zip(at, grid, strict=True)) else None)
        yield group


def test_a_block_is_attention_in_windows_where_padding_takes_part_as_keys() -> None:
    grid, size = (3, 4, 5), (2, 3, 2)
    windows = Windows(grid, size, (0, 0, 0), masked=True)
    block, x = scattered(Block(8, 2, windows, "public")), torch.randn(1, *grid, 8)
    with torch.no_grad():
        expected = literal(block, x[0], None, whole_windows(grid, size))
        torch.testing.assert_close(block(x)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_cross_block_asks_with_the_normed_input_and_adds_the_skip() -> None:
    """No projection of the queries, one norm for both, and the residual is input + skip, not normed."""
    grid, size = (3, 4, 2), (2, 2, 2)
    windows = Windows(grid, size, (1, 1, 1), masked=True)
    block = scattered(Block(8, 2, windows, "public", cross=True))
    x, skip = torch.randn(2, 1, *grid, 8)
    assert block.attention.project.out_features == 16
    with torch.no_grad():
        expected = literal(block, x[0], skip[0], whole_windows(grid, size))
        torch.testing.assert_close(block(x, skip)[0], expected, rtol=1e-4, atol=1e-4)


def shifted_windows(grid, size, shift):
    """Along each axis, by hand: tokens that lie in one shifted window and were neighbors before."""
    along = []
    for n, edge, moved in zip(grid, size, shift, strict=True):
        rolled = [(k + moved) % n for k in range(n)]  # roll by -shift: place k holds what was at k + shift
        runs = []
        for start in range(0, n, edge):
            window = [(rolled[start + k], k) for k in range(edge)]
            runs += [[one for one in window if one[0] >= moved], [one for one in window if one[0] < moved]]
        along.append([run for run in runs if run])
    for runs in itertools.product(*along):
        yield [tuple(zip(*one, strict=True)) for one in itertools.product(*runs)]


def test_a_shifted_block_of_cubes_does_not_mix_the_ends_of_an_axis() -> None:
    block = scattered(Block(8, 2, WINDOWS, "public", shifted=True))
    x = torch.randn(1, 4, 4, 4, 8)
    with torch.no_grad():
        expected = literal(block, x[0], None, shifted_windows((4, 4, 4), (2, 2, 2), (1, 1, 1)))
        torch.testing.assert_close(block(x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_the_shifted_windows_of_acdc_mix_them(masked) -> None:
    windows = Windows((4, 4, 4), (2, 2, 2), (1, 1, 1), masked=masked)
    block = scattered(Block(8, 2, windows, "public", shifted=True))
    x = torch.randn(1, 4, 4, 4, 8, requires_grad=True)
    block(x)[0, 0, 0, 0].sum().backward()
    assert x.grad is not None
    moved = x.grad[0, 3, 3, 3].abs().sum()
    assert moved < 1e-30 if masked else moved > 0.001


def block_windows(**options) -> list[Windows]:
    """Those of the second block of the four stages."""
    network = on_meta(1, 2, options)
    return [stage.blocks[1].windows for stage in network.encoder]


def test_windows_shrink_to_the_shortest_axis_and_are_then_not_shifted() -> None:
    found = block_windows(patch_size=[64, 128, 192])
    assert [w.grid for w in found] == [(32, 32, 48), (16, 16, 24), (8, 8, 12), (4, 4, 6)]
    assert [w.size for w in found] == [(4, 4, 4), (4, 4, 4), (8, 8, 8), (4, 4, 4)]
    assert [w.shift for w in found] == [(2, 2, 2), (2, 2, 2), (0, 0, 0), (0, 0, 0)]
    assert found[3].padded == (4, 4, 8)
    small = block_windows(patch_size=[32, 64, 64])
    assert [w.size[0] for w in small] == [4, 4, 4, 2]


def test_the_windows_of_acdc_are_fixed_and_shifted_unless_they_are_the_grid() -> None:
    found = block_windows(variant="acdc")
    assert [w.grid for w in found] == [(14, 40, 40), (14, 20, 20), (7, 10, 10), (3, 5, 5)]
    assert [w.size for w in found] == [(3, 5, 5), (3, 5, 5), (7, 10, 10), (3, 5, 5)]
    assert [w.shift for w in found] == [(1, 2, 2), (1, 2, 2), (0, 0, 0), (0, 0, 0)]
    assert not any(w.masked for w in found)
    wide = block_windows(variant="acdc", patch_size=[14, 160, 192])
    assert [w.shift for w in wide][2:] == [(3, 5, 5), (1, 2, 2)]


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({"patch_size": [60, 128, 130]}, (64, 128, 160)),
        ({"patch_size": [65, 1, 32], "token_size": [4, 1, 2]}, (96, 8, 32)),
        ({"variant": "acdc", "patch_size": [16, 160, 161]}, (18, 160, 192)),
        ({"variant": "acdc", "patch_size": [3, 32, 32]}, (6, 32, 32)),
    ],
)
def test_a_patch_is_rounded_up_to_one_that_the_stages_can_divide(options, grid) -> None:
    assert on_meta(1, 2, options).grid == grid


@pytest.mark.parametrize("depth", [6, 10, 14, 18])
def test_acdc_returns_to_its_own_grid(depth) -> None:
    options = {"variant": "acdc", "channels": 8, "heads": [1, 1, 2, 2], "patch_size": [depth, 32, 32]}
    network = build_network("nnformer", 1, 2, **options, deep_supervision=True)
    outputs = network(torch.randn(1, 1, depth, 32, 32))
    half = depth // 2
    assert [tuple(y.shape[2:]) for y in outputs] == [(depth, 32, 32), (depth, 16, 16), (half, 8, 8)]


def test_a_stage_ends_with_gelu_norm_and_a_strided_convolution() -> None:
    """GELU before the norm; of acdc's last one, the first slice of the grid is not padded."""
    network = build_network(
        "nnformer", 1, 2, variant="acdc", channels=8, heads=[1, 1, 1, 1], patch_size=[14, 32, 32]
    )
    for i, (x, stride, padding) in enumerate(
        [
            (torch.randn(1, 8, 14, 8, 8), (1, 2, 2), (0, 1, 1)),
            (torch.randn(1, 16, 14, 4, 4), 2, 1),
            (torch.randn(1, 32, 7, 2, 2), 2, (0, 1, 1)),
        ]
    ):
        down = network.downs[i]
        norm, conv = down[1].norm, down[2]
        with torch.no_grad():
            y = functional.gelu(x).movedim(1, -1)
            y = functional.layer_norm(y, y.shape[-1:], norm.weight, norm.bias).movedim(-1, 1)
            expected = functional.conv3d(y, conv.weight, conv.bias, stride, padding)
            torch.testing.assert_close(down(x), expected)


def test_the_embedding_norms_after_gelu_and_not_before_its_last_norm() -> None:
    network = build_network("nnformer", 2, 2, channels=8, heads=[1] * 4, patch_size=[16, 32, 32])
    embedding, x = network.embedding, torch.randn(1, 2, 16, 32, 32)
    with torch.no_grad():
        y = x
        for k, stride in zip((0, 3, 6, 9), ((2, 2, 2), 1, (1, 2, 2), 1), strict=True):
            y = functional.conv3d(y, embedding[k].weight, embedding[k].bias, stride, 1)
            if k < 9:
                y = functional.gelu(y)
            y = functional.layer_norm(y.movedim(1, -1), y.shape[1:2], eps=1e-5).movedim(-1, 1)
        torch.testing.assert_close(embedding(x), y)


def test_branches_are_dropped_more_often_towards_the_end_of_encoder_and_decoder() -> None:
    network = on_meta(1, 2, {})
    encoder = [block.drop_path for stage in network.encoder for block in stage.blocks]
    decoder = [block.drop_path for stage in network.decoder for block in stage.blocks]
    assert encoder == pytest.approx([0.2 * k / 7 for k in range(8)])
    assert decoder == pytest.approx([0.2 * k / 5 for k in range(6)])
    assert network.decoder[0].blocks[0].norm1.weight.shape == (192 * 4,)  # the coarsest is the first


def test_a_dropped_branch_is_absent_for_whole_patches_and_scaled_for_the_others() -> None:
    """Half of the patches lack the attention, and half of each the MLP: four answers, none in between."""
    block = scattered(Block(8, 2, WINDOWS, "public", drop_path=0.5))
    x = torch.randn(1, 4, 4, 4, 8).expand(400, -1, -1, -1, -1)
    with torch.no_grad():
        answers = block.train()(x)
        sure = block.eval()(x[:1])
        found, counts = answers.flatten(1).round(decimals=3).unique(dim=0, return_counts=True)
    assert len(found) == 4
    assert (counts > 60).all()
    assert (answers == x).flatten(1).all(1).any()
    assert not torch.allclose(answers[0], sure[0])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"variant": "tumor"}, "variant: expected cube, acdc, got 'tumor'. Choose"),
        ({"relative_index": "fixed"}, "relative_index: expected public, exact, got 'fixed'. Choose"),
        ({"token_size": [3, 4, 4]}, "token_size: expected 1, 2 or 4 per axis, got [3, 4, 4]. "),
        ({"token_size": 4}, "token_size: expected three whole numbers, got 4. "),
        ({"depths": [2, 2]}, "depths: expected four whole numbers, one per stage, got [2, 2]. "),
        ({"heads": [5, 12, 24, 48]}, "heads: expected divisors of the widths [192, 384, 768, 1536], got [5"),
        ({"decoder_heads": [6, 12]}, "decoder_heads: expected three whole numbers, got [6, 12]. "),
        ({"channels": 8}, "heads: expected divisors of the widths [8, 16, 32, 64], got [0, 0, 1, 2]. "),
        ({"windows": [[3, 5, 5]] * 4}, "windows: expected four whole numbers, one per stage, got [["),
        ({"variant": "acdc", "windows": [[3, 5, 5]]}, "windows: expected four windows, got [[3, 5, 5]]. "),
        ({"variant": "acdc", "windows": [3, 3, 7, 3]}, "windows: expected three whole numbers, got 3. "),
        ({"drop_path": 1.0}, "drop_path: expected 0 to less than 1, got 1.0. "),
    ],
)
def test_an_option_out_of_range_is_rejected_by_name(options, line) -> None:
    with pytest.raises(RecipeError) as caught:
        on_meta(1, 2, options)
    assert str(caught.value).startswith(f"network.{line}")


def test_a_larger_input_than_the_patch_is_rejected() -> None:
    network = on_meta(1, 2, {"channels": 8, "heads": [1] * 4, "patch_size": [16, 32, 32]})
    with pytest.raises(RecipeError, match=r"network\.patch_size: built for 16 x 32 x 32 voxels"):
        network(torch.zeros(1, 1, 16, 32, 33, device="meta"))


def test_zyx_computes_on_the_volume_with_its_axes_reversed() -> None:
    options = {"channels": 8, "heads": [1] * 4, "patch_size": [16, 32, 64], "deep_supervision": True}
    network = build_network("nnformer", 1, 2, **options)
    turned = build_network("nnformer", 1, 2, **options, axis_order="zyx")
    turned.load_state_dict(network.state_dict())
    network.eval().training = turned.eval().training = True
    x = torch.randn(1, 1, 16, 32, 64)
    with torch.no_grad():
        for expected, found in zip(network(x), turned(x.permute(0, 1, 4, 3, 2)), strict=True):
            torch.testing.assert_close(found.permute(0, 1, 4, 3, 2), expected)


def test_the_public_index_does_not_leave_the_table_of_flat_windows() -> None:
    """5 x 5 x 1 tokens: it reaches 8 * 14 + 8 * 9 = 184, of 9 * 9 = 81 entries."""
    flat = dict(variant="acdc", windows=[[5, 5, 1]] * 4, channels=8, heads=[1, 2, 2, 2])
    flat |= dict(patch_size=[6, 32, 32], drop_path=0.0)
    with pytest.raises(
        RecipeError, match=r"network\.windows: expected .* got \[5, 5, 1\]\. Change it or use"
    ):
        build_network("nnformer", 1, 2, **flat)
    build_network("nnformer", 1, 2, **flat, relative_index="exact")(torch.zeros(1, 1, 6, 32, 32))
