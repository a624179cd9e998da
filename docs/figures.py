"""Times and sizes that the documents quote, as Markdown, from the files that measured them (benchmarks/results).

cog runs these functions inside the documents: `make figures` writes what they give, `make lint` checks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DENSE, OURS_DENSE, SPARSE = "dense torch", "dense native", "sparse native"
"""Columns of update.json."""


def measured(name: str) -> Any:
    """A file of benchmarks/results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in cells) + "|" for cells in lines)


def digits(value: float) -> str:
    """To three digits, without an exponent: 0.0927, 16.4, 355."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def us(nanoseconds: float) -> str:
    return f"{digits(nanoseconds / 1000)} us"


def times(ratio: float) -> str:
    return f"{ratio:.1f}x"


def summary() -> str:
    """README: what sparsity saves on the clock."""
    native, update, startup = measured("native"), measured("update"), _named(measured("startup")["rows"], "name")
    rows = []
    for hidden in ("64", "256"):
        found = native[hidden]["avx512"]
        ratio = {row["row"]: row["ratio"] for row in native[hidden]["ratios"] if row["baseline"] == "dense"}
        rows += [
            [f"a decision in C, hidden {hidden}", us(found["dense"]), us(found["unstructured"]),
             times(ratio["unstructured"])],
            [f"the same, recurrent layer in 16x1 blocks, hidden {hidden}", us(found["dense"]), us(found["mixed"]),
             times(ratio["mixed"])],
            [f"in ONNX Runtime, which multiplies the zeros, hidden {hidden}", us(found["onnxruntime"]), "as dense", ""],
        ]  # fmt: skip
    code = _named(measured("instructions")["rows"], "network")
    few, many = (code[name]["cortex_m4_instructions"] for name in ("unstructured", "dense"))
    rows.append(["a decision on a Cortex-M4, instructions (hidden 64)", f"{many:,}", f"{few:,}", times(many / few)])
    for result in (result for result in update["results"] if result["hidden"] == 64):
        ms, ratio = result["median_ms"]["update"], result["times_faster"]["update"][DENSE]
        name = f"a learner update, {result['map']}, hidden {result['hidden']}"
        rows.append([name, f"{digits(ms[DENSE])} ms", f"{digits(ms[SPARSE])} ms", times(ratio)])
    for result in measured("throughput")["results"]:
        speed = {name: row["env_steps_per_s"] for name, row in result["medians"].items()}
        rows.append([
            f"training end to end, {result['map']}, hidden {result['hidden']}, steps/s",
            f"{speed['dense, torch']:,.0f}", f"{speed['mast 95 %, native']:,.0f}",
            times(result["end_to_end_over_dense"]),
        ])  # fmt: skip
    fresh = [f"{startup[name]['startup_ms']:.0f} ms, {startup[name]['peak_bytes'] / 1e6:.0f} MB"
             for name in ("onnxruntime", "mast_runtime")]  # fmt: skip
    rows.append(["a fresh process to its first decision", f"onnxruntime: {fresh[0]}", fresh[1], ""])
    return table(["", "dense", "95 % sparse", "faster"], rows)


def decisions() -> str:
    """runtime.md: one decision of one agent, by instruction set and kind of connections."""
    names = {
        "onnxruntime": "ONNX Runtime, dense (it runs a sparse model in the same time)", "dense": "our dense C kernel",
        "unstructured": "unstructured", "mixed": "GRU in 16x1 blocks, the rest unstructured",
        "8x1": "8x1 blocks everywhere", "16x1": "16x1 blocks everywhere", "16x1 f16": "the same, float16 weights",
        "no connections": "a step without connections", "act unstructured": "`agent.act` from Python, unstructured",
        "act mixed": "`agent.act` from Python, GRU in blocks",
        "team unstructured": "64 agents in one call, unstructured, each",
        "onnxruntime team": "64 agents in one call of ONNX Runtime, each",
    }  # fmt: skip
    native = measured("native")
    columns = [(hidden, level) for hidden in ("64", "256") for level in ("avx512", "avx2", "scalar")]

    def cell(hidden: str, level: str, name: str) -> str:
        found, dense = native[hidden][level].get(name), native[hidden][level]["dense"]
        if found is None:
            return ""
        of_rounds = {row["row"]: row["ratio"] for row in native[hidden]["ratios"] if row["baseline"] == "dense"}
        gain = of_rounds.get(name, dense / found) if level == "avx512" else dense / found
        sparse = name in ("unstructured", "mixed", "8x1", "16x1", "16x1 f16")
        return digits(found / 1000) + (f", {times(gain)}" if sparse else "")

    head = ["microseconds, and times faster than our dense C", *(f"{hidden}, {level}" for hidden, level in columns)]
    return table(head, [[text, *(cell(*column, name) for column in columns)] for name, text in names.items()])


def continuous() -> str:
    """runtime.md: decisions of continuous actors."""
    ways = {"agent 0 in C": "agent 0, in C", "agent 1 in C": "agent 1, in C", "agent 0 act": "agent 0, `act`",
            "agent 1 act": "agent 1, `act`", "team": "both, `team.act`"}  # fmt: skip
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in measured("continuous")["rows"]:
        actor = f"{row['architecture'].upper()}, hidden {row['hidden']}"
        gain = "" if row["weights"] == "dense" else f", {times(row['over_dense'])}"
        rows.setdefault((actor, row["weights"]), {})[row["what"]] = digits(row["median_ns"] / 1000) + gain
    found = [[*names, *(of[way] for way in ways)] for names, of in rows.items()]
    return table(["actor", "weights", *ways.values()], found)


def critics() -> str:
    """runtime.md: decisions of agents that search for their actions."""
    rows = [
        [row["architecture"].upper(), row["what"], digits(row["median_ns"] / 1000), times(row["numpy_over"])]
        for row in measured("critics")["rows"]
    ]
    return table(["agents", "call", "us", "faster than in numpy"], rows)


def break_even() -> str:
    """runtime.md: the density from which a layout no longer pays, from the kernels' own tables."""
    layouts = {"MAST_PERMUTED": "windows", "MAST_SLICES": "slices", "MAST_BLOCKS8": "8x1", "MAST_BLOCKS16": "16x1",
               "MAST_LANE_SLICES": "slices, lanes"}  # fmt: skip
    rows = []
    for level in ("avx512", "avx2", "neon", "scalar"):
        text = (ROOT / "mast_runtime" / "native" / f"level_{level}.c").read_text(encoding="utf-8")
        found = dict(re.findall(r"\[(MAST_\w+)\] = ([0-9.]+)", text))
        rows.append([level, *(found.get(layout, "–") for layout in layouts)])
    return table(["", *layouts.values()], rows)


