"""SMAX as two compiled functions of arrays. Everything that touches JAX and JaxMARL, and no torch.

Letters as in base.py, and U units (allies first, then enemies).
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mast_train.envs import install
from mast_train.settings.errors import UserError, check_choice

POSITION, COOLDOWN = slice(1, 3), 3

GRAPHS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,WHILE,DYNAMIC_SLICE_FUSION",
    "xla_gpu_graph_min_graph_size": 1,
}
"""XLA's options for a program of hundreds of tiny kernels on a CUDA GPU: the simulator's inner loop and its branches,
which XLA leaves out by default, are CUDA graphs too. The host then launches few, and waits for no loop's condition."""
GRAPHS_SINCE = (0, 10)
"""The first JAX with GRAPHS: in 0.8 the second run of a loop in a graph aborts the process (openxla/xla#35760)."""


class View(NamedTuple):
    """What a step shows, per environment: see Observation and Transition in base.py."""

    obs: Any
    state: Any
    avail_actions: Any
    reward: Any
    terminated: Any
    truncated: Any
    won: Any


class Carry(NamedTuple):
    """What one step hands to the next, per environment: simulator state, random key [2], and the last view."""

    simulator: Any
    key: Any
    view: View


class Programs(NamedTuple):
    """reset: key [2] -> (key [2], Carry); step: (Carry, actions [E,N]) -> Carry."""

    reset: Callable[[Any], tuple[Any, Carry]]
    step: Callable[[Carry, Any], Carry]


class JointPrograms(NamedTuple):
    """For K seeds. join: (how many are there, K times Carry) -> Carry of [K,E,...], the battles of the others over;
    step: (that, actions [K,E,N]) -> the same."""

    join: Callable[..., Carry]
    step: Callable[[Carry, Any], Carry]


def import_jax() -> Any:
    """The package `jax`, told not to reserve most of a GPU's memory, and to keep what it compiles.

    Compiled programs go to the user's cache directory if it can be written, unless JAX was already told where to keep
    them. Raises UserError when JAX is missing.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with _installed():
        import jax
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None and (folder := _cache_folder()) is not None:
        config.update("jax_compilation_cache_dir", str(folder))
        config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return jax


def import_jaxmarl() -> Any:
    """The package `jaxmarl.environments.smax`, imported without its output. Raises UserError when it is missing."""
    import_jax()
    with _installed(), _quiet_stdout():
        import jaxmarl.environments.smax as smax
    return smax


def find_device(kind: str, index: int, threads: int) -> Any:
    """Where to simulate for tensors on `kind` ("cpu", "cuda", ...): that GPU, or the CPU when JAX does not see it.

    threads: how many a CPU's programs may use. That, and for "cpu" keeping JAX off every accelerator, works only before
    JAX is first used: importing JaxMARL uses it.
    """
    ours = "PJRT_NPROC" not in os.environ  # the size of XLA's pools; it has no other name
    if ours:
        os.environ["PJRT_NPROC"] = str(threads)
    try:
        return _device(import_jax(), kind, index)
    finally:
        if ours:
            del os.environ["PJRT_NPROC"]


def _device(jax: Any, kind: str, index: int) -> Any:
    if kind == "cpu":
        jax.config.update("jax_platforms", "cpu")
    if kind == "cuda":
        try:
            return jax.devices("cuda")[index]
        except RuntimeError:
            warnings.warn(
                "JAX sees no GPU, so SMAX runs on the CPU and every step is copied to the GPU: "
                'install the JAX that matches your driver, e.g. pip install "jax[cuda13]"',
                stacklevel=4,
            )
    return jax.devices("cpu")[0]


def in_graphs(device: Any) -> bool:
    """Whether to compile with GRAPHS for a JAX device: a CUDA GPU whose XLA knows these options, where XLA_FLAGS says
    nothing about them. (As a program's options an unknown name is an error; in XLA_FLAGS it ends the process.)"""
    said = any(name in os.environ.get("XLA_FLAGS", "") for name in GRAPHS)
    cuda = device.platform in ("gpu", "cuda") and "rocm" not in device.client.platform_version
    return cuda and not said and _takes_graphs()


@lru_cache
def _takes_graphs() -> bool:
    jax = import_jax()
    if jax.__version_info__[:2] < GRAPHS_SINCE:
        return False
    try:
        jax.jit(lambda: jax.numpy.zeros(1), compiler_options=GRAPHS)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _cache_folder() -> Path | None:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mast" / "jax"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else None


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"the smax environment needs JaxMARL ({error}): install it with {install('smax')}") from error


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    # Importing JaxMARL prints, and half-way through it points sys.stdout and sys.stderr back at sys.__stdout__ and
    # sys.__stderr__: plain redirection neither silences it nor survives it.
    saved = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    sink = io.StringIO()
    sys.__dict__.update(stdout=sink, __stdout__=sink)
    try:
        yield
    finally:
        sys.__dict__.update(saved)


def outcome(unit_alive: Any, n_allies: int, done: Any) -> tuple[Any, Any, Any]:
    """unit_alive [U] bool, done [] bool (time limit included) -> terminated, truncated, won.

    A battle in which both sides died together is terminated and not won. A battle decided on the last step allowed
    is terminated, not truncated.
    """
    allies, enemies = unit_alive[:n_allies].any(), unit_alive[n_allies:].any()
    terminated = ~allies | ~enemies
    return terminated, done & ~terminated, allies & ~enemies


