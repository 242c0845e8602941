"""Benchmarks: the suite, lm-eval on a model, and what a difference of two scores is worth."""
