"""Other ways to choose bits, what a choice costs, and the game against the search."""

from hmq_lab.rivals.methods import alone, exhaustive, greedy, integer_programme, uniform

__all__ = ["alone", "exhaustive", "greedy", "integer_programme", "uniform"]
