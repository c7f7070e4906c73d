"""The shipped configurations, in the repository's ``configs`` or inside the installed package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from scorelight.errors import ConfigurationError, nearest

__all__ = ["config_dir", "find_table", "list_configs", "resolve_configs", "shipped_configs", "shipped_tables"]

_TABLES = "tables/"


def config_dir() -> Path:
    """Folder of the shipped configurations."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """The file of every shipped configuration by its name, such as ``digits/vp_epsilon``."""
    return {name: path for name, path in _files().items() if not name.startswith(_TABLES)}


def shipped_tables() -> dict[str, Path]:
    """The file of every shipped table by its name, such as ``ddim_1``."""
    return {name.removeprefix(_TABLES): p for name, p in _files().items() if name.startswith(_TABLES)}


def _files() -> dict[str, Path]:
    root = config_dir()
    return {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.yaml"))}


def list_configs() -> str:
    """A line for each configuration: its name and its first comment."""
    shipped = _files()
    width = max(map(len, shipped), default=0)
    lines = [
        f"{name:<{width}}  {p.read_text().partition(chr(10))[0].lstrip('# ')}" for name, p in shipped.items()
    ]
    return "\n".join(lines)


def find_config(name: str) -> str:
    """The path of a configuration: a file, or a shipped one by its name.

    Raises:
        ConfigurationError: If it is neither, or a file that is not a mapping in YAML.
    """
    if Path(name).is_file():
        _check_mapping(name)
        return name
    return _shipped(name, shipped_configs(), f"--config {name}", "configuration")


def find_table(name: str) -> str:
    """The path of a table: a file, or a shipped one by its name.

    Raises:
        ConfigurationError: If it is neither.
    """
    return name if Path(name).is_file() else _shipped(name, shipped_tables(), name, "table")


def _shipped(name: str, shipped: Mapping[str, Path], what: str, kind: str) -> str:
    short = name.removesuffix(".yaml").removeprefix("configs/").removeprefix(_TABLES)
    if short in shipped:
        return str(shipped[short])
    raise ConfigurationError(f"{what}: no such file, and no shipped {kind}; {nearest(short, shipped)}")


def _check_mapping(path: str) -> None:
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"--config {path}: expected keys such as model: and data:, got {content!r:.60}"
        )


def resolve_configs(args: Sequence[str]) -> list[str]:
    """The arguments with every ``--config NAME`` (or ``-c``, or ``--config=NAME``) turned into a path.

    Configurations come first, in their order: to the parser, later arguments override earlier ones.
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
            raise ConfigurationError(f"{flag}: give a file, or one of {', '.join(shipped_configs())}")
    return [*configs, *others]
