"""The one table of methods: each row of the paper's comparison and what it switches on.

A config is built from left to right: defaults <- recipe <- method <- recipe's word on the method <- environment <- the
user's file, flags and `--set`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mast_train.envs import ENVS
from mast_train.settings.config import Config, flatten, load_toml, override, parse_assignments
from mast_train.settings.errors import UserError, check_choice

SPARSE_LR = 2e-3
"""Chosen on SMAX 3m for tiny, ss, rigl and the rows of mast; dense took 5e-4 (docs/results.md)."""

_DENSE = {"sparse.agent_sparsity": 0.0, "sparse.mixer_sparsity": 0.0, "sparse.grow": "none"}
_ONE_BUFFER = {"replay.recent_batch": 0}
_DOUBLE = {"target.operator": "max", "target.double_q": True}
"""Double DQN's target (van Hasselt et al. 2016)."""
_MAX = {**_DOUBLE, "target.start": 0.0}
_FITTED = {"train.lr": SPARSE_LR}
_MAST = {
    "sparse.grow": "gradient",
    "target.operator": "soft_mellowmax",
    "target.returns": "td_lambda",
    "target.start": 0.1,
    "replay.recent_batch": 8,
    **_FITTED,
}
_SCALED = {"target.scale": "spread", "target.alpha": 5.0, "target.omega": 5.0, "target.double_q": True}
"""Soft Mellowmax in units of the spread of an agent's values, weighted by the online network (docs/methods.md)."""
_ACTIVE = {"sparse.drop": "idle"}
"""No connection is kept that carries nothing (docs/methods.md)."""
_RLX2 = {
    "sparse.grow": "gradient",
    **_MAX,
    "target.returns": "n_step",
    "target.start": 0.1,
    **_ONE_BUFFER,
    "replay.dynamic_capacity": True,
    "train.lr": 1e-3,
}
_ONE_STEP = {"target.returns": "one_step", "target.start": 0.0}
"""The targets of the paper's baselines."""


@dataclass(frozen=True)
class Method:
    """A row of the paper's comparison: the settings that it switches on, and what it means under the paper's recipe,
    on top of that."""

    settings: dict[str, Any]
    paper: dict[str, Any]


METHODS = {
    "dense": Method({**_DENSE, **_MAX, **_ONE_BUFFER}, _ONE_STEP),
    "tiny": Method({**_DENSE, "sparse.tiny_of": 0.95, **_MAX, **_ONE_BUFFER, **_FITTED}, _ONE_STEP),
    "ss": Method({"sparse.grow": "none", **_MAX, **_ONE_BUFFER, **_FITTED}, _ONE_STEP),
    "set": Method({"sparse.grow": "random", **_MAX, **_ONE_BUFFER, "train.lr": 5e-4}, _ONE_STEP),
    "rigl": Method({"sparse.grow": "gradient", **_MAX, **_ONE_BUFFER, **_FITTED}, _ONE_STEP),
    "rlx2": Method(_RLX2, {}),
    "mast": Method(_MAST, {}),
    "mast-scaled": Method({**_MAST, **_SCALED}, _SCALED),
    "mast-active": Method({**_MAST, **_ACTIVE}, {}),
    "mast-double": Method({**_MAST, **_ACTIVE, **_DOUBLE}, {}),
    "ticket-random": Method({**_MAST, "sparse.grow": "none"}, {}),
    "ticket-winning": Method({**_MAST, "sparse.grow": "none", "sparse.masks_from": ""}, {}),
}

_PAPER = {
    "env.num_envs": 1,
    "train.episodes_per_update": 1.0,
    "train.optimizer": "rmsprop",
    "train.lr": 5e-4,
    "train.lr_end_factor": 1.0,
    "train.target_interval": 200,
    "train.total_steps": 2_000_000,
    "train.eval_interval": 10_000,
    "train.eval_episodes": 32,
    "sparse.update_interval": 200,
    "sparse.rescale_init": False,
    "target.start": 0.375,
    "target.alpha": 1.0,
}


@dataclass(frozen=True)
class Recipe:
    """A set-up of training: its settings, the method where none is named, and a method's own word under it."""

    settings: dict[str, Any]
    default: str
    word: Callable[[Method], dict[str, Any]]


RECIPES = {
    "modern": Recipe({}, "mast-active", lambda method: {}),
    "shared": Recipe({"net.shared": True, "net.hidden": 128}, "mast-double", lambda method: {}),
    "paper": Recipe(_PAPER, "mast", lambda method: method.paper),
}
"""modern: parallel environments, Adam, TD(lambda) for every row; its method is what works best. shared: the same with
one wider network for all agents. paper: PyMARL's set-up, one-step baselines; its method is what the paper has."""


