"""Draws the pictures of docs/networks.md: every network as it computes, from left to right.

    python docs/draw_networks.py

Each box is one part that the network runs: the deeper it stands, the coarser its grid; the wider it is, the
more channels it has. Blue parts hold a Mamba, grey ones convolutions alone. The shapes are those that the
network itself gives on the meta device for a patch of 128^3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mambamed.networks import build_network

HERE = Path(__file__).resolve().parent / "networks"
PATCH = 128
PICTURES: dict[str, dict] = {
    "nnmamba": {"deep_supervision": False},
    "nnmamba_classifier": {},
    "nnmamba_v1": {},
    "nnmamba_v1_classifier": {},
    "segmamba": {},
    "mamba_unet": {"deep_supervision": False},
    "umamba": {"deep_supervision": False},
    "nnunet": {"deep_supervision": False},
    "nnunet_resenc": {"deep_supervision": False},
    "resunet": {},
    "resnet": {},
    "densenet": {},
    "unetr": {"patch_size": [128, 128, 128]},
    "swin_unetr": {},
    "segresnet": {},
    "mednext": {"deep_supervision": False},
    "vnet": {},
    "vit": {"patch_size": [128, 128, 128]},
}
POOLED = {"nnmamba_classifier", "nnmamba_v1_classifier", "resnet", "densenet", "vit"}
LEVEL, GAP, TOP, LEFT = 46, 8, 16, 44  # pixels


@dataclass(frozen=True)
class Part:
    """One part that ran: its name, the width and voxels along X of what it gave, whether it scans."""

    name: str
    channels: int
    size: int
    scans: bool


def parts_of(network: nn.Module, in_channels: int) -> list[Part]:
    """What runs in a forward pass, in order: children, those of a list (or of a decoder) one by one."""
    ran: list[Part] = []

    def watch(name: str, module: nn.Module) -> None:
        def note(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim in (2, 5):
                scans = any(key.endswith("A_log") for key, _ in module.named_parameters())
                size = output.shape[2] if output.ndim == 5 else 1
                ran.append(Part(name, output.shape[1], size, scans))

        module.register_forward_hook(note)

    def descend(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) or name in ("decoder", "network"):
                descend(f"{prefix}{name} ", child)
            elif not isinstance(child, nn.Identity | nn.Dropout):
                watch(f"{prefix}{name}", child)

    descend("", network)
    with torch.no_grad():
        network.eval()(torch.zeros(1, in_channels, PATCH, PATCH, PATCH, device="meta"))
    return ran


def drawing(title: str, parts: list[Part]) -> str:
    """The parts as an SVG picture."""
    sizes = sorted({part.size for part in parts}, reverse=True)
    x, boxes = float(LEFT), []
    for part in parts:
        width = 10 + 5 * math.log2(max(part.channels, 1))
        y = TOP + sizes.index(part.size) * LEVEL
        fill = "#3b6fb6" if part.scans else "#c9cdd3"
        ink = "#ffffff" if part.scans else "#30343a"
        boxes.append(
            f"<g><title>{part.name}: {part.channels} channels at {part.size}^3</title>"
            f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="30" rx="3" fill="{fill}"/>'
            f'<text x="{x + width / 2:.0f}" y="{y + 19}" fill="{ink}" text-anchor="middle">'
            f"{part.channels}</text></g>"
        )
        x += width + GAP
    height = TOP + len(sizes) * LEVEL
    rows = [
        f'<text x="4" y="{TOP + row * LEVEL + 19}" fill="#30343a">{f"{size}³" if size > 1 else "1"}</text>'
        f'<line x1="{LEFT - 6}" x2="{x:.0f}" y1="{TOP + row * LEVEL + 38}" y2="{TOP + row * LEVEL + 38}" '
        'stroke="#e4e6ea"/>'
        for row, size in enumerate(sizes)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x:.0f} {height}" width="{x:.0f}" '
        f'font-family="sans-serif" font-size="11"><title>{title}</title>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(rows)}{"".join(boxes)}</svg>\n'
    )


def main() -> None:
    """Write one picture a network."""
    HERE.mkdir(exist_ok=True)
    for name, options in PICTURES.items():
        inputs, outputs = (1, 1) if name in POOLED else (4, 4)
        with torch.device("meta"):
            network = build_network(name, inputs, outputs, **options)
        (HERE / f"{name}.svg").write_text(drawing(name, parts_of(network, inputs)))


if __name__ == "__main__":
    main()
