"""Evaluation: suites of benchmarks, lm-eval with the completion store, and how sure a difference of two scores is."""
