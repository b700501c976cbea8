"""One benchmark per file: each prints a table with its goal, and writes JSON to `results/`.

Run them from the root of the repository: `python -m benchmarks.NAME`.
"""
