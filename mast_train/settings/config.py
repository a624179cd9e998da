"""The whole of a run's settings: frozen dataclasses <-> TOML, with `--set section.key=value` on top."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from mast_train.settings.errors import UserError, reason, suggest
from mast_train.settings.of_algorithms import ComixConfig, FacmacConfig, ResConfig, WqmixConfig


@dataclass(frozen=True)
class EnvConfig:
    """Environment and map; `reward_scale` multiplies SMAX's rewards to SMAC's scale (a won battle is about 20).

    `team_reward` and `episode_limit` (0: the environment's own) are for environments that reward agents one by one and
    may run on. `workers`: processes that MuJoCo is stepped in (0: one a core). `options` is the environment's own table
    (docs/environments.md).
    """

    name: str = "smax"
    map: str = "3m"
    num_envs: int = 16
    reward_scale: float = 10.0
    team_reward: str = "sum"
    episode_limit: int = 0
    workers: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NetConfig:
    """Agent network fc1 -> GRU -> fc2; `shared`: one network for all agents, with agent ids in its input.

    `recurrent`: false puts an ordinary layer in the GRU's place: agents without a memory.
    """

    hidden: int = 64
    shared: bool = False
    last_action: bool = True
    recurrent: bool = True


@dataclass(frozen=True)
class MixerConfig:
    """QMIX mixing network (Rashid et al. 2018): embedding width and the hypernetworks' hidden width."""

    embed: int = 32
    hypernet_hidden: int = 64


@dataclass(frozen=True)
class BlockConfig:
    """Rows of a column block per layer: consecutive outputs of one input that live and die as one. 1: unstructured."""

    fc1: int = 1
    gru: int = 1
    fc2: int = 1
    mixer: int = 1


@dataclass(frozen=True)
class SparseConfig:
    """Sparsity, allocation over layers, and topology evolution (interval in learner updates).

    `drop`: by magnitude, or idle connections (those whose gradient is 0) before all others.
    `tiny_of`: above 0, the widths shrink until the dense networks have as few weights as that sparsity would leave.
    `input_floor`: blocks that an input of fc1 keeps at least, on average; the other layers pay for them.
    `masks_from`: folder of a finished run whose last masks this one starts from.
    """

    agent_sparsity: float = 0.95
    mixer_sparsity: float = 0.95
    allocation: str = "erdos_renyi"
    rescale_init: bool = True
    drop: str = "magnitude"
    grow: str = "gradient"
    update_interval: int = 200
    drop_fraction: float = 0.3
    stop_fraction: float = 0.75
    tiny_of: float = 0.0
    input_floor: float = 0.0
    masks_from: str = ""
    block: BlockConfig = field(default_factory=BlockConfig)


@dataclass(frozen=True)
class TargetConfig:
    """TD targets: how actions are reduced, how returns are built, and from which share of the run (`start`, T_0).

    `scale`: alpha and omega as they are ("fixed"), or per unit of the spread of an agent's values ("spread").
    """

    operator: str = "soft_mellowmax"
    double_q: bool = False
    alpha: float = 10.0
    omega: float = 10.0
    scale: str = "fixed"
    returns: str = "td_lambda"
    td_lambda: float = 0.6
    n_step: int = 3
    start: float = 0.1


@dataclass(frozen=True)
class ReplayConfig:
    """Episodes kept and drawn; `recent_batch` of every batch come from the newest `recent_capacity` (0: one buffer).

    `segment`: above 0, a batch is pieces of so many steps of long episodes; `burn_in`: the steps before a piece that
    its networks' memory is made from.
    """

    capacity: int = 5000
    batch: int = 32
    recent_capacity: int = 100
    recent_batch: int = 8
    dynamic_capacity: bool = False
    dynamic_interval: int = 100
    dynamic_threshold: float = 0.5
    segment: int = 0
    burn_in: int = 10


@dataclass(frozen=True)
class TrainConfig:
    """Length, optimiser, exploration and evaluation; steps are environment steps summed over environments.

    `episodes_per_update`: one update for so many episodes played; below 1, several for each of them.
    `overlap`: while a round of episodes is learnt from, a thread plays the next one with the agents of before.
    `lr_end_factor`: the share of `lr` that is left at the end of the run, to which it falls linearly from the start on.
    `score`: what runs are compared by: the return, or auto, the win rate where the environment says what winning is.
    `target_rate`: the share of the way that target networks go at each `target_interval`; 1: a copy.
    `noise`: standard deviation of the noise on continuous actions, whose range is [-1, 1]; epsilon of them are uniform.
    `weights_from`: folder of a run whose networks and masks this one starts from.
    """

    total_steps: int = 500_000
    optimizer: str = "adam"
    lr: float = 5e-4
    lr_end_factor: float = 0.1
    gamma: float = 0.99
    grad_clip: float = 10.0
    episodes_per_update: float = 1.0
    overlap: bool = False
    target_interval: int = 80
    target_rate: float = 1.0
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 50_000
    noise: float = 0.1
    eval_interval: int = 25_000
    eval_episodes: int = 64
    score: str = "auto"
    save_minutes: float = 5.0
    weights_from: str = ""


@dataclass(frozen=True)
class Config:
    """One run. `method` and `recipe` are the rows of settings/methods.py that the other values were decided by: asking
    for others, in a file or on the command line, decides them anew. Training reads the values, not the names.

    `kernel`: what carries updates: our C passes (native, on a CPU), our CUDA kernels (fused) or torch in CUDA graphs
    (graph), or torch. `threads`: of torch, of the C pass and of SMAX on a CPU.
    """

    algorithm: str = "qmix"
    method: str = "mast-active"
    recipe: str = "modern"
    seed: int = 0
    device: str = "auto"
    kernel: str = "auto"
    threads: int = 1
    env: EnvConfig = field(default_factory=EnvConfig)
    net: NetConfig = field(default_factory=NetConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    wqmix: WqmixConfig = field(default_factory=WqmixConfig)
    res: ResConfig = field(default_factory=ResConfig)
    facmac: FacmacConfig = field(default_factory=FacmacConfig)
    comix: ComixConfig = field(default_factory=ComixConfig)
    sparse: SparseConfig = field(default_factory=SparseConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with dotted keys replaced: {"train.lr": 1e-3}. Raises UserError for an unknown key or a wrong type."""
    for key, value in values.items():
        config = _set(config, key.split("."), value, key)
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value for every leaf; an open table, such as env.options, is one leaf."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        flat |= flatten(value, f"{prefix}{item.name}.") if is_dataclass(value) else {prefix + item.name: value}
    return flat


def to_toml(config: Config) -> str:
    """TOML text that `load_toml` reads back to an equal config."""
    import tomli_w

    return tomli_w.dumps(asdict(config))


def parse_toml(text: str, base: Config | None = None, source: str = "config") -> Config:
    """`base` with the TOML's values on top. Raises UserError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not valid TOML: {error}") from error
    try:
        return override(base or Config(), dict(leaves(tree)))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def load_toml(path: Path, base: Config | None = None) -> Config:
    """`parse_toml` of a file. Raises UserError when it cannot be read."""
    try:
        return parse_toml(path.read_text(encoding="utf-8"), base, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error


def parse_assignments(items: Iterable[str]) -> dict[str, Any]:
    """["train.lr=1e-3", "env.map=8m"] -> {"train.lr": 0.001, "env.map": "8m"}.

    Values are TOML or as Python writes them, bare words are text. Raises UserError, also for None.
    """
    values = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise UserError(f"--set {item!r}: expected key=value, for example --set train.lr=1e-3")
        values[key.strip()] = value = _parsed(text.strip())
        if _has_none(value):
            raise UserError(
                f'--set {item!r}: a setting cannot be None; leave it out, or write "None" in quotes for text'
            )
    return values


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        pass
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value


def _has_none(value: Any) -> bool:
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return value is None or any(map(_has_none, inside))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted key and value of every leaf of a TOML tree."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _set(node: Any, path: list[str], value: Any, key: str) -> Any:
    names = [item.name for item in fields(node)]
    if path[0] not in names:
        raise UserError(f"unknown config key {key!r}: {_advice(key)}")
    current = getattr(node, path[0])
    if isinstance(current, dict):
        return replace(node, **{path[0]: _set_open(current, path[1:], value, key)})
    if is_dataclass(current) != (len(path) > 1):
        raise UserError(f"config key {key!r} is {'a section' if is_dataclass(current) else 'no section'}")
    if is_dataclass(current):
        return replace(node, **{path[0]: _set(current, path[1:], value, key)})
    return replace(node, **{path[0]: _coerce(value, current, key)})


def _advice(key: str) -> str:
    """Where the key that was meant may be: of the same name elsewhere, like one of its section, or in the list."""
    section, _, leaf = key.rpartition(".")
    known = list(flatten(Config()))
    namesakes = [name for name in known if name.rpartition(".")[2] == leaf]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    if namesakes:
        return f"did you mean {' or '.join(map(repr, namesakes))}?"
    return suggest(key, siblings, 0.78) if siblings else "mast train --show-config prints every key"


def _set_open(table: dict[str, Any], path: list[str], value: Any, key: str) -> dict[str, Any]:
    if path:
        inner = table.get(path[0], {})
        value = _set_open(inner if isinstance(inner, dict) else {}, path[1:], value, key) if path[1:] else value
        return {**table, path[0]: value}
    if not isinstance(value, Mapping):
        raise UserError(f"{key} = {value!r}: expected a table; set one of its entries, for example {key}.name=value")
    return dict(value)


def _coerce(value: Any, current: Any, key: str) -> Any:
    wanted = type(current)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if wanted is str and not isinstance(value, str):
        return str(value)
    if type(value) is not wanted or value != value:
        raise UserError(f"{key} = {value!r}: expected {_NAMES[wanted]}, for example {current!r}")
    return value


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
