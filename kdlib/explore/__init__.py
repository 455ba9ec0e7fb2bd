"""Finished runs, interactive: what was transferred, what is nearest, an explorer."""
