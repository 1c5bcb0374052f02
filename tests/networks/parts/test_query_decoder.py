"""The query decoder against its formulas written out (architectures2.md, section 24)."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mambamed.networks.parts.query_decoder import QueryDecoder

QUERIES, CLASSES, WIDTH, HEADS = 5, 3, 96, 4
WIDTHS = (7, 6, 5, 4)  # of three levels, and of the finest features
SHAPES = ((1, 2, 2), (2, 3, 2), (4, 5, 4), (4, 10, 8))


def decoder(layers: int = 2, layer_scale: bool = False) -> QueryDecoder:
    torch.manual_seed(0)
    sizes = dict(width=WIDTH, heads=HEADS, mlp=48)
    return QueryDecoder(WIDTHS[:3], WIDTHS[3], CLASSES, QUERIES, layers, layer_scale, **sizes).double().eval()


def features() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, c, *s, dtype=torch.float64) for c, s in zip(WIDTHS, SHAPES, strict=True)]


def position(n: int, size: int, k: int) -> float:
    """Number k of 32 per axis, of voxel n counted from 1."""
    angle = n / (size + 1e-6) * 2 * math.pi / 10000 ** (3 * (k // 3) / 32)
    return math.sin(angle) if k % 2 == 0 else math.cos(angle)


def positions(shape: tuple[int, ...]) -> Tensor:
    rows = []
    for d in range(shape[0]):
        for h in range(shape[1]):
            for w in range(shape[2]):
                place = zip((d, h, w), shape, strict=True)
                rows.append([position(n + 1, size, k) for n, size in place for k in range(32)])
    return torch.tensor(rows, dtype=torch.float64)


def literal(w: dict[str, Tensor], levels: list[Tensor], finest: Tensor, layers: int) -> list[Tensor]:
    """Predictions of the start and of each layer, of one patch: sums of p sigmoid(m), `(K, D, H, W)`."""

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def attention(q: Tensor, k: Tensor, v: Tensor, name: str, hidden: Tensor | None = None) -> Tensor:
        weight, bias = w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"]
        parts = zip((q, k, v), weight.chunk(3), bias.chunk(3), strict=True)
        q, k, v = (x @ a.T + b for x, a, b in parts)
        heads, size = [], WIDTH // HEADS
        for i in range(HEADS):
            own = slice(i * size, (i + 1) * size)
            scores = q[:, own] @ k[:, own].T / math.sqrt(size)
            if hidden is not None:
                scores = scores.masked_fill(hidden, -math.inf)
            heads.append(scores.softmax(1) @ v[:, own])
        return dense(torch.cat(heads, 1), f"{name}.out_proj")

    mask_features = functional.conv3d(finest, w["mask_features.weight"], w["mask_features.bias"])

    def predict(o: Tensor) -> tuple[Tensor, Tensor]:
        d = norm(o, "norm")
        embedding = dense(dense(dense(d, "masks.0").relu(), "masks.2").relu(), "masks.4")
        return dense(d, "classes"), torch.einsum("qc,cdhw->qdhw", embedding, mask_features[0])

    memory = []
    for i in range(min(layers, 3)):
        x = functional.conv3d(levels[i], w[f"inputs.{i}.0.weight"], w[f"inputs.{i}.0.bias"])
        x = functional.group_norm(x, 32, w[f"inputs.{i}.1.weight"], w[f"inputs.{i}.1.bias"])
        memory.append(x[0].flatten(1).T + w["level_embed"][i])
    o, e = w["state"], w["positions"]
    predictions = [predict(o)]
    for i in range(layers):
        at, level = f"layers.{i}", memory[i % 3]
        shape = levels[i % 3].shape[2:]
        small = functional.interpolate(predictions[-1][1][None], shape, mode="trilinear", align_corners=False)
        hidden = small[0].flatten(1).sigmoid() < 0.5
        for row in hidden:
            if row.all():
                row[:] = False
        o = norm(
            o + attention(o + e, level + positions(shape), level, f"{at}.cross", hidden), f"{at}.cross_norm"
        )
        o = norm(o + w.get(f"{at}.own_scale", 1) * attention(o + e, o + e, o, f"{at}.own"), f"{at}.own_norm")
        total = o + dense(dense(o, f"{at}.fc1").relu(), f"{at}.fc2")
        o = norm(w.get(f"{at}.mlp_scale", 1) * total, f"{at}.mlp_norm")
        predictions.append(predict(o))
    semantic = []
    for classes, masks in predictions:
        p = classes.softmax(1)[:, :-1]
        semantic.append(sum(p[q][:, None, None, None] * masks[q].sigmoid() for q in range(QUERIES)))
    return semantic


@pytest.mark.parametrize(("layers", "layer_scale"), [(2, False), (2, True), (4, False)])
def test_its_predictions_are_the_formulas(layers, layer_scale) -> None:
    """The last layer first; with four layers the fourth reads the first level again."""
    part, (*levels, finest) = decoder(layers, layer_scale), features()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_(std=0.4)
        expected = literal(part.state_dict(), levels, finest, layers)[::-1]
        found = part(levels, finest, every=True)
        for logits, sums in zip(found, expected, strict=True):
            torch.testing.assert_close(logits[0].exp(), sums, rtol=1e-4, atol=0)
            assert torch.equal(logits[0].argmax(0), sums.argmax(0))
        (last,) = part(levels, finest, every=False)
        assert torch.equal(last, found[0])


def test_a_query_whose_mask_is_nowhere_positive_attends_to_all_voxels() -> None:
    """All masks are -0.96; without the rule, there would be no number."""
    part, (*levels, finest) = decoder(), features()
    with torch.no_grad():
        part.mask_features.weight.zero_(), part.mask_features.bias.fill_(-0.01)
        part.masks[4].weight.zero_(), part.masks[4].bias.fill_(1)
        (logits,) = part(levels, finest, every=False)
        expected = literal(part.state_dict(), levels, finest, 2)[-1]
    torch.testing.assert_close(logits[0].exp(), expected, rtol=1e-4, atol=0)


def test_layer_scale_starts_at_1e_5() -> None:
    """Then the MLP's sum is so small for its norm that little more than the bias of the norm is left."""
    layer, plain = decoder(layer_scale=True).layers[0], decoder().layers[0]
    o = torch.randn(1, QUERIES, WIDTH, dtype=torch.float64)
    level = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    hidden = torch.zeros(1, QUERIES, 4, dtype=torch.bool)
    with torch.no_grad():
        given = layer(o, 0 * o, level, 0 * level[0], hidden)
        assert 1e-3 < given.abs().max() < 0.02  # 1e-5 / sqrt(1e-5 + 1e-10) = 0.003 of a normal number
        assert plain(o, 0 * o, level, 0 * level[0], hidden).abs().max() > 1


def test_every_parameter_is_used() -> None:
    """Of the vectors of levels, the one that no layer reads has no gradient but zero."""
    part, (*levels, finest) = decoder(), features()
    part.train()
    sum(each.square().mean() for each in part(levels, finest, every=True)).backward()
    assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    assert not part.level_embed.grad[2].any()
    assert len(part.inputs) == 2 and len(decoder(3).inputs) == 3
