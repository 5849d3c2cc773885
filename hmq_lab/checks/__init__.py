"""What the exercises call to judge an answer: `checks.<name>(answer)` shows a verdict, and what was checked."""

from hmq_lab.checks.frame import Verdict
from hmq_lab.checks.lesson00 import largest, mean_bits
from hmq_lab.checks.lesson01 import released, rescale, step, to_codes
from hmq_lab.checks.lesson02 import best_exponent, error_parts, fewest_bits
from hmq_lab.checks.lesson03 import gradient_step, gradient_tied, gradient_x
from hmq_lab.checks.lesson04 import cycle_temperature, expected_gradient, gumbel_max, relaxed_sample
from hmq_lab.checks.lesson05 import expected_parameters, first_logit, logit_gradient, selection
from hmq_lab.checks.lesson06 import best_bits, hinge, regret
from hmq_lab.checks.lesson10 import accumulator_bits, aligned_sum, pack, requantize

__all__ = [
    "Verdict", "accumulator_bits", "aligned_sum", "best_bits", "best_exponent", "cycle_temperature", "error_parts",
    "expected_gradient", "expected_parameters", "fewest_bits", "first_logit", "gradient_step", "gradient_tied",
    "gradient_x", "gumbel_max", "hinge", "largest", "logit_gradient", "mean_bits", "pack", "regret",
    "relaxed_sample", "released", "requantize", "rescale", "selection", "step", "to_codes",
]  # fmt: skip
