"""Four small teachers that stand in where the published checkpoints are out of reach.

Real models of the same transformers classes, trained by this project on drawn shapes (kdlib.data.shapes,
another seed than the study's data), saved in the official formats. ``python -m kdlib.teachers.standins``
trains them again; recipe.json beside each checkpoint says how it was made and what it scored.
"""
