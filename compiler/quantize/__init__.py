"""Quantisation: from a float graph and data to a graph that says what is stored as integers."""
