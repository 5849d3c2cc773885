"""What a search leaves, and how it goes on: records, checkpoints, processes, sweeps, live views.

>>> from hmq_lab import runs
>>> network, record = runs.load("runs/builtin")  # doctest: +SKIP
"""

from hmq_lab.runs.loading import load, own_module, rebuild

__all__ = ["load", "own_module", "rebuild"]
