"""Real models and data sets of tests and benchmarks: where they come from, how they are built."""
