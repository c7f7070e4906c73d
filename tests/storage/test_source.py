"""Of which code a result is: that of its classes and of what they import, and no other."""

import importlib
import sys

import pytest

import scorelight
from scorelight.storage import source
from scorelight.storage.source import code_digest

MODULES = {
    "digest_helper": "def two():\n    return 2\n",
    "digest_base": "class Base:\n    '''A base.'''\n    value = 1\n",
    "digest_other": "class Other:\n    pass\n",
    "digest_own": (
        "from digest_base import Base\nfrom digest_helper import two\n\n"
        "class Own(Base):\n    def f(self):\n        return two()  # a comment\n"
    ),
}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """The digest of a user's class, with the content of some modules changed."""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(**changes):
        for name, text in (MODULES | changes).items():
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        importlib.import_module("digest_other")
        return code_digest([importlib.import_module("digest_own").Own])

    yield digest
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("module", "old", "new", "counts"),
    [
        ("digest_own", "two()", "two() + 1", True),
        ("digest_own", "a comment", "another comment", False),
        ("digest_base", "A base", "Another docstring", False),
        ("digest_base", "value = 1", "value = 2", True),
        ("digest_helper", "return 2", "return 3", True),
        ("digest_other", "pass", "value = 3", False),
    ],
)
def test_code_that_is_used_counts_and_comments_do_not(module, old, new, counts, digest):
    before = digest()
    assert digest() == before
    changed = MODULES[module].replace(old, new)
    assert changed != MODULES[module]
    assert (digest(**{module: changed}) != before) == counts


@pytest.mark.parametrize(
    ("module", "of_ddim"),
    [
        (scorelight.DDIM.__module__, True),
        ("scorelight.samplers.base", True),
        ("scorelight.parameterizations", True),
        (scorelight.DPMSolverPP.__module__, False),
        (scorelight.UNet.__module__, False),
        ("scorelight.storage.component", False),
        ("scorelight.errors", False),
    ],
)
def test_of_scorelight_only_what_a_class_imports_counts(module, of_ddim, monkeypatch):
    before, content = code_digest([scorelight.DDIM]), source._content

    def edited(found):
        return content(found) + b"\nedited = 1\n" * (found.__name__ == module)

    monkeypatch.setattr(source, "_content", edited)
    assert (code_digest([scorelight.DDIM]) != before) == of_ddim
