"""The autotuner: tasks of a model, candidates, where they are measured, and the log of it all."""
