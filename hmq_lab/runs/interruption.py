"""Ctrl-C and SIGTERM as a polite request: finish the step, save, and say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT (Ctrl-C, a notebook's stop button) and SIGTERM set; a second one interrupts at once."""
    stop = threading.Event()
    before = {}

    def handler(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)
        }
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)
