"""A study: many experiments. ``file`` reads it, ``status`` says what is done, ``grid`` runs the rest."""

from kdlib.study.file import (
    METHODS,
    ExperimentSpec,
    StudyConfig,
    StudyError,
    experiments,
    load,
    notebooks_folder,
    studies_folder,
)

__all__ = [
    "METHODS", "ExperimentSpec", "StudyConfig", "StudyError", "experiments", "load", "notebooks_folder",
    "studies_folder",
]  # fmt: skip