def preset(method: str, recipe: str = "modern") -> Config:
    """The config of one method under one recipe. Raises UserError for an unknown name."""
    check_choice("recipe", recipe, RECIPES)
    check_choice("method", method, METHODS)
    row, wanted = METHODS[method], RECIPES[recipe]
    named = {"method": method, "recipe": recipe}
    return override(Config(), {**named, **row.settings, **wanted.settings, **wanted.word(row)})


def environment(text: str) -> dict[str, Any]:
    """The settings that `--env NAME` or `--env NAME:MAP` stands for. Raises UserError for an unknown name."""
    name, _, given = text.partition(":")
    check_choice("environment", name, ENVS)
    row = ENVS[name]
    return {"env.name": name, "env.map": given or row.map, "env.reward_scale": row.reward_scale, **row.settings}


def resolve(
    file: Path | None, flags: Mapping[str, Any], assignments: Iterable[str] = (), start: Path | None = None
) -> Config:
    """The config a user asked for: preset, then the TOML file, then flags, then `--set key=value`. Raises UserError.

    flags: dotted config keys, and the short forms "sparsity" (agents and mixer) and "block" (the recurrent layer).
    start: folder of a run whose settings stand in the file's place and whose networks the new run takes over.
    """
    if start is not None:
        if file is not None:
            raise UserError(f"--from takes the settings of its run; leave out --config {file}")
        file = start / "config.toml"
    base = load_toml(file, Config(method="")) if file else Config(method="")
    settings = {**flags, **parse_assignments(assignments)}
    if start is not None:  # a team that has learned goes on exploring as little as it did
        settings = {"train.weights_from": str(start), "train.epsilon_start": base.train.epsilon_end, **settings}
    if settings.get("sparse.masks_from") and settings.get("train.weights_from"):
        raise UserError(
            "--masks (sparse.masks_from) gives fresh weights a run's masks, --from (train.weights_from) takes weights "
            "and masks; leave one out"
        )
    recipe = str(settings.get("recipe", base.recipe))
    method = str(settings.get("method", base.method or (RECIPES[recipe].default if recipe in RECIPES else "")))
    config = override(preset(method, recipe), environment(base.env.name))
    if file:
        own = base.method or method
        config = load_toml(file, override(preset(own, base.recipe), environment(base.env.name)))
        if (method, recipe) != (own, base.recipe):
            config = _switch(config, method, recipe)
    dotted = {key: value for key, value in settings.items() if key not in ("sparsity", "block")}
    if "env.name" in dotted:
        given = str(dotted.pop("env.name"))
        if ":" in given and "env.map" in dotted:
            raise UserError(f"--env {given} names a map, and --map {dotted['env.map']} another; leave one out")
        if given != config.env.name:
            dotted = {**environment(given), **dotted}
    if "sparsity" in settings:
        if config.method == "ticket-winning":
            raise UserError(
                "--sparsity with --method ticket-winning: the masks of --masks RUN have theirs; leave it out"
            )
        if config.method == "dense":
            raise UserError(
                f"--sparsity with --method {config.method}: that row is dense; choose ss, set, rigl, rlx2 or mast"
            )
        names = ("sparse.tiny_of",) if config.method == "tiny" else ("sparse.agent_sparsity", "sparse.mixer_sparsity")
        dotted = {**dict.fromkeys(names, settings["sparsity"]), **dotted}
    if "block" in settings:
        dotted = {"sparse.block.gru": _block_rows(str(settings["block"])), **dotted}
    return override(config, dotted)


def _switch(config: Config, method: str, recipe: str) -> Config:
    """A file's settings under another row or recipe: what rows decide is decided anew, and under another recipe what
    recipes decide."""
    wanted = flatten(preset(method, recipe))
    tables = [table for row in METHODS.values() for table in (row.settings, row.paper)]
    if recipe != config.recipe:
        tables += [row.settings for row in RECIPES.values()]
    decided = {key for table in tables for key in table}
    return override(config, {key: wanted[key] for key in ("method", "recipe", *sorted(decided))})


def _block_rows(text: str) -> int:
    rows, _, columns = text.partition("x")
    if not rows.isdigit() or int(rows) < 1 or columns != "1":
        raise UserError(f"--block {text!r}: expected ROWSx1, for example 1x1, 8x1 or 16x1")
    return int(rows)
