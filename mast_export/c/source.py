"""One agent's policy as C source, in float or in fixed point, with a test of the recorded episode and a self-test."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mast_export.c import (
    bounded_text,
    choice_text,
    fixed_source,
    fixed_text,
    float_text,
    search_text,
    test_text,
    text,
    trials,
)
from mast_export.c.matrices import Matrix, Table, kernel, matrices
from mast_export.c.own import alone
from mast_export.errors import ExportError
from mast_export.fixed import MEMORY, Fixed, fix
from mast_export.verify import ERROR_LIMIT, Trace, weights_dtype
from mast_runtime import AgentInfo, Bundle, Contract, Identity, Network
from mast_runtime.inner import inner_network
from mast_runtime.network import CRITIC

PREFIX = "policy"
TEST_TOLERANCE = 1e-4
"""Of q (times the largest |q| where that is above 1) and hidden: C beside the numpy reference on the same weights.
More where the network amplifies rounding: as much as verification allows."""
TAKEN = ("stdint", "stddef", "stdio", "string", "test", "main")
"""No prefixes: files of these names would be found where the C library's are meant, or say nothing."""


@dataclass(frozen=True)
class Source:
    """The files of one agent's folder, and the bytes of its constant tables.

    stack_bytes: of the local arrays of a decision, the largest part of its stack. trace: what its test plays, of its
    own components where actions are continuous. fixed: the integers it computes.
    """

    files: dict[str, str]
    table_bytes: int
    stack_bytes: int
    trace: Trace
    fixed: Fixed | None = None


