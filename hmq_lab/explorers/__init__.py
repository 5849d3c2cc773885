"""Explorers: move a slider, see what changes, read one sentence that says what the figure shows.

>>> from hmq_lab import explorers
>>> explorers.quantizer(model.conv1.weight)  # shown where a cell ends so
>>> explorer = explorers.surface(weight, bits=2)
>>> explorer.controls["bits"].value = 4  # as the slider does; `explorer.set(bits=4)` does the same
>>> print(explorer.sentence)

Each is a state, `compute(state, ...) -> result` of plain numbers, `draw` and `move` that put a
result on a figure, and core ipywidgets around it (`frame.py`). Where no kernel runs, the image
and its sentence stay.
"""

from hmq_lab.explorers.choice import Selection
from hmq_lab.explorers.error_surface import surface
from hmq_lab.explorers.following import integers
from hmq_lab.explorers.frame import Explorer
from hmq_lab.explorers.mixing import block
from hmq_lab.explorers.own_network import network
from hmq_lab.explorers.placing import placements
from hmq_lab.explorers.playback import replay
from hmq_lab.explorers.playing import beat
from hmq_lab.explorers.quantizing import quantizer
from hmq_lab.explorers.reasoning import why
from hmq_lab.explorers.sampling import gumbel
from hmq_lab.explorers.selecting import selection
from hmq_lab.explorers.watching import live

__all__ = [
    "Explorer",
    "Selection",
    "beat",
    "block",
    "gumbel",
    "integers",
    "live",
    "network",
    "placements",
    "quantizer",
    "replay",
    "selection",
    "surface",
    "why",
]
