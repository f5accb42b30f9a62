"""What sbatch is given, and what a profile may say. No Slurm is needed."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.running.slurm.profile import Wish, own_profile, read_profile, words
from mdfpipe.running.slurm.script import Asked, leader_script, training_script, workers_script

RUN = Path("/data/runs/a walk %1")


def asked(profile: Path | None = None, options: str = "--gres=gpu:1 -c 8 -t 4:00:00", **more: bool) -> Asked:
    return Asked(Wish.of(3, options, profile), RUN, "/opt/my env/python", ("--device", "cuda"), **more)


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.fixture(autouse=True)
def _no_profile_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def scripts() -> dict[str, str]:
    return {
        "workers": workers_script(asked(), 3),
        "one worker": workers_script(asked(), 1, arrays=False),
        "training": training_script(asked(uses_gpus=True)),
        "leader": leader_script(asked(), ["run", "a study.yaml", "--on", "slurm"], Path("/home/me")),
    }


@pytest.mark.parametrize("kind", scripts())
def test_every_script_is_bash_with_what_a_long_job_needs(kind: str) -> None:
    text = scripts()[kind]
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert text.startswith("#!/bin/bash\n#SBATCH --job-name=mdfpipe-a_walk__1-")
    found = directives(text)
    assert {"--requeue", "--open-mode=append", "--signal=B:TERM@60"} <= set(found)
    assert any(line.startswith("'--output=/data/runs/a walk %%1/slurm/%") for line in found)
    assert ("--array=0-2" in found) == (kind == "workers")
    assert ("--gres=gpu:1" in found) == (kind != "leader")


def test_the_words_of_a_command_come_last_one_option_a_line(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("options: ['--partition=long --account=a', '-C \"big mem\"']\nsetup: [module load cuda]\n")
    text = workers_script(asked(file), 3)
    assert directives(text)[-6:] == [
        *("--partition=long", "--account=a", "-C 'big mem'", "--gres=gpu:1", "-c 8", "-t 4:00:00")
    ]
    before, _, after = text.partition("module load cuda\n")
    assert "trap" in before
    line = shlex.split(after.splitlines()[0])
    assert line == [*("/opt/my env/python", "-m", "mdfpipe", "work", "--run", str(RUN), "--device", "cuda", "&")]


def test_a_training_has_a_process_for_each_gpu_of_each_node(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("train: ['--nodes=2 --gpus-per-node=4']\n")
    text = training_script(asked(file, uses_gpus=True))
    assert directives(text)[-2:] == ["--nodes=2", "--gpus-per-node=4"]
    assert '--nproc-per-node="${SLURM_GPUS_ON_NODE:-1}"' in text
    assert "--nproc-per-node=1 " in training_script(asked(file))
    assert "--nodes" not in workers_script(asked(file), 3)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("gpu:1", "expected an option of sbatch first"),
        ("--array=0-3", "mdfpipe sets --array itself"),
        ("-a 0-3", "mdfpipe sets -a itself"),
        ("-c 8 -o x.log", "mdfpipe sets -o itself"),
        ("--comment='a", "No closing quotation"),
        ("--comment='a\n#SBATCH b'", "on one line"),
    ],
)
def test_options_that_cannot_be_meant(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        words(line, "--slurm")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "partitions: gpu\n",
            "unknown option partitions; expected some of options, train, leader, setup, python, jobs",
        ),
        ("options: --partition=gpu\n", "options: "),
        ("jobs: 0\n", "jobs: "),
        ("options: ['gpu']\n", "options 'gpu': expected an option of sbatch first"),
        ("[a]\n", "expected settings"),
    ],
)
def test_a_profile_that_is_wrong_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_profile(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_users_own_profile_is_read_unless_another_is_named(tmp_path: Path) -> None:
    assert read_profile(None).jobs == 1
    own_profile().parent.mkdir(parents=True)
    own_profile().write_text("jobs: 7\n")
    assert Wish.of(None, "", None).jobs == 7
    assert Wish.of(2, "", None).jobs == 2
    (tmp_path / "other.yaml").write_text("jobs: 5\n")
    assert Wish.of(None, "", tmp_path / "other.yaml").jobs == 5
