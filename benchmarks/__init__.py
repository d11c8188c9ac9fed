"""Benchmarks: what is timed, against what, and what it should be. Run with ``pytest benchmarks/ --benchmark-only``."""