def instructions() -> str:
    """c.md: the exported C on a Cortex-M4."""
    rows = measured("instructions")["rows"]
    found = [[row["network"], f"{row['cortex_m4_instructions']:,}", f"{row['cortex_m4_bytes']:,}"] for row in rows]
    return table(["network", "instructions a decision", "code and tables, bytes"], found)


def chips(of: str = "map", name: str = "chips") -> str:
    """c.md: a run's policy, or an actor, on small chips."""
    rows, order, keys = {}, ("Cortex-M0", "Cortex-M4F"), ("instructions", "flash_bytes", "ram_bytes")
    for row in measured(name)["rows"]:
        rows.setdefault((row["map"], row["network"]), {})[row["chip"]] = row
    found = [
        [*names, *(f"{on[chip][key]:,}" if chip in on else "" for key in keys for chip in order)]
        for names, on in rows.items()
    ]
    head = [f"{what}, {chip.removeprefix('Cortex-')}" for what in ("instructions", "flash", "RAM") for chip in order]
    return table([of, "network", *head], found)


def fixed_point() -> str:
    """c.md: fixed point beside the trained network."""
    rows = []
    for row in measured("fixed_point")["results"]:
        wins = [
            f"{row[f'{kind}_wins'] / row['episodes']:.1%} [{', '.join(f'{x:.1%}' for x in row[f'{kind}_interval'])}]"
            for kind in ("float", "fixed")
        ]
        rows.append([row["map"], f"{row['recorded']:.2%}", f"{row['fresh']:.2%}", f"{row['fresh_decisions']:,}", *wins])
    head = ["recorded actions", "fresh actions", "fresh decisions", "win rate, network", "win rate, fixed point"]
    return table(["map", *head], rows)


def starting() -> str:
    """runtime.md: a fresh process to its first decision."""
    rows = measured("startup")["rows"]
    return table(
        ["", "ms", "MB at its peak"],
        [[row["name"], f"{row['startup_ms']:.0f}", f"{row['peak_bytes'] / 1e6:.0f}"] for row in rows],
    )


def browser() -> str:
    """browser.md: what a page weighs, and a decision in Chromium."""
    found = measured("browser")
    sizes = [[name, *(f"{size / 1e3:,.0f}" for size in pair)] for name, pair in found["sizes"].items()]
    times, engine = found["times_us"], found["times_us"]["ONNX Runtime Web, dense"]
    rows = [[name, digits(us), f"{engine / us:.1f}x"] for name, us in times.items()]
    machine = found["machine"]
    busy = (
        "" if machine["load_average"] < machine["cores"] / 2 else " The machine was busy: the ratios are to be trusted."
    )
    return "\n".join(
        [
            f"Hidden 64, 95 % sparsity; Chromium, one thread, SIMD; lower quartiles of {found['rounds']} interleaved",
            f"rounds; ONNX Runtime Web {found['onnxruntime_web']}.{busy}",
            "",
            table(["", "kB", "kB gzipped"], sizes),
            "",
            table(["one decision of one agent", "us", "faster than ONNX Runtime Web"], rows),
        ]
    )


