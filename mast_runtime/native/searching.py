"""A search for continuous actions as the kernels read it. No numpy is needed here."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from mast_runtime.head import Search
from mast_runtime.native.packing import Layout, rows_of
from mast_runtime.network import Network


class Searching(NamedTuple):
    """What `bind` of an agent or a team of n takes, names and all: mast_search of mast_network.h.

    noise float32 [iterations, candidates, actions]. owner, sizes uint32 [n]: of each agent its network and its
    components. first uint32 [networks + 1], units uint32 [K], weights float64 [K, actions + 1].
    """

    actions: int
    iterations: int
    candidates: int
    elites: int
    noise: array[float]
    owner: array[int]
    sizes: array[int]
    first: array[int]
    units: array[int]
    weights: array[float]


def searching(search: Search, networks: Sequence[Network], sizes: Sequence[int], n_actions: int) -> Searching:
    """Of agents with a network each. Only units that an action leads to and the value reads tell actions apart."""
    noise = array("f", search.noise)
    if sys.byteorder == "big":
        noise.byteswap()
    places, first, units, weights = {}, array("I", [0]), array("I"), array("d")
    for network in {id(network): network for network in networks}.values():
        (leads,) = rows_of(network.fc3, Layout.DENSE)
        for unit, (reads, value) in enumerate(zip(rows_of(network.act, Layout.DENSE), leads.values, strict=True)):
            if value != 0.0 and any(reads.values):
                units.append(unit)
                weights.extend([*reads.values, value])
        places[id(network)] = len(places)
        first.append(len(units))
    owner = array("I", [places[id(network)] for network in networks])
    of_work = search.iterations, search.candidates, search.elites
    return Searching(n_actions, *of_work, noise, owner, array("I", sizes), first, units, weights)
