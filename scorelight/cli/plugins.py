"""Imports every package whose classes a command can name.

The parser finds a class by its short name, such as ``DDIM``, among the classes that are imported, and
``import scorelight`` imports none.
"""

from __future__ import annotations

from scorelight import (
    classifiers,
    data,
    denoisers,
    evaluation,
    guidance,
    image_text,
    inverse,
    likelihood,
    metrics,
    networks,
    objectives,
    parameterizations,
    posterior,
    processes,
    samplers,
    times,
    training,
)

__all__ = [
    "classifiers",
    "data",
    "denoisers",
    "evaluation",
    "guidance",
    "image_text",
    "inverse",
    "likelihood",
    "metrics",
    "networks",
    "objectives",
    "parameterizations",
    "posterior",
    "processes",
    "samplers",
    "times",
    "training",
]