def normalise_world_state(battle: Any, world_state: Any, unit_types: Any) -> Any:
    """SMAX's world_state [S] scaled to about [0, 1]; same layout and size.

    Layout: per unit (health, x, y, weapon cooldown, one-hot type), zeros when dead; then U teams; then U types.
    Health and teams are already in [0, 1]. Positions are divided by the map's size (a unit pushed over the edge may
    leave [0, 1] before it dies). The cooldown in seconds is divided by the unit type's own and clipped to [0, 1], as
    the agents observe it: the simulator lets it fall without limit while a weapon is ready. Types are divided by the
    largest type number.
    """
    import jax.numpy as jnp

    n_units, n_features = battle.num_allies + battle.num_enemies, len(battle.own_features)
    units = world_state[: n_units * n_features].reshape(n_units, n_features)
    teams, types = world_state[n_units * n_features :].reshape(2, n_units)
    map_size = jnp.array([battle.map_width, battle.map_height], dtype=jnp.float32)
    cooldown = units[:, COOLDOWN] / battle.unit_type_weapon_cooldowns[unit_types]
    units = units.at[:, POSITION].divide(map_size).at[:, COOLDOWN].set(jnp.clip(cooldown, 0.0, 1.0))
    return jnp.concatenate([units.reshape(-1), teams, types / (len(battle.unit_type_names) - 1)])


@lru_cache
def simulator(map_name: str) -> Any:
    """JaxMARL's HeuristicEnemySMAX of one map. Raises UserError for an unknown map."""
    smax = import_jaxmarl()
    check_choice("smax map", map_name, smax.smax_env.MAP_NAME_TO_SCENARIO)
    return smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(map_name))


@lru_cache
def programs(map_name: str, num_envs: int, reward_scale: float, graphs: bool = False) -> Programs:
    """reset and step of E copies of one map, compiled at their first call; the same call returns the same programs.
    graphs: with GRAPHS; they can then be no part of another program."""
    import jax
    import jax.numpy as jnp

    battle = simulator(map_name)
    agents = battle.agents

    def view(raw_obs: dict[str, Any], state: Any, reward: Any, done: Any) -> View:
        avail = battle.get_avail_actions(state)
        units = state.state
        return View(
            jnp.stack([raw_obs[agent] for agent in agents]),
            normalise_world_state(battle, raw_obs["world_state"], units.unit_types),
            jnp.stack([avail[agent] for agent in agents]).astype(bool),
            jnp.float32(reward_scale) * reward,
            *outcome(units.unit_alive, battle.num_allies, done),
        )

    def reset_one(key: Any) -> Carry:
        key, reset_key = jax.random.split(key)
        raw_obs, state = battle.reset(reset_key)
        carry = Carry(state, key, view(raw_obs, state, jnp.float32(0.0), jnp.bool_(False)))
        # The simulator starts some counters as weakly typed numbers and step returns them strongly typed; without
        # this conversion step is compiled twice.
        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), carry)

    def step_one(carry: Carry, actions: Any) -> Carry:
        key, step_key = jax.random.split(carry.key)
        joint = {agent: actions[index] for index, agent in enumerate(agents)}
        raw_obs, state, rewards, dones, _ = battle.step_env(step_key, carry.simulator, joint)
        after = Carry(state, key, view(raw_obs, state, rewards[agents[0]], dones["__all__"]))
        frozen = carry._replace(view=carry.view._replace(reward=jnp.float32(0.0)))
        finished = carry.view.terminated | carry.view.truncated
        return jax.tree.map(lambda old, new: jnp.where(finished, old, new), frozen, after)

    def reset(key: Any) -> tuple[Any, Carry]:
        key, episodes_key = jax.random.split(key)
        return key, jax.vmap(reset_one)(jax.random.split(episodes_key, num_envs))

    return Programs(jax.jit(reset), jax.jit(jax.vmap(step_one), compiler_options=GRAPHS if graphs else None))


@lru_cache
def joint_programs(
    map_name: str, num_envs: int, reward_scale: float, in_lanes: bool, graphs: bool = False
) -> JointPrograms:
    """The battles of K seeds in one call. in_lanes: all at once, as an accelerator likes it; else seed by seed. graphs:
    with GRAPHS.

    XLA compiles other rounding into programs of other widths. Seed by seed each has the width it has alone, and so the
    same bits; on a CPU that is also the faster way, and a seed whose battles are over costs nothing.
    """
    import jax
    import jax.numpy as jnp

    step_seed = programs(map_name, num_envs, reward_scale).step

    def join(present: Any, *carries: Carry) -> Carry:
        joint = jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)
        absent = (jnp.arange(len(carries)) >= present)[:, None]
        return joint._replace(view=joint.view._replace(terminated=joint.view.terminated | absent))

    def waited(carry: Carry, _: Any) -> Carry:
        return carry._replace(view=carry.view._replace(reward=jnp.zeros_like(carry.view.reward)))

    def step_or_wait(given: tuple[Carry, Any]) -> Carry:
        view = given[0].view
        return jax.lax.cond((view.terminated | view.truncated).all(), waited, step_seed, *given)

    def step(joint: Carry, actions: Any) -> Carry:
        if in_lanes:
            return jax.vmap(step_seed)(joint, actions)
        return jax.lax.map(step_or_wait, (joint, actions))

    return JointPrograms(jax.jit(join), jax.jit(step, compiler_options=GRAPHS if graphs else None))
