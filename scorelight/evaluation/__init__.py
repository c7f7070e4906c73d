"""Evaluation of a model: samples, reference statistics, metrics."""
