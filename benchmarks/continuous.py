"""A decision of continuous actors, 95 % sparse beside dense on the same kernels, agent by agent.

    python benchmarks/continuous.py [--critics] [--rounds 201] [--json FILE]

HalfCheetah-2x3's two agents (12 observations, 3 components), FACMAC's actors with and without a memory, hidden 64 and
256, random weights, connections allotted to the layers as in training. Each agent has a network of its own, and its own
rows. "in C" is the network alone, looped in C; "act" is `agent.act` as a robot calls it, tanh and the action's units
included; "team" is one `team.act` for both.
--critics: COMIX's agents of the same size, hidden 64, which search for their actions, beside the same in numpy.
All rows are measured in turn, a fifth of a millisecond at a time, so that few turns are interrupted; a figure is the
median over the rounds, a ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from native import Row, in_c, in_python, row
from networks import random_bundle, random_layer

from mast_runtime import Bundle, Network
from mast_runtime.backends import outer_agent, outer_team
from mast_runtime.head import Head, Search
from mast_runtime.inner import inner_contract
from mast_runtime.measure.machine import describe_machine
from mast_runtime.native import NativeStep, default_level, make_team, new_agent
from mast_train.settings.of_algorithms import ComixConfig
from mast_train.sparse.allocation import erdos_renyi

AGENTS, OBS, COMPONENTS = 2, 12, 3
SPARSITY = 0.95
HIDDEN = (64, 256)
MEMORY = {"gru": True, "mlp": False}
BLOCKS = {"unstructured": {}, "16x1": {"mid": 16, "weight_ih": 16, "weight_hh": 16}}
"""Of the layers in the middle, where nearly all connections are."""
TURN_S = 2e-4


def bundle_of(architecture: str, hidden: int, kind: str) -> Bundle:
    """A team as --env mamujoco:HalfCheetah-2x3 trains it: without a memory it does not read its last action."""
    memory = MEMORY[architecture]
    bound = ((1.0,) * COMPONENTS,) * AGENTS
    head = Head(tuple(tuple(-x for x in row) for row in bound), bound)
    bundle = random_bundle(1, AGENTS, OBS, COMPONENTS, hidden=hidden, sparsity=None, memory=memory)
    contract = replace(bundle.contract, last_action=memory, head=head)
    networks = [_allocated(network, contract.input_dim, BLOCKS.get(kind, {})) for network in bundle.networks]
    if kind == "dense":
        networks = [network.densified() for network in networks]
    return replace(bundle, contract=contract, networks=tuple(networks))


def _allocated(network: Network, inputs: int, blocks: dict[str, int]) -> Network:
    """Of `inputs` and no more, and sparse, with as many connections in each layer as training gives it."""
    rng = np.random.default_rng(2)
    sizes = {name: (layer.outputs, layer.inputs) for name, layer in network.layers().items()}
    sizes["fc1"] = network.fc1.outputs, inputs
    densities = erdos_renyi([(1, *size) for size in sizes.values()], SPARSITY)
    layers = {
        name: random_layer(rng, name, *size, 1.0 - density, blocks.get(name, 1), 1.5 / (size[1] * density) ** 0.5)
        for (name, size), density in zip(sizes.items(), densities, strict=True)
    }
    return replace(network, **layers)


def rows_of(name: str, bundle: Bundle) -> list[Row]:
    """Every way in which one team's decisions are measured."""
    contract, inner = bundle.contract, inner_contract(bundle.contract)
    obs = np.random.default_rng(1).standard_normal((AGENTS, OBS)).astype(np.float32)
    x = np.zeros((AGENTS, inner.obs_dim), np.float32)
    x[:, :OBS] = obs
    found = []
    for k, network in enumerate(bundle.networks):
        step = NativeStep(inner, network)
        player = outer_agent(contract, network, new_agent(inner, step, k), k)
        found += [
            row(f"{name} agent {k} in C", in_c(new_agent(inner, step, k), x[k]), weights=step.compiled.stored_weights),
            row(f"{name} agent {k} act", in_python(_call(player.act, obs[k]))),
        ]
    team = outer_team(contract, bundle.networks, make_team(inner, bundle.networks, [0, 1], AGENTS), [0, 1])
    return [*found, row(f"{name} team", in_python(_call(team.act, obs)))]


