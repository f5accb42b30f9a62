"""Profile: what a site or a user sets for all jobs, in a YAML file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from mdfpipe.config import Config, read_yaml, validate
from mdfpipe.errors import ConfigError

OURS = ("-a", "--array", "-o", "--output", "-e", "--error", "--wrap", "--parsable", "-W", "--wait", "--test-only")
"""Options of sbatch that are not free: the command sets them itself, or could not follow its jobs with them."""


class Profile(Config):
    """Settings for jobs of Slurm."""

    options: list[str] = Field(
        [], description="Options of sbatch for every job, one or more per line: `--partition=gpu`, `-c 8`."
    )
    train: list[str] = Field(
        [], description="Options of sbatch for trainings in addition: `--nodes=2`, `--gpus-per-node=4`."
    )
    leader: list[str] = Field([], description="Options of sbatch for the job of `--detach`, in place of `options`.")
    setup: list[str] = Field(
        [], description="Lines of bash that run in each job before mdfpipe starts: `module load cuda`."
    )
    python: str = Field(
        "", description="Interpreter that starts mdfpipe in a job, where it is not the one that gives the command."
    )
    jobs: int = Field(1, ge=1, description="Number of jobs without `--jobs`.")


@dataclass(frozen=True)
class Wish:
    """What one command asks of Slurm. options: words of sbatch, for workers and trainings; jobs: how many workers."""

    profile: Profile
    jobs: int
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, jobs: int | None, options: str, file: Path | None) -> Wish:
        """The wish of a command: of its own options over those of the profile. Raises ConfigError."""
        profile = read_profile(file)
        return cls(profile, jobs or profile.jobs, tuple(words(options, "--slurm")))

    @property
    def for_workers(self) -> list[str]:
        """Words of sbatch for a worker."""
        return [*_all_words(self.profile.options, "options"), *self.options]

    @property
    def for_trainings(self) -> list[str]:
        """Words of sbatch for a training."""
        return [*_all_words(self.profile.options, "options"), *self.options, *_all_words(self.profile.train, "train")]

    @property
    def for_leader(self) -> list[str]:
        """Words of sbatch for the job of `--detach`."""
        return _all_words(self.profile.leader, "leader")


def read_profile(file: Path | None) -> Profile:
    """The profile in a file: this one, that of MDFPIPE_PROFILE, or slurm.yaml of the user's settings, if it is there.

    Raises ConfigError for an option that is unknown.
    """
    if file is None and (named := os.environ.get("MDFPIPE_PROFILE")):
        file = Path(named)
    if file is None:
        file = own_profile()
        if not file.is_file():
            return Profile()
    settings = read_yaml(file)
    unknown = sorted(settings.keys() - Profile.model_fields.keys())
    if unknown:
        raise ConfigError(
            f"--profile {file}: unknown option {unknown[0]}; expected some of {', '.join(Profile.model_fields)}"
        )
    profile = validate(Profile, settings, f"--profile {file}")
    for name in ("options", "train", "leader"):
        for line in getattr(profile, name):
            words(line, f"--profile {file}: {name}")
    return profile


def own_profile() -> Path:
    """Where the user's own profile is."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "mdfpipe" / "slurm.yaml"


def words(line: str, where: str) -> list[str]:
    """The words of options of sbatch. Raises ConfigError where they are none, or ours."""
    try:
        found = shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"{where} {line!r}: {error}; expected options of sbatch, such as --gres=gpu:1") from None
    if found and not found[0].startswith("-"):
        raise ConfigError(f"{where} {found[0]!r}: expected an option of sbatch first, such as --gres=gpu:1")
    for word in found:
        if not word.isprintable():
            raise ConfigError(f"{where} {word!r}: expected options of sbatch on one line")
        name = re.match(r"--[^=]+|-[A-Za-z]", word)
        if name is not None and name[0] in OURS:
            raise ConfigError(f"{where} {word}: mdfpipe sets {name[0]} itself; leave it out (--jobs is the number)")
    return found


def _all_words(lines: Sequence[str], name: str) -> list[str]:
    return [word for line in lines for word in words(line, name)]
