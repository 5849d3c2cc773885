"""hmq_lab: understand mixed-precision quantization with HMQ (ECCV 2020), by running it."""

from hmq_lab.block import HMQ, SearchSpace
from hmq_lab.placement import attach, detach, placements
from hmq_lab.quantizer import Scheme, quantize

__all__ = ["HMQ", "Scheme", "SearchSpace", "attach", "detach", "placements", "quantize"]
