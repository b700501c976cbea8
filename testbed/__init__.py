"""Real servers that tests and benchmarks read from."""
