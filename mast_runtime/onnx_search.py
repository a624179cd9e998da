"""The search of mast_runtime.search as nodes of an ONNX graph, unrolled, in float64 as there."""

from __future__ import annotations

import numpy as np

from mast_runtime.head import Search
from mast_runtime.network import Network
from mast_runtime.onnx_nodes import Graph
from mast_runtime.search import GRID, reading


def add_search(graph: Graph, search: Search, network: Network, size: int) -> str:
    """Nodes from q [B,W] to the best action [B,size] float32 in [-1, 1]: its name. size: components of the agent."""
    shape = search.iterations, search.candidates, -1
    noise = np.frombuffer(search.noise, "<f4").astype(np.float64).reshape(shape)[..., :size]
    first = np.clip(noise[0], -1.0, 1.0)
    first[1] = 0.0
    act, fc3 = network.act.dense(), network.fc3.dense()[0]
    units = reading(act, fc3)
    graph.constant("search.units", units.astype(np.int64))
    graph.constant("search.act", act[units, :size].T.astype(np.float64))
    graph.constant("search.fc3", fc3[units, None].astype(np.float64))
    for name, value in (("nothing", 0.0), ("least", -1.0), ("most", 1.0), ("grid", GRID), ("tiny", 2.0**-1000)):
        graph.constant(f"search.{name}", np.float64(value))
    for name, value in (("elites", [search.elites]), ("one", [0]), ("rows", [1]), ("last", [2])):
        graph.constant(f"search.{name}", np.array(value, np.int64))
    read = graph.node("Gather", "q", "search.units", axis=1)
    q = graph.node("Unsqueeze", graph.cast(read, np.float64), "search.rows")  # [B,1,K]
    mean, candidates, best, spread = "search.nothing", graph.constant("search.first", first), "", ""
    for i in range(search.iterations):
        if i:
            drawn = graph.node("Mul", spread, graph.constant(f"search.noise{i}", noise[i, 2:]))
            drawn = graph.node("Clip", graph.node("Add", mean, drawn), "search.least", "search.most")
            candidates = graph.node("Concat", mean, best, drawn, axis=1)
        place = _best(graph, q, candidates, search.elites)
        if i:
            elites = graph.node("GatherND", candidates, graph.node("Unsqueeze", place, "search.last"), batch_dims=1)
        else:
            elites = graph.node("Gather", candidates, place, axis=0)
        best = graph.node("Gather", elites, "search.one", axis=1)  # [B,1,size]
        distance = graph.node("Sub", elites, mean)
        squared = graph.node("ReduceMean", graph.node("Mul", distance, distance), axes=[1], keepdims=1)
        spread, mean = graph.node("Sqrt", squared), graph.node("ReduceMean", elites, axes=[1], keepdims=1)
    return graph.cast(graph.node("Squeeze", best, "search.rows"), np.float32)


def _best(graph: Graph, q: str, candidates: str, elites: int) -> str:
    """Where the elites are among candidates [B,J,A] or, of all teams, [J,A]: [B,elites] int64."""
    y = graph.node("Relu", graph.node("Add", graph.node("MatMul", candidates, "search.act"), q))
    values = graph.node("Squeeze", graph.node("MatMul", y, "search.fc3"), "search.last")
    largest = graph.node("ReduceMax", graph.node("Abs", values), axes=[1], keepdims=1)
    grid = graph.node("Max", graph.node("Mul", largest, "search.grid"), "search.tiny")
    return graph.second("TopK", graph.node("Round", graph.node("Div", values, grid)), "search.elites", axis=1)
