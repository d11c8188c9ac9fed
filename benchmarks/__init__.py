"""Benchmarks: what is timed, what it is timed against, and the targets (``rows.py``).

- ``pytest benchmarks/ --benchmark-only`` runs the files ``test_*.py``, on a CPU;
- ``python -m benchmarks.gpu`` runs the files ``gpu_*.py``, on a machine with a GPU;
- ``ablation``, ``clutter``, ``little_data``, ``pruning`` and ``relation_words`` are studies, run as
  ``python -m benchmarks.<name>``;
- ``table`` and ``plots`` write the results into README and docs/speed.md.
"""
