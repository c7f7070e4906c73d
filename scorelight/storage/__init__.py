"""What lies on disk: files written atomically, checkpoints, shards, and models as plain data."""
