"""Four small teachers for where the published checkpoints are out of reach; recipe.json says how each was made."""
