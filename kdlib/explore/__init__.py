"""Tools to look at finished runs: the notebook inside (what was transferred), and the explorer."""
