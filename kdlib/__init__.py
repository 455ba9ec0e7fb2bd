"""Visual model distillation, as one flow of data.

dataset -> teacher -> features -> loader -> student -> loss -> trainer -> evaluation -> result -> table -> notebook

Shapes, everywhere in this package: B batch, N image tokens, L text tokens, D student width, T teacher width,
C captions of an image, K classes. A temperature is ``tau``. The student comes first.
"""

__version__ = "0.1.0"

_PLACES = {"RunConfig": "config", "Experiment": "experiment", "runs": "tables", "results": "tables",
           "compare": "comparisons", "retention": "comparisons", "show": "show"}  # fmt: skip


def __getattr__(name: str):
    # Imported when they are asked for, so that reading a table does not wait for torch.
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"kdlib has no {name}; it has {', '.join(_PLACES)}.")
    module = importlib.import_module(f"kdlib.{_PLACES[name]}")
    return module if name == "show" else getattr(module, name)
