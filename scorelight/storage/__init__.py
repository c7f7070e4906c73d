"""Storage on disk: atomic writes, checkpoints, shards, and models as plain data."""
