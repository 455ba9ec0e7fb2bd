"""From embeddings to scores, one file per kind of score. ``exam`` is the protocol: which scores, on which splits."""
