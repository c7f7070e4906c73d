"""``scorelight sample``: samples of a trained model, without its YAML."""

from __future__ import annotations

