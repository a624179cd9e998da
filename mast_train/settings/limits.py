"""What values a run's settings may have."""

from __future__ import annotations

import json

from mast_train.algorithms import ALGORITHMS
from mast_train.engines.choice import KERNELS
from mast_train.settings.config import Config, flatten
from mast_train.settings.errors import UserError, check_choice
from mast_train.sparse.allocation import ALLOCATIONS

CHOICES = {
    "algorithm": tuple(ALGORITHMS),
    "kernel": ("auto", *KERNELS),
    "device": ("auto", "cpu", "cuda"),
    "env.team_reward": ("sum", "mean"),
    "env.normalise": ("off", "running"),
    "facmac.mixer": ("monotonic", "unrestricted"),
    "sparse.allocation": tuple(ALLOCATIONS),
    "sparse.drop": ("magnitude", "idle"),
    "sparse.grow": ("none", "random", "gradient"),
    "target.operator": ("max", "softmax", "mellowmax", "soft_mellowmax"),
    "target.scale": ("fixed", "spread"),
    "target.returns": ("one_step", "n_step", "td_lambda"),
    "train.optimizer": ("adam", "rmsprop"),
    "train.score": ("auto", "return"),
}


def validate(config: Config) -> Config:
    """The config itself, or UserError naming the first value that cannot be run."""
    flat = flatten(config)
    for key, choices in CHOICES.items():
        check_choice(key, flat[key], choices)
    for key, (low, high) in _RANGES.items():
        if not low <= flat[key] <= high:
            raise UserError(f"{key} = {flat[key]}: expected a value from {low} to {high}")
    if (config.method == "ticket-winning") != bool(config.sparse.masks_from):
        raise UserError(
            "method 'ticket-winning' and the finished run whose masks it trains, --masks RUN or in a file "
            "sparse.masks_from, go together; "
            f"given: method {config.method!r}, sparse.masks_from = {config.sparse.masks_from!r}"
        )
    try:
        json.dumps(config.env.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"env.options: expected numbers, text, true or false, lists and tables ({error})") from error
    if config.replay.recent_batch > config.replay.batch:
        raise UserError(
            f"replay.recent_batch = {config.replay.recent_batch}: at most replay.batch, {config.replay.batch}"
        )
    if config.replay.batch > config.replay.capacity and not config.replay.segment:
        raise UserError(f"replay.batch = {config.replay.batch}: at most replay.capacity, {config.replay.capacity}")
    if config.comix.elites > config.comix.candidates:
        raise UserError(f"comix.elites = {config.comix.elites}: at most comix.candidates, {config.comix.candidates}")
    if config.env.num_envs > config.replay.capacity:
        raise UserError(
            f"env.num_envs = {config.env.num_envs}: a round of as many episodes does not fit replay.capacity, "
            f"{config.replay.capacity}; raise that, or lower env.num_envs"
        )
    updates = config.env.num_envs / config.train.episodes_per_update
    if abs(updates - round(updates)) > 1e-6 or round(updates) < 1:
        raise UserError(
            f"env.num_envs / train.episodes_per_update = {config.env.num_envs} / {config.train.episodes_per_update:g}: "
            "expected a whole number, the updates after a round of one episode in every environment"
        )
    return config


_LARGE = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "threads": (1, 1024),
    "env.reward_scale": (1e-9, 1e9),
    "env.num_envs": (1, 65_536),
    "env.episode_limit": (0, 10**6),
    "env.workers": (0, 1024),
    "net.hidden": (1, 16_384),
    "mixer.embed": (1, 16_384),
    "mixer.hypernet_hidden": (1, 16_384),
    "wqmix.weight": (0.0, 1.0),
    "wqmix.embed": (1, 16_384),
    "res.beta": (0.0, 1e6),
    "res.return_weight": (0.0, 1e6),
    "facmac.actor_rate": (0.0, 1e3),
    "facmac.action_penalty": (0.0, 1e6),
    "facmac.temperature": (1e-3, 1e3),
    "facmac.smoothing": (0.0, 2.0),
    "comix.candidates": (2, 65_536),
    "comix.elites": (1, 65_536),
    "comix.iterations": (1, 100),
    "sparse.agent_sparsity": (0.0, 0.999),
    "sparse.mixer_sparsity": (0.0, 0.999),
    "sparse.update_interval": (1, _LARGE),
    "sparse.tiny_of": (0.0, 0.999),
    "sparse.input_floor": (0.0, 16_384.0),
    "sparse.drop_fraction": (0.0, 1.0),
    "sparse.stop_fraction": (0.0, 1.0),
    "sparse.block.fc1": (1, 64),
    "sparse.block.gru": (1, 64),
    "sparse.block.fc2": (1, 64),
    "sparse.block.mixer": (1, 64),
    "target.alpha": (0.0, 1e6),
    "target.omega": (1e-6, 1e6),
    "target.td_lambda": (0.0, 1.0),
    "target.n_step": (1, 1000),
    "target.start": (0.0, 1.0),
    "replay.capacity": (1, _LARGE),
    "replay.batch": (1, _LARGE),
    "replay.recent_capacity": (1, _LARGE),
    "replay.recent_batch": (0, _LARGE),
    "replay.dynamic_interval": (1, _LARGE),
    "replay.dynamic_threshold": (0.0, 1.0),
    "replay.segment": (0, 10**6),
    "replay.burn_in": (0, 10**6),
    "train.total_steps": (1, 10**12),
    "train.lr": (1e-12, 10.0),
    "train.lr_end_factor": (0.0, 1.0),
    "train.gamma": (0.0, 1.0),
    "train.grad_clip": (1e-12, 1e12),
    "train.episodes_per_update": (1e-3, _LARGE),
    "train.target_interval": (1, _LARGE),
    "train.target_rate": (1e-6, 1.0),
    "train.noise": (0.0, 2.0),
    "train.epsilon_start": (0.0, 1.0),
    "train.epsilon_end": (0.0, 1.0),
    "train.epsilon_steps": (1, 10**12),
    "train.eval_interval": (1, 10**12),
    "train.eval_episodes": (1, 10**6),
    "train.save_minutes": (0.0, 1e6),
}
