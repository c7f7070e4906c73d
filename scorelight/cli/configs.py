"""The shipped configurations: in the repository's ``configs``, or inside the installed package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from scorelight.errors import ConfigurationError, nearest
from scorelight.storage.trust import import_paths

__all__ = ["config_dir", "list_configs", "packages_named", "resolve_configs"]


def config_dir() -> Path:
    """Folder of the shipped configurations."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> dict[str, Path]:
    """Name, such as ``digits/vp_epsilon``, of every shipped configuration, and its file."""
    root = config_dir()
    return {str(p.relative_to(root).with_suffix("")): p for p in sorted(root.rglob("*.yaml"))}


def list_configs() -> str:
    """A line for each configuration: its name and its first comment."""
    shipped = names()
    width = max(map(len, shipped), default=0)
    lines = [
        f"{name:<{width}}  {p.read_text().partition(chr(10))[0].lstrip('# ')}" for name, p in shipped.items()
    ]
    return "\n".join(lines)


def find_config(name: str) -> str:
    """A file by its path, else a shipped one by its name.

    Raises:
        ConfigurationError: If there is neither.
    """
    if Path(name).is_file():
        return _checked(name)
    shipped = names()
    short = name.removesuffix(".yaml").removeprefix("configs/")
    if short in shipped:
        return str(shipped[short])
    raise ConfigurationError(
        f"--config {name}: no such file, and no shipped configuration; {nearest(short, shipped)}"
    )


def _checked(path: str) -> str:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"--config {path}: expected keys such as model: and data:, got {content!r:.60}"
        )
    return path


def packages_named(args: Sequence[str]) -> set[str]:
    """Top-level packages that the flags and the files of ``--config=FILE`` name: the user's own choice."""
    texts = (arg.partition("=")[2] if "=" in arg else arg for arg in args)
    files = [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]
    named = [*texts, *(yaml.safe_load(Path(file).read_text()) for file in files)]
    return {name.partition(".")[0] for name in import_paths(named)}


def resolve_configs(args: Sequence[str]) -> list[str]:
    """The arguments with every ``--config NAME`` (or ``-c``, or ``--config=NAME``) turned into a path.

    They come first, in their order: the parser lets what comes later win, and flags are to win.
    """
    configs: list[str] = []
    others: list[str] = []
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag not in ("--config", "-c"):
            others.append(arg)
        elif name := value if equals else next(rest, ""):
            configs.append(f"--config={find_config(name)}")
        else:
            raise ConfigurationError(f"{flag}: give a file, or one of {', '.join(names())}")
    return [*configs, *others]