def searching(bundle: Bundle) -> Bundle:
    """Agents of the same inputs and hidden size that value actions, as sparse; weights are random."""
    settings, contract, rng = ComixConfig(), bundle.contract, np.random.default_rng(3)
    assert contract.head is not None
    width, actions = bundle.networks[0].hidden, contract.n_actions
    noise = rng.standard_normal((settings.iterations, settings.candidates, actions)).astype("<f4")
    noise[:, 0] = 0.0
    search = Search(width, settings.candidates, settings.elites, settings.iterations, noise.tobytes())

    def critic(network: Network) -> Network:
        sizes = {name: (layer.outputs, layer.inputs) for name, layer in network.layers().items()}
        sizes |= {"fc2": (width, width), "act": (width, actions), "fc3": (1, width)}
        densities = erdos_renyi([(1, *size) for size in sizes.values()], SPARSITY)
        layers = {
            name: random_layer(rng, name, *size, 1.0 - density, 1, 1.5 / (size[1] * density) ** 0.5)
            for (name, size), density in zip(sizes.items(), densities, strict=True)
        }
        biases = {"fc2_bias": np.zeros(width, np.float32), "fc3_bias": np.zeros(1, np.float32)}
        return replace(network, **layers, **biases)

    networks = tuple(map(critic, bundle.networks))
    return replace(bundle, contract=replace(contract, head=replace(contract.head, search=search)), networks=networks)


def _call(act: Callable[[np.ndarray], object], obs: np.ndarray) -> Callable[[], object]:
    return lambda: act(obs)


def measure(rounds: int) -> list[dict[str, object]]:
    """A row for each architecture, size, kind of weights and way of calling."""
    rows = {
        (architecture, hidden, kind): rows_of(kind, bundle_of(architecture, hidden, kind))
        for architecture in MEMORY
        for hidden in HIDDEN
        for kind in ("dense", *BLOCKS)
    }
    each = [(key, one) for key, own in rows.items() for one in own]
    times = in_turn([one for _, one in each], rounds)
    ns = {(*key, one.name.partition(" ")[2]): own for (key, one), own in zip(each, times, strict=True)}
    found = []
    for (architecture, hidden, kind, what), own in ns.items():
        dense = ns[architecture, hidden, "dense", what]
        found.append({
            "architecture": architecture, "hidden": hidden, "weights": kind, "what": what,
            "median_ns": round(float(np.median(own)), 1), "over_dense": round(float(np.median(dense / own)), 2),
        })  # fmt: skip
    return found


def measure_critics(rounds: int) -> list[dict[str, object]]:
    """A row for each architecture and way of calling: with the kernel, and by how much numpy takes longer."""
    rows: dict[tuple[str, str, str], Row] = {}
    obs = np.random.default_rng(1).standard_normal((8, OBS)).astype(np.float32)
    for architecture in MEMORY:
        bundle = searching(bundle_of(architecture, 64, "unstructured"))
        for backend in ("native", "reference"):
            rows[architecture, "agent", backend] = row(backend, in_python(_call(bundle.agent(0, backend).act, obs[0])))
            for n in (AGENTS, 8):
                act = bundle.team(n, backend).act
                rows[architecture, f"team of {n}", backend] = row(backend, in_python(_call(act, obs[:n])))
    ns = dict(zip(rows, in_turn([*rows.values()], rounds), strict=True))
    found = []
    for (architecture, what, backend), own in ns.items():
        if backend == "native":
            over = float(np.median(ns[architecture, what, "reference"] / own))
            median = round(float(np.median(own)), 1)
            found.append(
                {"architecture": architecture, "what": what, "median_ns": median, "numpy_over": round(over, 1)}
            )
    return found


def in_turn(each: list[Row], rounds: int) -> list[np.ndarray]:
    """Nanoseconds of each in every round."""
    # of several tries the quickest: one that was interrupted would make its turns too short to measure
    quickest = [min(one.measure(8) / 8 for _ in range(20)) for one in each]
    calls = [max(1, int(TURN_S / max(once, 1e-8))) for once in quickest]
    times: dict[int, list[float]] = {i: [] for i in range(len(each))}
    for turn in range(rounds):
        for i in range(len(each)):
            at = (i + turn) % len(each)
            times[at].append(each[at].measure(calls[at]) / calls[at] * 1e9)
    return [np.array(times[i]) for i in range(len(each))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--critics", action="store_true", help="agents that search for their actions in their place")
    options = parser.parse_args()
    rows = measure_critics(options.rounds) if options.critics else measure(options.rounds)
    than = "numpy" if options.critics else "dense"
    print(f"HalfCheetah-2x3, {SPARSITY:.0%} sparse, {default_level()}: ns a decision, times faster than {than}")
    for one in rows:
        if options.critics:
            print(f"  {one['architecture']} {one['what']:12s}{one['median_ns']:10,.0f}{one['numpy_over']:8.1f}x")
            continue
        name = f"{one['architecture']} {one['hidden']} {one['weights']}"
        print(f"  {name:24s}{one['what']:16s}{one['median_ns']:10,.0f}{one['over_dense']:8.1f}x")
    machine = describe_machine()
    if machine.warning:
        print(f"note: {machine.warning}")
    if options.json:
        result = {"machine": asdict(machine), "rounds": options.rounds, "sparsity": SPARSITY, "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
