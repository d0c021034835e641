"""What an adapter is trained and measured on: episodes of a file, of a data set on the hub, or generated ones.

An episode with a held-out question is for measuring, and only its held-out questions are asked. Where a file marks
none, its last episodes are held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltamem_agents import __version__
from deltamem_agents.errors import ConfigError, EpisodeError, TrainingFileError, shown
from deltamem_agents.training.adapters.phases import Curriculum
from deltamem_agents.training.adapters.samples import Source, repeated
from deltamem_agents.training.episodes import Episode, Mixture, draw_episode, read_episodes

GENERATED = "generated"
ATTEMPTS = 1000  # to draw an episode that fits
SHARE = 10  # of a file that marks nothing as held out, at most one episode in so many is


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Episodes of a run.

    Args:
        source: Gives the episode with a number.
        held_out: Episodes for measuring.
        identity: What tells this data from other data, for the record of a run.
    """

    source: Source
    held_out: tuple[Episode, ...]
    identity: Mapping[str, Any]


def open_data(
    data: str | Path, *, seed: int, evaluation: int, check: Callable[[Episode], object] | None = None
) -> Data:
    """Open what ``--data`` names.

    Args:
        data: A file of JSON lines, or a data set on the hub, of which all ``.jsonl`` files are read.
        seed: Of the order of the episodes.
        check: Called with each episode; an `EpisodeError` that it raises names the line.
        evaluation: Number of held-out episodes that are wanted.

    Raises:
        ConfigError: There is no such file, or too few episodes are held out.
        EpisodeError: A line is not an episode.
        TrainingFileError: The data set cannot be fetched.
    """
    files = data_files(data)
    digest = hashlib.sha256()
    for each in files:
        digest.update(each.read_bytes())
    identity = {"files": [each.name for each in files], "sha256": digest.hexdigest()}
    episodes = [one for each in files for one in read_episodes(each, check=check)]
    return divided(episodes, identity, seed=seed, evaluation=evaluation)


def divided(episodes: Iterable[Episode], identity: Mapping[str, Any], *, seed: int, evaluation: int) -> Data:
    """Divide episodes into those for training and those for measuring.

    Raises:
        ConfigError: There are none for training, or fewer than two for measuring though an evaluation is wanted.
    """
    training: list[Episode] = []
    measuring: list[Episode] = []
    for episode in episodes:
        held_out = tuple(each for each in episode.questions if each.held_out)
        if held_out:
            measuring.append(replace(episode, questions=held_out))
        else:
            training.append(episode)
    if not measuring and evaluation:
        count = min(evaluation, len(training) // SHARE)
        training, measuring = training[: len(training) - count], training[len(training) - count :]
    if not training:
        raise ConfigError("every episode has a held-out question; give some without, to train on")
    if evaluation and len(measuring) < 2:
        raise ConfigError(
            f"{len(measuring)} of {len(training) + len(measuring)} episodes are held out, and an evaluation needs at "
            "least 2; mark questions with held_out, give more episodes, or evaluate nothing with evaluation=0"
        )
    return Data(source=repeated(training, seed), held_out=tuple(measuring), identity=identity)


def generated(
    curriculum: Curriculum, *, seed: int, held_out: int, count: int, check: Callable[[Episode], object] | None = None
) -> Data:
    """Generated episodes, and held-out ones.

    Args:
        held_out: Number of held-out episodes.
        count: Number of episodes in the run, over which the curriculum is spread.
        check: An episode for which it raises `EpisodeError` is replaced by another.
    """

    def source(index: int) -> Episode:
        return _fitting(seed, index, curriculum.at(index / count), check)

    measured = tuple(_fitting(seed, index, curriculum.measured, check) for index in range(held_out))
    return Data(source=source, held_out=measured, identity={GENERATED: __version__})


def _fitting(seed: int, place: int, mixture: Mixture, check: Callable[[Episode], object] | None) -> Episode:
    """The episode of a place, or the first other one that fits.

    Raises:
        EpisodeError: None does.
    """
    for attempt in range(ATTEMPTS):
        episode = draw_episode(seed, place + (attempt << 40), mixture)
        try:
            if check is not None:
                check(episode)
        except EpisodeError as error:
            failure = error
            continue
        return episode
    raise failure


def data_files(data: str | Path) -> list[Path]:
    """The files that ``data`` names; those of a data set are fetched from the hub.

    Raises:
        ConfigError: The name is neither a file's nor a data set's.
        TrainingFileError: It cannot be fetched, or holds no JSON lines.
    """
    if Path(data).is_file():
        return [Path(data)]
    name = str(data)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith((".jsonl", ".json")):
        raise ConfigError(
            f"there is no file {shown(name)}; give a file of JSON lines, or a data set's id such as 'org/name'"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.jsonl"]))
    except Exception as error:  # the hub client raises errors of several libraries
        raise TrainingFileError(
            f"data set {name!r} cannot be fetched from the hub: {type(error).__name__}; check the name and the network"
        ) from error
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise TrainingFileError(f"data set {name!r} holds no .jsonl files; give one with JSON lines of episodes")
    return files
