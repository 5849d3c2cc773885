"""The command `hmq-lab train`: train a float network and write its weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hmq_lab.commands.frame import (
    NETWORK_FOR,
    add_data,
    add_network,
    add_overwrite,
    check_output,
    device,
    typed,
    whole,
)


def add(commands: Any, formatter: type) -> None:
    """Add the subcommand to `commands`, as argparse knows them."""
    command = commands.add_parser("train", help="train a float network", formatter_class=formatter)
    command.set_defaults(command=train)
    # The images and the network.
    add_data(command)
    add_network(command, "to begin from: safetensors or .pth (default: random ones)")
    command.add_argument(
        "--freeze-norms",
        action="store_true",
        help="batch norms keep their statistics: for weights into which they were folded",
    )
    command.add_argument(
        "--epochs", type=int, default=60, metavar="N", help="passes over the training images"
    )
    command.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="its peak")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in a step")
    command.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="same seed, same network"
    )
    command.add_argument(
        "--device", default="auto", help="cpu, cuda, ...; auto takes cuda where there is one"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a .safetensors file"
    )
    add_overwrite(command)


def train(options: argparse.Namespace) -> int:
    """The command: prints each epoch, and the test accuracy at the end."""
    from hmq_lab.models.training import train_weights

    # What could go wrong with the file goes wrong before the training.
    name = options.model or NETWORK_FOR.get(options.data, "mobilenet_v2")
    inputs = [Path(options.weights)] if options.weights else []
    check_output(options.out, [".safetensors"], options.overwrite, inputs, option="--out")
    # The training itself, which writes the file.
    about = train_weights(
        name,
        options.data,
        options.out,
        seed=options.seed,
        root=options.root,
        download=options.download,
        normalize=options.normalize,
        image_size=options.image_size,
        epochs=options.epochs,
        weights=options.weights,
        outputs=options.outputs,
        freeze_norms=options.freeze_norms,
        command=typed(),
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        device=device(options.device),
        progress=print,
    )
    print(f"{about['accuracy']:.2f} % on the test images; written to {options.out}")
    return 0
