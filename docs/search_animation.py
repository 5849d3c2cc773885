"""The README's animated image: the bits of every layer while a recorded search runs.

    python docs/search_animation.py docs/search.gif

Everything in it is read from a record that comes with the package.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from hmq_lab import plots
from hmq_lab.runs import records

RECORD = "cifar10-resnet20-w16-a8"
BITS = np.arange(1, 9)
QUARTER = 0.25  # of the steps: in it most bits are chosen, so most frames are drawn of it
EARLY, LATE = 60, 24  # frames before and after
MILLISECONDS, HOLD = 110, 4000  # for a frame, and for the last one
COLOURS = 48


def bits_over_time(record) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The recorded steps (S), the expected bits of each weight tensor at each (S, T), and the
    tensors' names.
    """
    events = record.of("tables")
    names = [name for name in events[0]["tables"] if name.endswith(".weight")]
    steps = np.array([event["step"] for event in events])
    expected = np.zeros((len(events), len(names)))
    for row, event in enumerate(events):
        for column, name in enumerate(names):
            # A row for each bit-width, a column for each threshold.
            probability = np.asarray(event["tables"][name], dtype=float).sum(1)
            expected[row, column] = (probability * BITS).sum() / probability.sum()
    return steps, expected, names


def in_between(steps: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and bits of the frames, interpolated between the recorded ones so that the bars move
    and do not jump.
    """
    last = steps[-1]
    early = np.linspace(0, QUARTER * last, EARLY, endpoint=False)
    times = np.concatenate([early, np.linspace(QUARTER * last, last, LATE)])
    columns = [np.interp(times, steps, expected[:, column]) for column in range(expected.shape[1])]
    return times, np.stack(columns, 1)


def draw(record, step: float, bits: np.ndarray, names: list[str], last: bool) -> Image.Image:
    """One frame: the bits of each layer, and the compression up to this step."""
    events = [event for event in record.of("step") if event["stage"] == 1]
    at = np.array([event["step"] for event in events])
    compression = np.array([event["expected_rate"] for event in events])
    target = record.results["target"]["weights"]

    with mpl.rc_context(
        {"font.size": 11, "figure.facecolor": "white", "savefig.facecolor": "white"}
    ):
        figure = mpl.figure.Figure(figsize=(8, 4.4), dpi=100, layout="constrained")
        top, bottom = figure.subplots(2, 1, height_ratios=(2.2, 1))

        # The bits of each layer, from the first to the last.
        colours = mpl.colormaps["viridis"]((bits - 1) / 7)
        top.bar(np.arange(len(bits)), bits, color=colours, edgecolor="white")
        top.set(ylim=(0, 8.6), yticks=BITS, ylabel="expected bits", xlim=(-0.6, len(bits) - 0.4))
        top.set_xticks([0, len(bits) - 1], ["first layer", "last layer"])
        top.set_title("ResNet-20 on CIFAR10: a search chooses the bits of every layer", loc="left")
        top.grid(axis="y", alpha=0.3)
        top.set_axisbelow(True)

        # The compression so far, and where it is to arrive.
        seen = at <= step
        bottom.axhline(target, color=plots.INK, ls="--", lw=1)
        bottom.plot(at[seen], compression[seen], color=plots.BLUE, lw=2)
        bottom.set(
            xlim=(0, at[-1]),
            ylim=(0, 1.25 * max(target, compression.max())),
            xlabel="step of the search",
        )
        bottom.set_ylabel("weights\nsmaller by")
        bottom.text(
            at[-1] * 0.995,
            target * 1.06,
            f"target {target:g}",
            ha="right",
            va="bottom",
            fontsize=10,
        )
        if last:
            accuracy, rates = record.results["accuracy"], record.results["rates"]
            said = (
                f"{rates['weights']:.1f} times smaller, {accuracy['test']:.1f} % "
                f"of the test images right (float: {accuracy['float_test']:.1f} %)"
            )
            bottom.text(at[-1] * 0.6, target * 0.42, said, ha="center", va="center", weight="bold")
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(png := io.BytesIO(), format="png")
    return Image.open(png).convert("RGB")


def main(target: Path) -> None:
    record = records.recorded(RECORD)
    steps, expected, names = bits_over_time(record)
    times, bits = in_between(steps, expected)
    frames = [
        draw(record, time, row, names, last=number == len(times) - 1)
        for number, (time, row) in enumerate(zip(times, bits, strict=True))
    ]
    # One palette for all frames: what does not change is then stored once.
    palette = frames[-1].quantize(COLOURS, dither=Image.Dither.NONE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [MILLISECONDS] * (len(small) - 1) + [HOLD]
    small[0].save(
        target, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True
    )
    print(f"{target}: {len(small)} frames, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
