"""What `reliability.py` tries."""

import common  # noqa: F401  it makes tests/support importable
