"""hmq_lab: understand mixed-precision quantization with HMQ (ECCV 2020), by running it.

The mathematics is in `quantizer`, `gumbel` and `block`; `placement` puts blocks on a network;
`stages` searches; `runs.runner` saves what it does.
"""

from importlib.metadata import PackageNotFoundError, version

from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.budget import Target
from hmq_lab.placement import attach, detach, placements
from hmq_lab.quantizer import Scheme, quantize
from hmq_lab.runs.runner import search

try:
    __version__ = version("hmq_lab")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+checkout"

__all__ = [
    "HMQ",
    "Scheme",
    "SearchSpace",
    "Target",
    "attach",
    "detach",
    "placements",
    "quantize",
    "search",
]
