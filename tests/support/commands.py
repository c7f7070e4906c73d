"""Commands run in this process."""

import pytest

from scorelight.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *args: object, code: int = 2) -> str:
    """What a command that must fail prints to stderr: one message and no traceback."""
    assert main([*map(str, args)]) == code
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr and stderr.count("scorelight: error:") == 1
    return stderr
