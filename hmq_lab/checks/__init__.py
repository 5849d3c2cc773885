"""What the exercises call to judge an answer: `checks.<name>(answer)` shows what was checked.

`checks.predictions("00")` asks for the predictions of a lesson; `checks.progress_table()` shows
how far a reader came.
"""

from hmq_lab.checks.frame import REGISTERED as REGISTERED
from hmq_lab.checks.frame import Verdict
from hmq_lab.checks.lesson00 import largest, mean_bits
from hmq_lab.checks.lesson01 import released, rescale, step, to_codes
from hmq_lab.checks.lesson02 import best_exponent, error_parts, fewest_bits
from hmq_lab.checks.lesson03 import gradient_step, gradient_tied, gradient_x
from hmq_lab.checks.lesson04 import cycle_temperature, expected_gradient, gumbel_max, relaxed_sample
from hmq_lab.checks.lesson05 import expected_parameters, first_logit, logit_gradient, selection
from hmq_lab.checks.lesson06 import best_bits, hinge, regret
from hmq_lab.checks.lesson07 import both_rates, one_bit_share, standard_error
from hmq_lab.checks.lesson08 import activation_bits, inverted, peak_bytes, rest_rate
from hmq_lab.checks.lesson09 import agreement, kept, rank_correlation
from hmq_lab.checks.lesson10 import accumulator_bits, aligned_sum, pack, requantize
from hmq_lab.checks.lesson11 import best_rate, pareto, recount, wcr
from hmq_lab.checks.lesson12 import beats, bit_operations, cheapest_bit
from hmq_lab.checks.lesson13 import largest_exponent, share, upright
from hmq_lab.checks.predict import Prediction as Prediction
from hmq_lab.checks.predict import predictions as predictions
from hmq_lab.checks.predict import progress_table as progress_table

# The checks, and what they return.
__all__ = [
    "Verdict",
    "accumulator_bits",
    "activation_bits",
    "agreement",
    "aligned_sum",
    "beats",
    "best_bits",
    "best_exponent",
    "best_rate",
    "bit_operations",
    "both_rates",
    "cheapest_bit",
    "cycle_temperature",
    "error_parts",
    "expected_gradient",
    "expected_parameters",
    "fewest_bits",
    "first_logit",
    "gradient_step",
    "gradient_tied",
    "gradient_x",
    "gumbel_max",
    "hinge",
    "inverted",
    "kept",
    "largest",
    "largest_exponent",
    "logit_gradient",
    "mean_bits",
    "one_bit_share",
    "pack",
    "pareto",
    "peak_bytes",
    "rank_correlation",
    "recount",
    "regret",
    "relaxed_sample",
    "released",
    "requantize",
    "rescale",
    "rest_rate",
    "selection",
    "share",
    "standard_error",
    "step",
    "to_codes",
    "upright",
    "wcr",
]
