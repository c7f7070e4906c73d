"""Descriptions of objects that a stranger may have put into a file, and a record of what a program does.

`draw` draws what is named (functions and classes that scorelight and torch have imported from
elsewhere, canary modules, attributes of classes, look-alikes in unicode), how it is written (a class path, a
string, JSON or YAML in a string, the name of a YAML file, deep nesting, endless lists) and where it is put in
a file. `recording` records every import, process, connection and file opened for writing.
"""

import copy
import encodings.latin_1  # noqa: F401  pickle decodes bytes by it
import importlib
import inspect
import json
import pkgutil
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

import scorelight
from scorelight.errors import ConfigurationError

CANARY = """\
from pathlib import Path
Path({trace!r}).touch()
from scorelight import MLP, VPSDE, DDIM, ToyDataModule, ClippedDenoiser, FlowDequantization
from torch.optim import Adam
class M(MLP): pass
def f(*args, **kwargs): Path({trace!r}).touch()
"""
FUNCTIONS = [
    "os.system",
    "posix.system",
    "builtins.exec",
    "builtins.eval",
    "builtins.print",
    "subprocess.Popen",
    "subprocess.check_call",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.loads",
    "shutil.rmtree",
    "pathlib.Path",
    "functools.partial",
    "types.FunctionType",
    "webbrowser.open",
    "ctypes.CDLL",
    "torch.os.system",
    "torch.sys.exit",
    "torch.load",
    "torch.hub.load",
    "torch.ops.load_library",
    "torch.utils.collect_env.run",
    "torch.utils.cpp_extension.load",
    "torch.nn.Linear",
    "torch.nn.Module",
    "torch.optim.Optimizer",
    "torch.distributed.run.main",
    "numpy.load",
    "numpy.fromfile",
    "jsonargparse.auto_cli",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.cli.instantiate_module",
    "lightning.pytorch.demos.boring_classes.BoringDataModule",
    "lightning.pytorch.callbacks.LambdaCallback",
    "torchvision.datasets.utils.download_url",
    "urllib.request.urlretrieve",
    "antigravity.geohash",
    "this.s",
]
ATTRIBUTES = [
    "scorelight.VPSDE.alpha",
    "scorelight.VPSDE.__init__",
    "scorelight.VPSDE.__class__",
    "scorelight.VPSDE.__base__",
    "scorelight.VPSDE.__subclasses__",
    "scorelight.VPSDE.__init__.__globals__",
    "scorelight.MLP.load_state_dict",
    "scorelight.MLP.forward",
    "scorelight.MLP.T_destination",
    "scorelight.MLP.__module__",
    "scorelight.trust",
    "scorelight.__loader__",
    "scorelight.__getattr__",
    "scorelight.cli.main",
    "scorelight.cli.main.main",
    "scorelight.storage.trust.import_module",
    "scorelight.storage.atomic.shutil.rmtree",
    "scorelight.ScoreModule.load_from_checkpoint",
    "scorelight.ForwardProcess",
    "scorelight.nothing.VPSDE",
    "scorelight.processes.sde.torch.os.system",
    "torch.optim.Adam.step",
    "torch.optim.adam.torch.os.system",
    "torch.optim.lr_scheduler.warnings.warn",
    "torch.optim.lr_scheduler.partial",
    "torch.optim.lr_scheduler.types.FunctionType",
    "torch.optim.swa_utils.AveragedModel",
]
LOOK_ALIKES = [
    "ｏｓ.system",
    "os.ѕystem",
    "scorelіght.VPSDE",
    "scorelight．VPSDE",
    "os\u200b.system",
    " os.system",
    "os.system\n",
    "os..system",
    ".os.system",
    "os.system.",
    "scorelight.VPSDE\0",
    "",
    ".",
    "*",
    "scorelight:VPSDE",
    "scorelight/VPSDE",
    "../canary0.M",
    "canary0",
    "VPSDE",
    "canary0.M()",
    "__import__('os').system",
    "\U0001d418.f",
]


def re_exports() -> list[str]:
    """Everything that modules of scorelight and torch.optim have, but have imported from elsewhere."""
    roots = [scorelight, torch.optim]
    modules = [
        importlib.import_module(module.name)
        for root in roots
        for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")
    ]
    return [
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in sorted(vars(module).items())
        if callable(value) or inspect.ismodule(value)
        if not str(getattr(value, "__module__", "")).startswith(("scorelight", "torch.optim"))
    ]


def canaries(folder: Path, number: int = 4) -> list[str]:
    """Import paths into modules that leave the file ``ran`` in the folder when they run."""
    for i in range(number):
        (folder / f"canary{i}.py").write_text(CANARY.format(trace=str(folder / "ran")))
    names = ("M", "f", "MLP", "VPSDE", "DDIM", "Adam", "Path", "ToyDataModule", "ClippedDenoiser")
    return [f"canary{i}.{name}" for i in range(number) for name in (*names, "FlowDequantization")]


ARGUMENTS = [
    {},
    {"command": "touch ran"},
    {"args": ["touch", "ran"]},
    {"num_steps": 3},
    {"lr": 0.1},
    {"shape": [2]},
]


