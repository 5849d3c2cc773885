"""The cost of watching a search: its epochs in turn with and without a view, in one run.

>>> report(pairs=2)["over_unwatched"]  # doctest: +SKIP
1.01
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

from hmq_lab.commands import bench

try:
    from hmq_lab.explorers import watching
except ImportError as error:
    raise bench.needs_lab(error, "--live") from error

from hmq_lab.runs import live, records

# More than the benchmark waits for.
EPOCHS = 1000
SETTINGS = {
    "preset": "quick/builtin",
    "search_epochs": EPOCHS,
    "final_epochs": 0,
    "calibration_images": 64,
    # As many tables in an epoch as the preset has.
    "snapshots": 7 * EPOCHS,
    # Every step is an event, ten times as many as the preset has.
    "log_every": 1,
}


def report(pairs: int = 8, **arguments: Any) -> dict:
    """Return the seconds of an epoch of the built-in search, with and without a view of it.

    Args:
        pairs: of an epoch with and one without a view.
        arguments: of `live.start`, for another search.

    Returns:
        Medians of the seconds; the median of the ratios of all pairs, with its quartiles (low,
        high); and the `share` of one processor that the view used.

    Raises:
        RuntimeError: with the message of the search, where it fails.
    """
    # Seconds of epochs.
    unwatched, watched = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = live.start(f"{folder}/run", **{"settings": SETTINGS} | arguments)
        try:
            # The first epoch warms up, and so does the first one with a view.
            epoch = _Epochs(run)
            epoch()
            view = watching.live(f"{folder}/run")
            epoch()

            # Neither of a pair is always the first.
            for pair in range(pairs):
                for is_watched in (pair % 2 == 0, pair % 2 == 1):
                    if is_watched:
                        watched.append(epoch(view))
                    else:
                        unwatched.append(epoch())
        finally:
            run.interrupt()
            while run.is_alive():
                time.sleep(0.1)

    # The ratio of a pair is less noisy than that of the medians.
    ratios = [a / b for a, b in zip(watched, unwatched, strict=True)]
    low = middle = high = ratios[0]
    if pairs > 1:
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "unwatched_seconds": statistics.median(unwatched),
        "watched_seconds": statistics.median(watched),
        "over_unwatched": middle,
        "low": low,
        "high": high,
        "share": epoch.used / sum(watched),
        "pairs": pairs,
        "hardware": records.hardware(),
    }


class _Epochs:
    """Called, it waits for the end of the next epoch and returns how long that took.

    Args:
        run: the search.

    Attributes:
        used: seconds of the processor, by the view.
    """

    def __init__(self, run: live.Run):
        # The end of the last epoch that was seen.
        self.run, self.seen, self.ended = run, 0, time.perf_counter()
        self.used = 0.0

    def __call__(self, view: watching.Live | None = None) -> float:
        # The first look is due at once.
        due = 0.0
        while True:
            # New events, and an epoch among them?
            time.sleep(0.05)
            new = self.run.follow(self.seen)
            self.seen += len(new)
            if any(event["kind"] == "epoch" for event in new):
                before, self.ended = self.ended, time.perf_counter()
                return self.ended - before

            # Look as often as a notebook does.
            if view is not None and time.perf_counter() > due:
                begun = time.thread_time()
                view.update(patient=True)
                self.used += time.thread_time() - begun
                due = time.perf_counter() + watching.LOOK
            # Nothing more will come.
            if not new and not self.run.is_alive():
                raise RuntimeError(f"the search is {self.run.state}: {self.run.message}")


def text(found: dict) -> str:
    """Return the report in words.

    Args:
        found: what `report` returned.

    Returns:
        Text in plain English.
    """
    return (
        f"a search that is watched takes {found['over_unwatched']:.3f} times as long "
        f"(quartiles {found['low']:.3f} to {found['high']:.3f} of {found['pairs']} pairs of "
        f"epochs)\nthe view uses {found['share']:.1%} of one processor"
    )
