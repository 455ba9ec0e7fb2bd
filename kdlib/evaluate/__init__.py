"""Scores: what they are, how sure they are, what they are compared with, and what a student costs."""