def written(path: str, rng: random.Random, folder: Path) -> Any:
    """One way to name an object in a file."""
    entry: dict[str, Any] = {"class_path": path}
    if arguments := rng.choice(ARGUMENTS):
        entry[rng.choice(["init_args", "init_args", "dict_kwargs"])] = arguments

    def in_file(content: str, name: str) -> str:
        (folder / name).write_text(content)
        return name

    endless: list[Any] = []
    endless.append(endless)
    ways: list[Callable[[], Any]] = [
        *3 * [lambda: entry],
        lambda: path,
        lambda: json.dumps(entry),
        lambda: yaml.safe_dump(entry),
        lambda: yaml.safe_dump(entry, default_flow_style=True),
        lambda: f"!!python/object/apply:{path} [touch ran]",
        lambda: f"class_path: {path!r}",
        lambda: in_file(yaml.safe_dump(entry), "entry.yaml"),
        lambda: str(folder / in_file(yaml.safe_dump(entry), "entry.json")),
        lambda: in_file(json.dumps(entry), "entry"),
        lambda: "-",
        lambda: [entry],
        lambda: [json.dumps(entry)],
        lambda: {"x": entry},
        lambda: {"class_path": "scorelight.Restart", "init_args": {"sampler": entry}},
        lambda: {"class_path": "scorelight.Energy", "init_args": {"shape": [2], "network": entry}},
        lambda: {
            "class_path": "scorelight.Energy",
            "init_args": {"shape": [2], "network": json.dumps(entry)},
        },
        lambda: {
            "class_path": "scorelight.DDIM",
            "init_args": {"grid": entry, "num_steps": json.dumps(entry)},
        },
        lambda: {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": path}},
        lambda: {"class_path": "torch.optim.lr_scheduler.SequentialLR", "init_args": {"schedulers": [entry]}},
        lambda: {"class_path": [path]},
        lambda: {"class_path": entry},
        lambda: {"class_path": path.encode()},
        lambda: entry | {"__path__": "entry.yaml"},
        lambda: entry | {"__class__": path},
        lambda: {"class_path": "scorelight.VPSDE", "init_args": {"self": entry}},
        lambda: {"class_path": "scorelight.MLP", "init_args": {"shape": [2], "__class__": entry}},
        lambda: nested(entry, rng.choice([3, 30, 300])),
        lambda: endless,
        lambda: doubled(entry, 60),
    ]
    return rng.choice(ways)()


def nested(value: Any, depth: int) -> Any:
    """The value inside that many lists and dicts."""
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


def doubled(value: Any, times: int) -> Any:
    """A list of 2 to the power of `times` values in the memory of a few."""
    for _ in range(times):
        value = [value, value]
    return value


def places(checkpoint: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Where a description can stand in a checkpoint of `ScoreModule`."""
    settings = checkpoint["hyper_parameters"]
    for name, value in settings.items():
        yield "hyper_parameters", name
        if isinstance(value, dict):
            yield "hyper_parameters", name, "class_path"
            for option in value.get("init_args", {}):
                yield "hyper_parameters", name, "init_args", option
            yield "hyper_parameters", name, "init_args", "unknown"
    yield "hyper_parameters", "guidance"
    yield "hyper_parameters", "lr_scheduler"
    yield "hyper_parameters", "_class_path"
    yield "hyper_parameters", "unknown"
    yield ("hyper_parameters",)
    yield ("data",)
    yield "data", "class_path"
    for option in (checkpoint.get("data") or {}).get("init_args", {}):
        yield "data", "init_args", option
    yield ("hparams",)
    yield ("hparams_name",)


def put(content: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with the value at the place."""
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[place[-1]] = value
    return changed


# What a program does


_record: list[str] | None = None
_HARMFUL = (
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.bind",
    "urllib.Request",
    "ctypes.dlopen",
    "webbrowser.open",
    "shutil.rmtree",
    "os.remove",
    "os.rename",
    "os.mkdir",
)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _record is None:
        return
    if event == "import" and args[0] not in sys.modules:
        _record.append(f"import {args[0]}")
    elif event in _HARMFUL:
        _record.append(f"{event} {args!r:.100}")
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        _record.append(f"write {args[0]}")
    elif event == "exec" and getattr(args[0], "co_filename", "") == "<string>":
        caller = sys._getframe(1).f_globals["__name__"]
        if caller != "typing":  # which evaluates the annotations of our classes
            _record.append(f"exec of a string in {caller}")


@contextmanager
def recording() -> Iterator[list[str]]:
    """Record what the program does in the block, in all its threads."""
    global _record
    if not getattr(recording, "hooked", False):
        sys.addaudithook(_hook)
        recording.hooked = True  # type: ignore[attr-defined]
    _record = record = []
    try:
        yield record
    finally:
        _record = None


def refused(function: Callable[[], Any]) -> tuple[bool, list[str]]:
    """Whether the call ends in a message to the user; and what was done in it."""
    with recording() as record:
        try:
            function()
        except ConfigurationError:
            return True, record
    return False, record


def draw(rng: random.Random, folder: Path, paths: list[str]) -> Any:
    """A description that must be refused wherever an object is described."""
    return written(rng.choice(paths), rng, folder)


def all_paths(folder: Path) -> list[str]:
    """Everything that descriptions name, each kind about equally often."""
    kinds = [FUNCTIONS, ATTRIBUTES, LOOK_ALIKES, canaries(folder), re_exports()]
    most = max(map(len, kinds))
    return [path for kind in kinds for path in kind * (most // len(kind))]
