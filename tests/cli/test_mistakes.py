"""Generated mistakes: one message that names the key or what was given, exit code 2, no traceback."""

import yaml
from hypothesis import HealthCheck, given, seed, settings
from mutations import KINDS, mistakes

from scorelight.cli import main
from scorelight.cli.configs import config_dir

CONFIG = yaml.safe_load((config_dir() / "toy/vp_epsilon.yaml").read_text())
DRY = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]
QUIET = tuple(HealthCheck)


@seed(0)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=QUIET)
@given(mistake=mistakes(CONFIG, KINDS[:5]))
def test_a_mistake_gives_one_message(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mistake.config))
    code = main(["fit", "--config", "config.yaml", *DRY])
    said = capsys.readouterr().err
    assert code == 2 or (code == 0 and not mistake.certain), mistake
    assert "Traceback" not in said
    if code == 2:
        assert said.count("scorelight: error:") == 1, mistake
        assert mistake.key.rpartition(".")[2] in said or mistake.given in said, (mistake, said)
