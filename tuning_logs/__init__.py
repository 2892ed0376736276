"""Records that come with edgecc, an archive a target; ``scripts/tune_suite.py`` makes them."""
