"""The command `hmq-lab placements`: list what is quantized in a network."""

from __future__ import annotations

import argparse
from typing import Any

from hmq_lab.commands.frame import whole


def add(commands: Any, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    command = commands.add_parser(
        "placements", help="list what is quantized in a network", formatter_class=formatter
    )
    command.set_defaults(command=placements)
    command.add_argument(
        "--model", required=True, help="a CIFAR network of ours or any of torchvision's"
    )
    command.add_argument(
        "--classes", type=whole(1), help="outputs (default: 10 for ours, 1000 for torchvision's)"
    )
    command.add_argument(
        "--image-size",
        "--picture-size",
        type=whole(1),
        metavar="N",
        help="pixels a side (default: 32, or 224)",
    )


def placements(options: argparse.Namespace) -> int:
    """The command: prints a row for each tensor, and sums."""
    import torch

    from hmq_lab import models
    from hmq_lab.data.tables import columns
    from hmq_lab.placement import attach
    from hmq_lab.placement import placements as listed

    small = models.is_for_small_images(options.model)
    classes = options.classes or (10 if small else 1000)
    size = options.image_size or (32 if small else 224)
    torch.manual_seed(0)
    model = models.build(options.model, classes=classes)
    attach(model, sample=torch.randn(2, 3, size, size))

    # A row for each tensor.
    rows: list[tuple[str, ...]] = [("tensor", "kind", "elements", "", "why")]
    for place in listed(model):
        form = "signed" if place.signed else "unsigned"
        rows.append(
            (
                place.name,
                place.kind,
                f"{place.size:,}",
                form if place.quantized else "float",
                place.reason,
            )
        )
    print(columns(rows))

    # How many there are of each kind.
    quantized = [place for place in listed(model) if place.quantized]
    for kind in ("weight", "activation"):
        sizes = [place.size for place in quantized if place.kind == kind]
        print(f"{len(sizes)} {kind} tensors quantized, {sum(sizes):,} elements")
    return 0