def served() -> str:
    """serving.md: a decision over the loopback interface."""
    run = measured("serve")
    found = [[name, digits(row["median_us"]), digits(row["p99_us"]), f"{row['decisions_per_s']:,.0f}"]
             for name, row in run["results"].items()]  # fmt: skip
    old = "Of the server before this one, which took longer ([above](#start-up)):\n\n"
    shown = table(["", "median, us", "p99, us", "decisions/s"], found)
    return old * ("starlette" in run["setting"]["packages"]) + shown


def serve_start() -> str:
    """serving.md: a start of the server, its memory and the processor time of a request, beside the one before."""
    found = measured("serve_start")
    rows = [[what, f"{row['before']:,.0f}", f"{row['now']:,.0f}", f"{row['ratio']:.2f}"]
            for what, row in found["rows"].items()]  # fmt: skip
    how = (
        f"Medians of {found['rounds']} interleaved rounds, at a load average of {found['load']:g} on two hyperthreads:"
    )
    return f"{how}\n\n{table(['', 'before', 'now', 'ratio'], rows)}"


def updates() -> str:
    """training-speed.md: an update and its parts."""
    rows = []
    for result in measured("update")["results"]:
        for part, ms in result["median_ms"].items():
            found = [digits(ms[name]) for name in (SPARSE, OURS_DENSE, DENSE)]
            gains = [times(result["times_faster"][part][over]) for over in (OURS_DENSE, DENSE)]
            rows.append([f"{result['map']}, {result['hidden']}", part, *found, *gains])
    return table(["", "part", "sparse, C", "dense, C", "dense, torch", "over dense C", "over dense torch"], rows)


def targets() -> str:
    """training-speed.md: what was aimed at and what was reached; what was missed is bold."""
    wanted = [
        ("whole update over dense torch, hidden 64", 64, "update", DENSE, 8),
        ("whole update over dense torch, hidden 256", 256, "update", DENSE, 10),
        ("agents over dense torch, hidden 64", 64, "agents", DENSE, 30),
        ("agents over dense torch, hidden 256", 256, "agents", DENSE, 12),
        ("agents over our dense C, hidden 64", 64, "agents", OURS_DENSE, 12),
        ("agents over our dense C, hidden 256", 256, "agents", OURS_DENSE, 12),
    ]
    rows = []
    for text, hidden, part, over, target in wanted:
        found = [(result["times_faster"][part][over], result["map"]) for result in measured("update")["results"]
                 if result["hidden"] == hidden]  # fmt: skip
        rows.append([text, f"{target}x", ", ".join(f"{_reached(ratio, target)} ({name})" for ratio, name in found)])
    for result in measured("throughput")["results"]:
        where = f"{result['map']}, hidden {result['hidden']}"
        end_to_end, learned = result["end_to_end_over_dense"], result["learned_over_jaxmarl"]
        rows.append([f"end to end over dense torch, {where}", "4x", _reached(end_to_end, 4)])
        rows.append([f"agent-steps learned a second over JaxMARL's QMIX, {where}", "10x", _reached(learned, 10)])
    return table(["", "target", "reached"], rows)


def end_to_end() -> str:
    """training-speed.md: environment steps and agent-steps learned a second."""
    rows = []
    for result in measured("throughput")["results"]:
        for name, row in result["medians"].items():
            shares = [f"{row[f'share_{part}']:.0%}".replace("%", " %") if f"share_{part}" in row else "–"
                      for part in ("environment", "acting", "learning")]  # fmt: skip
            speeds = [f"{row[key]:,.0f}" for key in ("env_steps_per_s", "agent_steps_learned_per_s", "updates_per_s")]
            rows.append([name, *speeds, *shares])
    return table(
        ["", "environment steps/s", "agent-steps learned/s", "updates/s", "environment", "acting", "learning"], rows
    )


def machine_share() -> str:
    """training-speed.md: the sparse agents' pass against the machine at its best."""
    rows = []
    for result in measured("update")["results"]:
        p = result["profile"]
        rows.append([
            f"{result['map']}, {result['hidden']}", f"{p['agents_mflop']:.0f}", digits(p["agents_mb"]),
            digits(p["agents_gflops"]), digits(p["agents_gb_s"]), digits(p["product_gflops"]),
            digits(p["cache_gb_s"]), digits(p["memory_gb_s"]),
        ])  # fmt: skip
    head = [
        "",
        "MFLOP",
        "MB",
        "GFLOP/s",
        "GB/s",
        "a dense product, GFLOP/s",
        "a copy in cache, GB/s",
        "in memory, GB/s",
    ]
    return table(head, rows)


def _reached(ratio: float, target: float) -> str:
    return times(ratio) if ratio >= target else f"**{times(ratio)}**"


def _named(rows: Iterable[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows}
