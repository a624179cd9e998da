"""One agent's policy as C source, with a test of the recorded episode."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mast_export.c import text
from mast_export.c.matrices import Matrix, Table, first_columns, kernel, literals, matrices
from mast_export.verify import ERROR_LIMIT, Trace, q_scale
from mast_runtime import AgentInfo, Bundle, Contract, Network
from mast_runtime.backends.reference import ReferenceStep

TEST_TOLERANCE = 1e-4
"""Of q (times the largest |q| where that is above 1) and hidden: C beside the numpy reference on the same weights.
More where the network amplifies rounding: as much as verification allows."""


@dataclass(frozen=True)
class Source:
    """The files of one agent's folder, and the bytes of policy.c's constant tables."""

    files: dict[str, str]
    table_bytes: int


def generate(bundle: Bundle, k: int, trace: Trace) -> Source:
    """The C files of agent k; `trace` (N = 1) becomes its host test. The same bundle gives the same text."""
    info = bundle.agents[k]
    contract, network = _without_id(bundle.contract, bundle.networks[info.network], info.index)
    layers = matrices(network)
    biases = {
        "fc1": (network.fc1_bias, layers["fc1"].surplus),
        "gru": (network.gru_bias[[2, 0, 1, 3]].ravel(), layers["weight_hh"].surplus),
        "fc2": (network.fc2_bias, layers["fc2"].surplus),
    }
    tables = [
        Table("float", f"{name}_bias", np.append(bias, np.zeros(surplus, np.float32)))
        for name, (bias, surplus) in biases.items()
    ]
    tables += [table for layer in layers.values() for table in layer.tables]
    table_bytes = sum(table.size_bytes for table in tables)
    half = text.HALF if any(table.name.endswith("values") and table.ctype == "uint16_t" for table in tables) else ""
    kernels = dict.fromkeys(kernel(layer.kind) for layer in layers.values())
    source = [text.SOURCE_START, *(table.text() for table in tables), text.ACTIVATIONS, half, *kernels, text.ACT]
    words = _words(info, contract, network, layers, table_bytes)
    files = {
        "policy.h": _fill(text.HEADER, words),
        "policy.c": _fill("\n".join(filter(None, source)), words),
        "test.c": text.TEST,
        "trace.h": _trace_header(contract, network, info.index, trace),
        "Makefile": text.MAKEFILE,
    }
    return Source(files, table_bytes)


def _without_id(contract: Contract, network: Network, index: int) -> tuple[Contract, Network]:
    """One agent's id is constant, so its column of fc1 joins the bias."""
    if not contract.agent_id:
        return contract, network
    first = contract.obs_dim + contract.n_actions * contract.last_action
    bias = network.fc1_bias + network.fc1.dense()[:, first + index]
    return replace(contract, agent_id=False), replace(network, fc1=first_columns(network.fc1, first), fc1_bias=bias)


def _words(
    info: AgentInfo, contract: Contract, network: Network, layers: dict[str, Matrix], table_bytes: int
) -> dict[str, str]:
    """What replaces the @NAMES@ of text."""
    h, fc1, actions = network.hidden, network.fc1.outputs, contract.n_actions
    arrays = {"FC1": (fc1, "fc1"), "4 * HIDDEN": (4 * h, "weight_hh"), "ACTIONS": (actions, "fc2")}
    surplus = {name: layers[layer].surplus for name, (_, layer) in arrays.items()}
    sizes = [f"{name} + {extra}" if extra else name for name, extra in surplus.items()]
    stack = contract.input_dim + sum(size + surplus[name] for name, (size, _) in arrays.items())
    summary = f"{network.nnz:,} connections, {network.sparsity:.1%} of all are absent; weights are stored as "
    return {
        "AGENT": _comment(f"{info.name} ({info.type})"),
        "SUMMARY": summary + ", ".join(dict.fromkeys(layer.kind.value_name for layer in layers.values())) + ".",
        "TABLES": f"{table_bytes:,}",
        "STATE": f"{4 * (h + actions + 1):,}",
        "STACK": f"{4 * stack:,}",
        "OBS": str(contract.obs_dim),
        "ACTIONS": str(actions),
        "HIDDEN": str(h),
        "INPUTS": str(contract.input_dim),
        "FC1": str(fc1),
        **dict(zip(("Y_SIZE", "GATES_SIZE", "Q_SIZE"), sizes, strict=True)),
        "LAST_ACTION": text.LAST_ACTION if contract.last_action else "",
        "FC1_CALL": layers["fc1"].call("x", "y"),
        "WEIGHT_IH_CALL": layers["weight_ih"].call("y", "gates"),
        "WEIGHT_HH_CALL": layers["weight_hh"].call("state->hidden", "gates + HIDDEN"),
        "FC2_CALL": layers["fc2"].call("gates", "q"),
    }


def _fill(template: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z0-9_]+)@", lambda match: words[match[1]], template)


def _comment(words: str) -> str:
    """`words` that cannot end a comment, break its line or need another encoding."""
    return re.sub(r"[^\w .()-]", "?", words, flags=re.ASCII)


def _trace_header(contract: Contract, network: Network, index: int, trace: Trace) -> str:
    """The observations of the trace, and what the numpy reference makes of them after the trace's last actions."""
    q, hidden = _reference(contract, network, index, trace)
    actions = np.where(trace.avail_actions[:, 0], q, -np.inf).argmax(1)
    tolerance = max(TEST_TOLERANCE, ERROR_LIMIT * trace.noise_of("f32"))
    rows = {
        "uint8_t trace_avail[TRACE_STEPS][POLICY_ACTIONS]": trace.avail_actions[:, 0].astype(np.uint8),
        "int trace_last_action[TRACE_STEPS]": trace.last_actions[:, 0],
        "int trace_action[TRACE_STEPS]": actions,
        "float trace_obs[TRACE_STEPS][POLICY_OBS]": trace.obs[:, 0],
        "float trace_q[TRACE_STEPS][POLICY_ACTIONS]": q,
        "float trace_hidden[POLICY_HIDDEN]": hidden,
    }
    defines = {
        "TRACE_STEPS": str(len(trace.obs)),
        "TRACE_Q_TOLERANCE": f"{q_scale(q) * tolerance:.3e}f",
        "TRACE_HIDDEN_TOLERANCE": f"{tolerance:.3e}f",
    }
    lines = ["/* A recorded episode, and the actions and values of the runtime; hidden is that of the end. */"]
    lines += [f"#define {name} {value}" for name, value in defines.items()]
    lines += [f"static const {declaration} = {_initialiser(values)};" for declaration, values in rows.items()]
    return "\n".join(lines) + "\n"


def _reference(contract: Contract, network: Network, index: int, trace: Trace) -> tuple[NDArray, NDArray]:
    """q [T,A], and hidden [H] after the last step."""
    step = ReferenceStep(contract, network)
    hidden = np.zeros((1, network.hidden), np.float32)
    q = np.empty_like(trace.q[:, 0])
    for t, obs in enumerate(trace.obs):
        q[t], hidden = step(obs, trace.last_actions[t], np.array([index]), hidden)
    return q, hidden[0]


def _initialiser(values: NDArray) -> str:
    if values.ndim == 1:
        return "{" + ", ".join(literals(values)) + "}"
    return "{\n" + ",\n".join(_initialiser(row) for row in values) + "}"
