"""A round of SMAX episodes of several seeds as one compiled program: decisions, battles and their recording. No torch.

Letters as in base.py, and K seeds, T the episode limit, G networks of a seed (N, or 1 that its agents share), H hidden,
R rows of a network, I input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from mast_train.envs import smax_jax


class Shape(NamedTuple):
    """What a program is compiled for. in_lanes, graphs: see smax_jax.joint_programs; last_action, agent_id: what the
    networks see beside the observation."""

    map_name: str
    num_envs: int
    reward_scale: float
    in_lanes: bool
    graphs: bool
    seeds: int
    last_action: bool
    agent_id: bool


class Recorded(NamedTuple):
    """The fields of EpisodeBatch by name, [K,E,...] of T transitions, with int32 actions; nothing is filled in after an
    episode's end but its last observation, as long as another battle of its seed goes on. won [K,E] bool; steps [K]
    int32, each seed's longest episode, which is 0 for a seed that is not there; keys [K,2]: what the next round's
    battles are drawn from.
    """

    obs: Any
    state: Any
    avail_actions: Any
    actions: Any
    reward: Any
    terminated: Any
    truncated: Any
    filled: Any
    won: Any
    steps: Any
    keys: Any


class Written(NamedTuple):
    """What a round has recorded so far: see Recorded."""

    obs: Any
    state: Any
    avail_actions: Any
    actions: Any
    reward: Any


class Playing(NamedTuple):
    """What one step of a round hands to the next. last_action [K,E,N] (-1: none yet); hidden [K,G,R,H]; lengths [K,E];
    going: whether any battle goes on."""

    t: Any
    joint: smax_jax.Carry
    hidden: Any
    last_action: Any
    lengths: Any
    written: Written
    going: Any


@lru_cache
def program(shape: Shape) -> Callable[..., Recorded]:
    """play: (keys [K,2], present, weights, epsilons [K], noise [K T E N (1+A)]) -> Recorded, compiled at first call.

    The same call returns the same program. present: how many of the seeds are there, the first ones. weights: the
    parameters of AgentNets [K G,...] by name. They and the noise are flat, since a torch tensor with a dimension of one
    may get any layout on its way to JAX. An agent explores where the first of its random numbers in [0, 1) is below
    epsilon, and then takes the available action whose number is the largest.
    """
    import jax
    import jax.numpy as jnp

    battle = smax_jax.simulator(shape.map_name)
    reset_seed = smax_jax.programs(shape.map_name, shape.num_envs, shape.reward_scale).reset
    step = smax_jax.joint_programs(shape.map_name, shape.num_envs, shape.reward_scale, shape.in_lanes).step
    limit, n = battle.max_steps + 1, battle.num_allies

    def play(keys: Any, present: Any, weights: Mapping[str, Any], epsilons: Any, noise: Any) -> Recorded:
        keys, joint = jax.vmap(reset_seed)(keys) if shape.in_lanes else jax.lax.map(reset_seed, keys)
        absent = (jnp.arange(shape.seeds) >= present)[:, None]
        joint = joint._replace(view=joint.view._replace(terminated=joint.view.terminated | absent))
        noise = noise.reshape(shape.seeds, limit, shape.num_envs, n, -1)

        def advance(now: Playing) -> Playing:
            numbers = jax.lax.dynamic_index_in_dim(noise, now.t, 1, keepdims=False)
            actions, hidden = _act(shape, now, weights, epsilons, numbers)
            return _recorded(now, actions, hidden, step(now.joint, actions))

        hidden = _no_memory(shape, n, weights)
        end = jax.lax.while_loop(lambda now: now.going & (now.t < limit), advance, _begin(joint, hidden, limit))
        steps, view, after_last = jnp.arange(limit), end.joint.view, end.lengths[..., None]
        last = steps == after_last - 1
        flags = last & view.terminated[..., None], last & view.truncated[..., None], steps < after_last
        return Recorded(*end.written, *flags, view.won, end.lengths.max(1), keys)

    return jax.jit(play, compiler_options=smax_jax.GRAPHS if shape.graphs else None)


def _no_memory(shape: Shape, n: int, weights: Mapping[str, Any]) -> Any:
    """Hidden states at an episode's start [K,G,R,H]."""
    import jax.numpy as jnp

    groups = 1 if shape.agent_id else n
    width = weights["bias_hh"].size // (3 * shape.seeds * groups)
    return jnp.zeros((shape.seeds, groups, shape.num_envs * n // groups, width), jnp.float32)


def _begin(joint: smax_jax.Carry, hidden: Any, limit: int) -> Playing:
    import jax.numpy as jnp

    view, (*wide, n, _) = joint.view, joint.view.avail_actions.shape

    def room(first: Any) -> Any:
        return _put(jnp.zeros((*wide, limit + 1, *first.shape[2:]), first.dtype), first, 0)

    written = Written(
        room(view.obs),
        room(view.state),
        room(view.avail_actions),
        jnp.zeros((*wide, limit, n), jnp.int32),
        jnp.zeros((*wide, limit), jnp.float32),
    )
    nothing_done, lengths = jnp.full((*wide, n), -1, jnp.int32), jnp.zeros(wide, jnp.int32)
    return Playing(jnp.int32(0), joint, hidden, nothing_done, lengths, written, ~_over(joint).all())


def _act(shape: Shape, now: Playing, weights: Mapping[str, Any], epsilons: Any, numbers: Any) -> tuple[Any, Any]:
    """Epsilon-greedy actions [K,E,N] int32 and the next hidden states; numbers [K,E,N,1+A]: see `program`."""
    import jax.numpy as jnp

    avail = now.joint.view.avail_actions
    q, hidden = decide(weights, _inputs(shape, now.joint.view.obs, now.last_action, avail.shape[-1]), now.hidden)
    greedy = jnp.where(avail, q, -jnp.inf).argmax(-1)
    explored = jnp.where(avail, numbers[..., 1:], -1.0).argmax(-1)
    actions = jnp.where(numbers[..., 0] < epsilons[:, None, None], explored, greedy)
    return actions.astype(jnp.int32), hidden


def _recorded(now: Playing, actions: Any, hidden: Any, joint: smax_jax.Carry) -> Playing:
    """After a step that led to `joint`."""
    import jax.numpy as jnp

    t, after, before, playing = now.t + 1, joint.view, now.written, ~_over(now.joint)
    written = Written(
        _put(before.obs, after.obs, t),
        _put(before.state, after.state, t),
        _put(before.avail_actions, after.avail_actions, t),
        _put(before.actions, jnp.where(playing[..., None], actions, 0), now.t),
        _put(before.reward, jnp.where(playing, after.reward, 0.0), now.t),
    )
    return Playing(t, joint, hidden, actions, now.lengths + playing, written, ~_over(joint).all())


def decide(weights: Mapping[str, Any], x: Any, hidden: Any) -> tuple[Any, Any]:
    """AgentNets.step, with flat weights: x [K,E,N,I], hidden [K,G,R,H] -> q [K,E,N,A], next hidden [K,G,R,H].

    Products are float32 ones, not a GPU's TF32: greedy actions are those of torch.
    """
    import jax
    import jax.numpy as jnp

    (seeds, e, n, _), (_, groups, _, h) = x.shape, hidden.shape

    def linear(values: Any, layer: str, kind: str = "") -> Any:
        weight, bias = (weights[f"{layer}{part}{kind}"].reshape(seeds, groups, -1) for part in ("weight", "bias"))
        weight = weight.reshape(seeds, groups, bias.shape[-1], -1)
        product = jnp.einsum("kgri,kgoi->kgro", values, weight, precision=jax.lax.Precision.HIGHEST)
        return product + bias[:, :, None]

    rows = x.reshape(seeds, e, groups, n // groups, -1).swapaxes(1, 2).reshape(seeds, groups, e * n // groups, -1)
    from_x = linear(jax.nn.relu(linear(rows, "fc1_")), "", "_ih")
    from_h = linear(hidden, "", "_hh")
    r, z = jnp.split(jax.nn.sigmoid(from_x[..., : 2 * h] + from_h[..., : 2 * h]), 2, -1)
    new = jnp.tanh(from_x[..., 2 * h :] + r * from_h[..., 2 * h :])
    hidden = new + z * (hidden - new)
    q = linear(hidden, "fc2_").reshape(seeds, groups, e, n // groups, -1).swapaxes(1, 2)
    return q.reshape(seeds, e, n, -1), hidden


def _inputs(shape: Shape, obs: Any, last_action: Any, n_actions: int) -> Any:
    """As networks.build.agent_inputs: obs [K,E,N,O] -> [K,E,N,I]."""
    import jax
    import jax.numpy as jnp

    parts = [obs]
    if shape.last_action:
        parts.append(jax.nn.one_hot(last_action, n_actions, dtype=obs.dtype))
    if shape.agent_id:
        n = obs.shape[2]
        parts.append(jnp.broadcast_to(jnp.eye(n, dtype=obs.dtype), (*obs.shape[:3], n)))
    return jnp.concatenate(parts, -1)


def _over(joint: smax_jax.Carry) -> Any:
    return joint.view.terminated | joint.view.truncated


def _put(buffer: Any, values: Any, t: Any) -> Any:
    """values [K,E,...] written into buffer [K,E,T,...] at step t: in place, inside a loop."""
    import jax

    return jax.lax.dynamic_update_index_in_dim(buffer, values, t, 2)
