"""Visual model distillation, as one flow of data.

dataset -> teacher -> feature store -> student -> loss -> trainer -> evaluation -> result -> table -> report

Shapes, everywhere in this package:

B batch, N tokens of an image, L tokens of a text, D student width, T teacher width,
C captions of an image, K classes. A temperature is ``tau``. Losses take the student first.
"""

__version__ = "0.1.0"
