"""Environment variables of launchers: right, or one message."""

import os
import socket

import pytest

from scorelight.cli.launcher import check_environment, check_number
from scorelight.errors import ConfigurationError

ELASTIC = {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
ELASTIC |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
SRUN = {"SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}
SRUN |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without launcher, to which a test adds."""
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return os.environ


@pytest.mark.parametrize(
    "name", ["RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_PORT", "SLURM_NTASKS"]
)
@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "²", "1 2"])
def test_what_is_not_a_number_is_refused(environment, name, value):
    environment[name] = value
    with pytest.raises(ConfigurationError, match=rf"{name}='{value}'.*unset it"):
        check_environment()


def test_torchrun_that_is_not_there_is_noticed(environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        environment |= ELASTIC | {"MASTER_PORT": str(taken.getsockname()[1])}
        with pytest.raises(ConfigurationError, match=r"nothing answers at .*MASTER_PORT="):
            check_environment()
        taken.listen()
        check_environment()
    del environment["RANK"]
    with pytest.raises(
        ConfigurationError, match=r"torchrun has started this process, but these are missing: RANK;"
    ):
        check_environment()


@pytest.mark.parametrize("sign", [{"TORCHELASTIC_RUN_ID": "a"}, {"TORCHELASTIC_USE_AGENT_STORE": "True"}])
def test_one_variable_of_torchrun_alone_is_left_over(environment, sign):
    environment |= sign | {"GROUP_WORLD_SIZE": "1", "MASTER_PORT": "9"}
    with pytest.raises(
        ConfigurationError, match=r"these are missing: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR"
    ):
        check_environment()


def test_tasks_that_srun_has_not_started_are_hidden_from_lightning(environment):
    environment |= {"SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "4"}
    check_environment()
    assert environment["SLURM_JOB_NAME"] == "interactive" and "SLURM_NTASKS_PER_NODE" not in environment
    check_number(1)


def test_tasks_of_srun_are_completed_and_counted(environment):
    environment |= SRUN
    check_environment()
    assert environment["SLURM_JOB_NAME"] == "fit" and environment["SLURM_NTASKS_PER_NODE"] == "2"
    check_number(4)
    with pytest.raises(ConfigurationError, match=r"SLURM_NTASKS=4, SLURM_PROCID=3.*4 processes.*nodes is 1"):
        check_number(1)


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, 1),
        ({}, 8),
        ({"RANK": "0"}, 1),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 1),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 2),
        ({"WORLD_SIZE": "4", "NODE_RANK": "1"}, 4),
    ],
)
def test_what_agrees_is_taken(environment, variables, processes):
    environment |= variables
    check_environment()
    check_number(processes)


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({"RANK": "1"}, 1),
        ({"LOCAL_RANK": "3"}, 1),
        ({"LOCAL_RANK": "0"}, 2),
        ({"WORLD_SIZE": "2"}, 1),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 2),
        ({"WORLD_SIZE": "2", "RANK": "2"}, 2),
    ],
)
def test_what_is_left_over_is_refused(environment, variables, processes):
    environment |= variables
    check_environment()
    with pytest.raises(
        ConfigurationError, match=rf"{next(iter(variables))}=.*devices x nodes is {processes}"
    ):
        check_number(processes)
