"""Names of an observation's inputs, as a user's environment gives them or as its spaces do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mast_train.envs.door import Refused, short

HOOK = "observation_names"
"""An attribute of the environment, or an entry of its metadata: a list of names, or one for each agent by its name."""
MAX_NAME_CHARACTERS = 120
"""Of an input's name, as bundles have them."""


def is_name(text: str) -> bool:
    """Whether it can name an input."""
    return 0 < len(text) <= MAX_NAME_CHARACTERS and text.isprintable()


def padded(names: Sequence[str], width: int) -> tuple[str, ...]:
    """`names` and one for each place up to `width` that holds no input of this agent."""
    return (*names, *(f"unused {i}" for i in range(len(names), width)))


def given_names(environment: Any, agents: Sequence[Any], sizes: Sequence[int]) -> list[list[str]] | None:
    """What the hook says, a row of its size for each agent; None where there is none. Raises Refused."""
    for owner in (environment, getattr(environment, "unwrapped", None)):
        metadata = getattr(owner, "metadata", None)
        for value in (getattr(owner, HOOK, None), metadata.get(HOOK) if isinstance(metadata, Mapping) else None):
            if value is not None:
                return [_row(value, agent, size) for agent, size in zip(agents, sizes, strict=True)]
    return None


def entry_names(path: Iterable[Any], shape: tuple[int, ...], size: int) -> list[str]:
    """Of the values of one entry of a Dict or Tuple: its keys, and where in it unless it is a single number."""
    name = " ".join(map(str, path))
    if size == 1 and shape in ((), (1,)):
        return [name]
    return [f"{name} {i}" for i in range(size)]


def _row(value: Any, agent: Any, size: int) -> list[str]:
    row, where = value, HOOK
    if isinstance(value, Mapping):
        if agent not in value:
            raise Refused(f"{HOOK} has no entry of agent {agent!r}: {short(sorted(map(str, value)))}")
        row, where = value[agent], f"{HOOK}[{agent!r}]"
    if isinstance(row, str) or not isinstance(row, Sequence) or not all(isinstance(name, str) for name in row):
        raise Refused(f"{where} is {short(row)}, expected a list of {size} texts")
    if len(row) != size:
        raise Refused(f"{where} has {len(row)} names, the observation of agent {agent!r} has {size} inputs")
    return list(row)
