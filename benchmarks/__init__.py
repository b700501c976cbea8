"""One file per question: each prints a table, states its limit beside the figure, and writes JSON to `results/`."""
