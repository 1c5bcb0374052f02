"""Writes the pictures and the generated rows of docs/networks.md.

    python docs/draw_networks.py [NETWORK ...]

Without names, all networks. A picture shows a network as it computes, from left to right. Each box is one
part that runs: the deeper it is, the coarser its grid; the wider it is, the more channels it has. Blue parts
contain a Mamba, grey ones only convolutions. The shapes are those of the network on the meta device for a
patch of 128^3, or for the only patch on which it computes. The rows are counted for the options in `examples`
of the network's class.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from mambamed.networks import NETWORKS, build_network, network_class, options_of
from mambamed.networks.cost import network_cost

HERE = Path(__file__).resolve().parent / "networks"
PATCH = 128
PAGE = HERE.with_suffix(".md")
ROW = re.compile(r"^\| `(\w+)` \| .* \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \d+ \|\n", re.MULTILINE)
FURTHER = "<!-- pictures of networks that the text above does not show; written by draw_networks.py -->\n"
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
        network.eval()(torch.zeros(1, in_channels, *patch_of(network), device="meta"))
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


def built(name: str, options: str) -> tuple[nn.Module, int]:
    """A network on the meta device, and its input channels: 4 and 4 outputs, or 1 and 1 to classify.

    Args:
        name: a key of `NETWORKS`.
        options: as in a recipe, e.g. "mixer: none".
    """
    given = yaml.safe_load(f"{{{options}}}") or {}
    with torch.device("meta"):
        network = build_network(name, 4, 4, **given)
        if hasattr(network, "deep_supervision_strides"):
            return network, 4
        return build_network(name, 1, 1, **given), 1


def patch_of(network: nn.Module) -> tuple[int, int, int]:
    """The patch for which a network is counted: 128^3, unless it is built for another one."""
    return getattr(network, "grid", None) or (PATCH, PATCH, PATCH)


def examples(name: str) -> tuple[str, ...]:
    """The options of the rows of a network."""
    return getattr(network_class(name), "examples", ("",))


def picture(name: str) -> str:
    """The picture of a network with the options of its first row, without deep supervision."""
    options = [part for part in (examples(name)[0],) if part]
    if "deep_supervision" in options_of(name):
        options.append("deep_supervision: false")
    network, inputs = built(name, ", ".join(options))
    return drawing(name, parts_of(network, inputs))


def rows(name: str) -> str:
    """The rows of a network in the table of costs."""
    lines = []
    for options in examples(name):
        network, inputs = built(name, options)
        cost = network_cost(network, inputs, patch_of(network))
        lines.append(
            f"| `{name}` | {f'`{options}`' if options else ''} | {cost.parameters / 1e6:.3f} "
            f"| {cost.gmacs:.1f} | {cost.scan_g:.2f} | {cost.longest_sequence} |\n"
        )
    return "".join(lines)


def page_with(page: str, counted: Mapping[str, str]) -> str:
    """The page with its generated parts written again.

    Args:
        page: the page as it is.
        counted: network -> its rows; the rows of the others stay.
    """
    old = list(ROW.finditer(page))
    known = {name: "".join(m[0] for m in old if m[1] == name) for name in NETWORKS}
    table = "".join((known | dict(counted)).values())
    page = page[: old[0].start()] + table + page[old[-1].end() :]
    text, _, rest = page.partition(FURTHER)
    further = [name for name in NETWORKS if f"(networks/{name}.svg)" not in text]
    lines = []
    for name in further:
        first = inspect.cleandoc(network_class(name).__doc__ or "").partition("\n")[0]
        lines.append(f"| ![{name}](networks/{name}.svg) | `{name}`: {first} |\n")
    after = rest.partition("\n\n")[2]
    return f"{text}{FURTHER}| | |\n|---|---|\n{''.join(lines)}\n{after}"


def main(names: Sequence[str]) -> None:
    """Write the picture and the rows of each network."""
    HERE.mkdir(exist_ok=True)
    for name in names:
        (HERE / f"{name}.svg").write_text(picture(name))
    PAGE.write_text(page_with(PAGE.read_text(), {name: rows(name) for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
