"""What it costs a search to be watched: its epochs in turn with and without a view, in one run.

>>> bench_live.report(pairs=2)["over_unwatched"]                       # doctest: +SKIP
1.01
"""

from __future__ import annotations

import statistics
import tempfile
import time

from hmq_lab.explorers import watching
from hmq_lab.runs import live, records

EPOCHS = 1000  # more than are waited for
SETTINGS = {"preset": "quick/builtin", "search_epochs": EPOCHS, "final_epochs": 0, "calibration_pictures": 64}
SETTINGS |= {"snapshots": 7 * EPOCHS, "log_every": 1}  # an epoch has as many tables as in the preset


def report(pairs: int = 8, **arguments) -> dict:
    """Seconds of an epoch of the built-in search with and without a view of it, medians, and the median of the pairs'
    ratios with its quartiles. share: of one processor, what the view used.

    Every step is an event here, ten times as many as the preset has, so that the view has more to do than usual.
    arguments: of `live.start`, instead of the built-in search. Where it fails, RuntimeError with its message.
    """
    alone, watched = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = live.start(f"{folder}/run", **{"settings": SETTINGS} | arguments)
        try:
            epoch = _Epochs(run)
            epoch()  # the first one warms up
            view = watching.live(f"{folder}/run")  # as does the view
            epoch()
            for pair in range(pairs):
                for looking in (pair % 2 == 0, pair % 2 == 1):  # neither is always the first
                    (watched if looking else alone).append(epoch(view if looking else None))
        finally:
            run.interrupt()
            while run.is_alive():
                time.sleep(0.1)
    ratios = [a / b for a, b in zip(watched, alone, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if pairs > 1 else ratios * 3
    return {
        "unwatched_seconds": statistics.median(alone),
        "watched_seconds": statistics.median(watched),
        "over_unwatched": middle,
        "low": low,
        "high": high,
        "share": epoch.used / sum(watched),
        "pairs": pairs,
        "hardware": records.hardware(),
    }


class _Epochs:
    """Called, it waits for the end of the next epoch and returns how long that took."""

    def __init__(self, run: live.Run):
        self.run, self.seen, self.ended = run, 0, time.perf_counter()
        self.used = 0.0  # seconds of the processor, by the view

    def __call__(self, view: watching.Live | None = None) -> float:
        due = 0.0
        while True:
            time.sleep(0.05)
            new = self.run.follow(self.seen)
            self.seen += len(new)
            if any(event["kind"] == "epoch" for event in new):
                before, self.ended = self.ended, time.perf_counter()
                return self.ended - before
            if view is not None and time.perf_counter() > due:
                begun = time.thread_time()
                view.update(patient=True)
                self.used += time.thread_time() - begun
                due = time.perf_counter() + watching.LOOK
            if not new and not self.run.is_alive():
                raise RuntimeError(f"the search is {self.run.state}: {self.run.message}")


def text(found: dict) -> str:
    """The report in words."""
    return (
        f"a search that is watched takes {found['over_unwatched']:.3f} times as long "
        f"(quartiles {found['low']:.3f} to {found['high']:.3f} of {found['pairs']} pairs of epochs)\n"
        f"the view uses {found['share']:.1%} of one processor"
    )
