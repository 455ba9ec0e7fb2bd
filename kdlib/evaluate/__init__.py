"""Embeddings in, scores out: one file per question that is asked of an encoder."""