def check_prefix(prefix: str) -> str:
    """Itself. Raises ExportError for what cannot begin the names of a policy in C."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", prefix) or prefix in TAKEN:
        raise ExportError(
            f"prefix {prefix!r}: it begins names of C and of files; use a lower-case letter, then up to 39 of a-z, 0-9 "
            f"and _, for example left_arm; taken are {', '.join(TAKEN)}"
        )
    return prefix


def check_kind(bundle: Bundle, dtype: str) -> None:
    """Raises ExportError for a team that C cannot compute with weights of this type."""
    head = bundle.contract.head
    if dtype == "i8" and head is not None and head.search is not None:
        raise ExportError("the team searches for its actions, which C computes in float; export f32 or f16, not i8")


def generate(bundle: Bundle, k: int, trace: Trace, prefix: str = PREFIX, fixed: bool = False) -> Source:
    """The C files of agent k, whose names begin with `prefix`; `trace` (N = 1) becomes its tests.

    fixed: in integers, with scales for what the trace recorded; a bundle of int8 weights always is. The same bundle
    and trace give the same text. Raises ExportError for a network that integers cannot hold.
    """
    info, fixed = bundle.agents[k], fixed or weights_dtype(bundle) == "i8"
    check_kind(bundle, "i8" if fixed else "f32")
    contract, network, trace = alone(bundle, k, trace)
    words = _common_words(info, contract, network, prefix, fixed) | _identity_words(bundle.identity)
    integers = fix(contract, network, trace) if fixed else None
    if integers:
        code, own, table_bytes, stack_bytes = _fixed(contract, network, integers, prefix)
        tried = trials.fixed_trials(integers, trace)
    else:
        code, own, table_bytes, stack_bytes = _float(contract, network, prefix)
        tried = trials.float_trials(contract, network, trace, max(TEST_TOLERANCE, ERROR_LIMIT * trace.noise_of("f32")))
    words |= {"TABLES": f"{table_bytes:,}", "STACK": f"{stack_bytes:,}"} | own | tried.words
    names = {
        f"{prefix}.h": text.HEADER.replace("@FIXED_API@", fixed_text.API if fixed else ""),
        f"{prefix}.c": code,
        f"{prefix}_selftest.c": test_text.SELFTEST,
        f"{prefix}_test.c": test_text.TEST,
        f"{prefix}_trace.h": tried.header,
    }
    files = {name: _fill(template, words) for name, template in names.items()}
    return Source(files, table_bytes, stack_bytes, trace, integers)


def makefile(prefix: str, source: str = "src/", test: str = "test/") -> str:
    """Builds and runs the test, where the policy and the test are in these folders."""
    files = [f"{source}{prefix}.c", f"{source}{prefix}_selftest.c", f"{test}{prefix}_test.c"]
    headers = [f"{source}{prefix}.h", f"{test}{prefix}_trace.h"]
    includes = " ".join(dict.fromkeys(f"-I{folder or '.'}" for folder in (source, test)))
    words = {"SOURCES": " ".join(files), "HEADERS": " ".join(headers), "INCLUDES": includes}
    return _fill(test_text.MAKEFILE, words | {"prefix": prefix, "PREFIX": prefix.upper()})


def _common_words(info: AgentInfo, contract: Contract, network: Network, prefix: str, fixed: bool) -> dict[str, str]:
    """What replaces the @NAMES@ of every policy."""
    kind, memory = (choice_text, bounded_text)[contract.head is not None], _memory(network)
    words = text.OUTPUTS | kind.HEADER | kind.TEST | text.MEMORY[memory] | test_text.MEMORY[memory]
    if contract.head is not None:
        words |= bounded_text.words(contract.head, fixed)
        if contract.head.search is not None:
            words |= (
                search_text.HEADER
                | search_text.TEST
                | search_text.words(contract.head.search, network, contract.n_actions)
            )
    return words | {
        "prefix": prefix,
        "PREFIX": prefix.upper(),
        "AGENT": _comment(f"{info.name} ({info.type})"),
        "OBS": str(contract.obs_dim),
        "ACTIONS": str(contract.n_actions),
        "HIDDEN": str(network.hidden),
        "INPUTS": str(contract.input_dim),
        "FC1": str(network.fc1.outputs),
    }


def _identity_words(identity: Identity) -> dict[str, str]:
    """Text that can stand in a C string: no quote, backslash or trigraph."""
    named = {"DIGEST": identity.digest, "VERSION": identity.version, "PRODUCER": identity.producer}
    return {name: re.sub(r"[^\w .()+-]", "_", value, flags=re.ASCII) for name, value in named.items()}


def _float(contract: Contract, network: Network, prefix: str) -> tuple[str, dict[str, str], int, int]:
    """The code in float, the words it is filled with, the bytes of its tables and those of its local arrays."""
    layers, recurrent = matrices(inner_network(contract, network)), _memory(network) == "gru"
    search = contract.head and contract.head.search
    biases: dict[str, tuple[NDArray, int]] = {"fc1": (network.fc1_bias, layers["fc1"].surplus)}
    if recurrent:
        biases["gru"] = network.gru_bias[[2, 0, 1, 3]].ravel(), layers["weight_hh"].surplus
    else:
        biases["mid"] = network.mid_bias, layers["mid"].surplus
    biases["fc2"] = network.fc2_bias, layers["fc2"].surplus
    tables = [
        Table("float", f"{name}_bias", np.append(bias, np.zeros(surplus, np.float32)))
        for name, (bias, surplus) in biases.items()
    ]
    tables += [table for layer in layers.values() for table in layer.tables]
    wide = any(table.name.endswith("values") and table.ctype == "uint16_t" for table in tables)
    public, ranges = bounded_text.tables(contract.head, prefix) if contract.head else ([], [])
    tables += ranges
    tables += search_text.tables(search, network) if search else []
    parts = [text.SOURCE_START, *(table.text() for table in tables), *(table.text(public=True) for table in public)]
    parts += [float_text.FINITE]
    parts += [float_text.CLAMP] if recurrent or contract.head else []
    parts += [float_text.TANH] if recurrent or (contract.head and not search) else []
    parts += [float_text.SIGMOID] if recurrent else []
    parts += [float_text.HALF] if wide else []
    parts += [*dict.fromkeys(kernel(layer.kind) for layer in layers.values())]
    parts += [search_text.CODE] if search else []
    parts += [bounded_text.WITHIN, bounded_text.CODE] if contract.head else [choice_text.CODE]
    parts += [float_text.COPY, *([float_text.GRU] if recurrent else [])]
    size = sum(table.size_bytes for table in (*tables, *public))
    words, stack_bytes = _float_words(contract, network, layers)
    return "\n".join([*parts, float_text.ACT]), words, size, stack_bytes


def _float_words(contract: Contract, network: Network, layers: dict[str, Matrix]) -> tuple[dict[str, str], int]:
    """Those, and the bytes of its local arrays."""
    h, fc1, outputs = network.hidden, network.fc1.outputs, network.fc2.outputs
    kind, memory = (choice_text, bounded_text)[contract.head is not None], _memory(network)
    search = contract.head and contract.head.search
    middle = {"4 * HIDDEN": (4 * h, "weight_hh")} if memory == "gru" else {"HIDDEN": (h, "mid")}
    arrays = {"FC1": (fc1, "fc1"), **middle, text.OUTPUTS["OUTPUTS"]: (outputs, "fc2")}
    surplus = {name: layers[layer].surplus for name, (_, layer) in arrays.items()}
    sizes = [f"{name} + {extra}" if extra else name for name, extra in surplus.items()]
    if search:
        sizes[-1] = sizes[-1].replace(text.OUTPUTS["OUTPUTS"], search_text.HEADER["OUTPUTS"])
    stack = contract.input_dim + sum(size + surplus[name] for name, (size, _) in arrays.items())
    stack += search_text.stack(search, network, contract.n_actions) if search else 0
    kinds = ", ".join(dict.fromkeys(layer.kind.value_name for layer in layers.values()))
    last = contract.n_actions if contract.head else 1
    words = {
        "SUMMARY": f"{_connections(network)}; weights are stored as {kinds}, the step computes in float.",
        "STATE": f"{4 * (h * (memory == 'gru') + outputs + last):,}",
        "HIDDEN_TYPE": "float",
        "HIDDEN_UNIT": "",
        "Q_TYPE": "float",
        "Q_UNIT": "",
        "SHIFTS": "",
        "OVERFLOW": "observations so large that float overflows",
        **dict(zip(("Y_SIZE", "GATES_SIZE", "Q_SIZE"), sizes, strict=True)),
        **float_text.MEMORY[memory],
        **kind.FLOAT,
        **(search_text.FLOAT if search else {}),
        "LAST_ACTION": kind.FLOAT["LAST_ACTION"] if contract.last_action else "",
        **_calls(layers),
    }
    return words, 4 * stack


def _calls(layers: dict[str, Matrix]) -> dict[str, str]:
    """The calls that multiply by each layer."""
    middle = "gates" if "weight_ih" in layers else "z"
    arrays = {
        "fc1": ("x", "y"),
        "weight_ih": ("y", "gates"),
        "weight_hh": ("state->hidden", "gates + HIDDEN"),
        "mid": ("y", "z"),
        "fc2": (middle, "q"),
    }
    return {f"{name.upper()}_CALL": layer.call(*arrays[name]) for name, layer in layers.items()}


def _fixed(contract: Contract, network: Network, fixed: Fixed, prefix: str) -> tuple[str, dict[str, str], int, int]:
    """The code in fixed point, the words it is filled with, the bytes of its tables and those of its local arrays."""
    tables, obs_bits = fixed_source.tables(fixed), fixed_source.obs_bits(fixed, prefix)
    own = fixed_source.words(fixed, tables)
    public, ranges = bounded_text.tables(contract.head, prefix, MEMORY) if contract.head else ([], [])
    public, tables = [*([obs_bits] if obs_bits else []), *public], [*tables, *ranges]
    parts = [text.SOURCE_START, *(table.text() for table in tables), *(table.text(public=True) for table in public)]
    parts += fixed_source.code(fixed)
    h, fc1, actions = network.hidden, network.fc1.outputs, contract.n_actions
    summary = f"{_connections(network)}; weights have 10 bits, the step computes in integers."
    words = {
        "SUMMARY": summary,
        "STATE": f"{2 * fixed.hidden + 4 * actions + (2 * actions if contract.head else 4):,}",
        "HIDDEN_TYPE": "int16_t",
        "HIDDEN_UNIT": f", times {MEMORY}",
        "Q_TYPE": "int32_t",
        "Q_UNIT": f", times {prefix.upper()}_Q_UNIT",
        "OVERFLOW": "never: what is too large is cut to what fits",
    }
    size = sum(table.size_bytes for table in (*tables, *public))
    return "\n".join(parts), words | own, size, 2 * (contract.input_dim + fc1 + h)


def _memory(network: Network) -> str:
    return network.architecture.removesuffix(CRITIC)


def _connections(network: Network) -> str:
    return f"{network.nnz:,} connections, {network.sparsity:.1%} of all are absent"


def _fill(template: str, words: dict[str, str]) -> str:
    """The template's words, and those of what replaces them."""
    filled = re.sub(r"@(\w+)@", lambda match: words[match[1]], template)
    return _fill(filled, words) if re.search(r"@\w+@", filled) else filled


def _comment(words: str) -> str:
    """`words` that cannot end a comment, break its line or need another encoding."""
    return re.sub(r"[^\w .()-]", "?", words, flags=re.ASCII)
