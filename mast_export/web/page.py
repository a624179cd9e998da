"""One episode of a team as one HTML file that needs nothing else: policies, observations, pictures and code inside."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_export.importing.observations import Numpy, played
from mast_export.quantise import quantise
from mast_export.verify import Trace, weights_dtype
from mast_export.web.wasm import compiled
from mast_runtime import Bundle, Network
from mast_runtime.head import TOLERANCE
from mast_runtime.search import Values

HERE = Path(__file__).parent
SCRIPTS = ("policy.js", "network.js", "battle.js", "page.js")
MAX_WEIGHTS = 4_000_000
"""Dense weights of a team whose page is still a page: they are compiled as C, all of them."""


@dataclass(frozen=True, eq=False)
class Played:
    """A recorded episode of T steps. obs [T,N,O] float32, avail_actions [T,N,A] bool, reward [T]; actions [T,N], or
    continuous ones [T,N,A] in [-1, 1], of which avail_actions says what an agent has.

    frames: T + 1 pictures, each a list of shapes (["c", x, y, radius, colour, label], ["p", [x, y, ...], colour],
    ["l", x0, y0, x1, y1, colour, width, round ends]; y downwards) or one PNG; views: x, y, width, height of the part of
    the plane that each shows, or one for all, or none of PNGs.
    """

    obs: NDArray[np.float32]
    avail_actions: NDArray[np.bool_]
    actions: NDArray
    reward: NDArray[np.float32]
    frames: Sequence[list[Any] | bytes]
    views: Sequence[tuple[float, float, float, float]]
    legend: Sequence[tuple[str, str]]
    title: str
    result: str


def build(bundle: Bundle, episode: Played) -> bytes:
    """The page. Raises ExportError, of a team too large or without a compiler."""
    if weights_dtype(bundle) == "i8":  # else its C computes in integers, which the page does not read
        bundle = quantise(bundle, "f32")
    weights = sum(bundle.networks[agent.network].n_weights for agent in bundle.agents)
    if weights > MAX_WEIGHTS:
        raise ExportError(f"a page holds up to {MAX_WEIGHTS:,} dense weights in all agents, this team has {weights:,}")
    text = json.dumps(_payload(bundle, episode), separators=(",", ":"), allow_nan=False)
    data = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    words = {
        "TITLE": html.escape(episode.title),
        "STYLE": (HERE / "page.css").read_text(),
        "SCRIPT": "\n".join((HERE / name).read_text() for name in SCRIPTS),
        "DATA": data,
    }
    page = (HERE / "page.html").read_text()
    for name, word in words.items():
        page = page.replace(f"@{name}@", word)
    return page.encode()


def _payload(bundle: Bundle, episode: Played) -> dict[str, Any]:
    """What page.js reads: numbers and names; binary parts in base64."""
    frames = [f if isinstance(f, list) else base64.b64encode(f).decode() for f in episode.frames]
    contract = bundle.contract
    return {
        "title": episode.title,
        "result": episode.result,
        "policy": {key: bundle.info[key] for key in ("map", "method", "algorithm") if key in bundle.info},
        "contract": {
            "obs": contract.obs_dim, "actions": contract.n_actions, "agents": contract.n_agents,
            "lastAction": contract.last_action, "agentId": contract.agent_id,
            "continuous": contract.head is not None, "tolerance": TOLERANCE, "candidates": _candidates(bundle),
        },
        "agents": _agents(bundle, episode),
        "networks": [_network(network) for network in bundle.networks],
        "steps": len(episode.obs),
        "obs": _packed(episode.obs, np.float32),
        "avail": _packed(episode.avail_actions, np.uint8),
        "actions": _packed(episode.actions, np.int32 if contract.head is None else np.float32),
        "reward": [round(float(value), 5) for value in episode.reward],
        "views": [[round(value, 3) for value in view] for view in episode.views],
        "legend": list(episode.legend),
        "frames": frames,
    }  # fmt: skip


def _agents(bundle: Bundle, episode: Played) -> list[dict[str, Any]]:
    """Names, and each agent's policy as two modules: its connections, and every weight of the same network."""
    trace = _trace(bundle, episode)
    dense = replace(bundle, networks=tuple(network.densified() for network in bundle.networks))
    found = []
    for k, agent in enumerate(bundle.agents):
        own = trace.agent(k, bundle.networks[agent.network].hidden)
        modules = {"sparse": compiled(bundle, k, own), "dense": compiled(dense, k, own)}
        words = {name: base64.b64encode(module).decode() for name, module in modules.items()}
        named = {"name": agent.name, "type": agent.type, "index": agent.index, "network": agent.network}
        found.append({**named, **_bounds(bundle, agent.index), **words})
    return found


def _candidates(bundle: Bundle) -> int:
    """Actions that a decision values; 0 where it searches for none."""
    search = bundle.contract.head and bundle.contract.head.search
    return search.iterations * search.candidates if search else 0


def _bounds(bundle: Bundle, index: int) -> dict[str, Any]:
    """Of continuous actions: a lower and an upper bound of each component."""
    head = bundle.contract.head
    return {} if head is None else {"low": head.low[index], "high": head.high[index]}


def _trace(bundle: Bundle, episode: Played) -> Trace:
    """What the networks make of the first steps: the export of C asks for it, though a page tests the whole episode."""
    obs, avail, head = episode.obs[:8], episode.avail_actions[:8], bundle.contract.head
    if head is None:
        return played(bundle, [Numpy(bundle, network) for network in range(len(bundle.networks))], (obs, avail))
    team: Any = bundle.team(backend="reference")
    q, hidden = [], []
    for row in obs:
        team.act(row)
        q.append(team.q)
        hidden.append(team.hidden)
    indices = tuple(agent.index for agent in bundle.agents)
    values = None if head.search is None else Values.of(bundle.team_networks)
    return Trace(obs, avail, np.array(q), np.array(hidden), head=head, indices=indices, values=values)


def _network(network: Network) -> dict[str, Any]:
    """Sizes and connections: of each layer the rows, columns and values of what is not zero."""
    layers = {}
    for name, layer in network.layers().items():
        matrix = layer.dense()
        rows, columns = np.nonzero(layer.mask() if not layer.is_dense else matrix)
        layers[name] = {
            "rows": _packed(rows, np.uint16),
            "columns": _packed(columns, np.uint16),
            "values": _packed(matrix[rows, columns], np.float32),
            "all": layer.outputs * layer.inputs,
        }
    return {
        "inputs": network.fc1.inputs, "fc1": network.fc1.outputs, "hidden": network.hidden,
        "outputs": network.fc2.outputs, "bias": _packed(network.fc1_bias, np.float32), "layers": layers,
        "midBias": "" if "mid" not in layers else _packed(network.mid_bias, np.float32),
    }  # fmt: skip


def _packed(array: NDArray, dtype: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()
