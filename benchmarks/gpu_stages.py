"""The stages of gpu.py but updates: what the card is, its tests, the recurrence alone, SMAX, training, JaxMARL."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from gpu_rows import Options, Row, Rows

from mast_runtime.measure.machine import describe_machine
from mast_train.engines import native
from mast_train.envs import smax_jax
from mast_train.envs.smax import SmaxEnv
from mast_train.experience.rollout import AgentPolicy, Exploration, Rollout, random_policy, rollout
from mast_train.experience.rounds import Rounds
from mast_train.learning.learner import Learner
from mast_train.networks.agents import AgentNets, CriticNets
from mast_train.networks.build import agent_inputs
from mast_train.settings.config import Config, override
from mast_train.settings.methods import preset

ROOT = Path(__file__).resolve().parent.parent
STOP = 4
"""The action that is always available to the living."""
PACKAGES = ("torch", "triton", "jax", "jaxlib", "jaxmarl", "numpy", "cuda-bindings")


def stage_card(rows: Rows, options: Options) -> None:
    rows.measure("machine", lambda: machine(options.device))
    rows.measure("dlpack", lambda: dlpack(options.device))
    if options.device == "cuda":
        rows.measure("nvrtc", compile_at_run_time)


def machine(device: str) -> Row:
    here = describe_machine()
    row: Row = {"device": here.cpu, "cpu": here.cpu, "cores": here.cores, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            row[package] = version(package)
        except PackageNotFoundError:
            row[package] = "missing"
    row["native"] = native.status()
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        row |= {"device": card.name, "capability": f"{card.major}.{card.minor}"}
        row |= {"multiprocessors": card.multi_processor_count, "memory_mb": card.total_memory >> 20}
    return row


def dlpack(device: str) -> Row:
    """Whether arrays handed over hold what was still being computed: torch to JAX behind a busy stream, and back."""
    jax, size = smax_jax.import_jax(), 1 << 22
    there = torch.zeros(size, device=device)
    if device == "cuda":
        torch.cuda._sleep(200_000_000)
    there += 1
    to_jax = float(jax.dlpack.from_dlpack(there).sum()) == size
    busy = jax.numpy.ones((1024, 1024)) if device == "cuda" else jax.numpy.ones((8, 8))
    for _ in range(20):
        busy = busy @ busy / busy.shape[0]
    back = torch.from_dlpack(busy * 3.0)
    return {"to_jax": to_jax, "to_torch": float(back.sum()) == 3.0 * busy.size, "jax_devices": str(jax.devices())}


def compile_at_run_time() -> Row:
    from mast_train.engines.fused.nvrtc import compiled, shared_limit
    from mast_train.engines.fused.sparse import SOURCE

    major, minor = torch.cuda.get_device_capability()
    started = time.perf_counter()
    code = compiled(SOURCE, (("CLUSTER", 1), ("WARPS", 16)), f"sm_{major}{minor}")
    seconds = round(time.perf_counter() - started, 2)
    return {"cubin_bytes": len(code), "seconds": seconds, "shared_kb": shared_limit(torch.device("cuda")) >> 10}


def stage_tests(rows: Rows, options: Options) -> None:
    """Updates by the default kernel beside plain ones, the fused kernels against float64 on some of gpu_check.py's
    shapes, and what the test suite has for a GPU."""
    from gpu_update import agreement

    from mast_train.engines.choice import kernel_name

    kernel = kernel_name("auto", torch.device(options.device))
    rows.measure(f"{kernel} updates", lambda: agreement(kernel, options))
    if options.device == "cuda":
        rows.measure("fused", check_fused, needs_s=4.0)
    if find_spec("pytest") is None:
        return rows.put("graphs", {"skipped": "needs pytest"})
    only = "lengths or needs_a_gpu" if options.tiny else "not over_padding and not waits"
    return rows.measure("graphs", lambda: run_tests(rows.left_s, "tests/test_graphs.py", "-k", only), needs_s=5.0)


def run_tests(seconds: float, *which: str) -> Row:
    """How many passed and failed until the time was over."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-W", "default", "-p", "no:cacheprovider", *which]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, over = process.communicate(timeout=seconds)[0], False
    except subprocess.TimeoutExpired:
        process.kill()
        output, over = process.communicate()[0], True
    row: Row = {word.lower(): len(re.findall(rf"::.* {word}\b", output)) for word in ("PASSED", "FAILED", "SKIPPED")}
    row["seconds"] = round(time.monotonic() - started, 1)
    if over:
        row["unfinished"] = True
    elif process.returncode:
        print(output[-3000:], flush=True)
        row["error"] = f"pytest ended with {process.returncode}, {row['failed']} tests failed"
    return row


def check_fused() -> Row:
    import gpu_check

    started, shapes = time.monotonic(), gpu_check.SHAPES[1:9:3]
    with patch.object(gpu_check, "SHAPES", shapes), patch.object(gpu_check, "SPLITS", gpu_check.SPLITS[::3]):
        failures, cases = gpu_check.check(), sum(1 for _ in gpu_check.check_cases())
    row: Row = {"cases": cases + 1, "failures": failures, "seconds": round(time.monotonic() - started, 1)}
    return row | ({"error": f"{failures} differ from float64"} if failures else {})


def stage_kernels(rows: Rows, options: Options) -> None:
    """gpu_kernels.py's cells: hidden units, groups."""
    if options.device != "cuda":
        return rows.put("all", {"skipped": "needs a CUDA GPU"})
    import gpu_kernels

    for hidden, groups in ((64, 192), (256, 192), (64, 24), (256, 24)):
        rows.measure(f"{hidden} {groups}", lambda h=hidden, g=groups: kernel_cell(gpu_kernels, h, g, rows), needs_s=3.0)
        torch.cuda.empty_cache()
    return None


def kernel_cell(gpu_kernels, hidden: int, groups: int, rows: Rows) -> Row:
    """The fastest of every column: microseconds forward and in all."""
    problem = gpu_kernels.Problem(groups, 64, hidden)
    found = gpu_kernels.cell_rows(problem, time.monotonic() + min(8.0, rows.left_s - 2.0))
    best: Row = {}
    for each in found:
        if "all_us" in each and each["all_us"] < best.get(each["column"], [0.0, float("inf")])[1]:
            best[each["column"]] = [round(each["forward_us"], 1), round(each["all_us"], 1), each["name"]]
    return {"us": best, "errors_max": max((e for each in found for e in each.get("errors", ())), default=0.0)}


def stage_smax(rows: Rows, options: Options) -> None:
    """Milliseconds a step of 3m, by number of battles: in rounds as training plays them, in rounds step by step, and in
    JAX alone."""
    kinds = {"training": smax_training, "stepped": smax_stepped, "jax": smax_steps}
    for sizes in ((2,),) if options.tiny else ((16, 1024), (128,)):
        for kind, work in kinds.items():
            for size in sizes:
                rows.measure(f"{kind} {size}", lambda size=size, work=work: work(size, options), needs_s=10.0)


def smax_training(size: int, options: Options) -> Row:
    """Networks of random weights, 5 % random actions."""
    env, config, agents, exploration = battles(size, options)
    rounds = Rounds([env], 1, config)
    return timed_rounds(lambda: rounds.play(agents, [exploration])[0], options)


def smax_stepped(size: int, options: Options) -> Row:
    """The same networks step by step, and random actions."""
    env, config, agents, exploration = battles(size, options)
    network = AgentPolicy(agents, partial(agent_inputs, config, env.spec), [exploration])
    row = timed_rounds(lambda: rollout(env, network), options)
    chance = random_policy(env.spec, exploration.generator)
    return row | {
        f"random_{name}": value for name, value in timed_rounds(lambda: rollout(env, chance), options).items()
    }


def battles(size: int, options: Options) -> tuple[SmaxEnv, Config, AgentNets | CriticNets, Exploration]:
    device = torch.device(options.device)
    env = SmaxEnv("3m", size, 0, device)
    config = override(preset("mast-active"), {"env.map": "3m", "kernel": "torch"})
    exploration = Exploration(0.05, torch.Generator(device).manual_seed(0))
    return env, config, Learner(config, env.spec, device).agents, exploration


def timed_rounds(play: Callable[[], Rollout], options: Options) -> Row:
    """The first round, which compiles; then the median of three: milliseconds a step, and steps a second that belong to
    an episode."""
    started = time.perf_counter()
    round_ms(play)
    first_s = time.perf_counter() - started
    rounds = [round_ms(play) for _ in range(1 if options.tiny else 3)]
    ms, rate = (median(column) for column in zip(*rounds, strict=True))
    return {"ms": round(ms, 4), "steps_per_s": round(rate, 1), "first_s": round(first_s, 1)}


def round_ms(play: Callable[[], Rollout]) -> tuple[float, float]:
    started = time.perf_counter()
    played = play()
    counted = played.steps  # waits for the device
    seconds = time.perf_counter() - started
    return 1e3 * seconds / played.episodes.filled.shape[1], counted / seconds


def smax_steps(size: int, options: Options) -> Row:
    """Random valid actions, the same for both compilations, whose battles have to be the same to the bit."""
    device = smax_jax.find_device(options.device, 0, 1)
    jax, steps = smax_jax.import_jax(), 4 if options.tiny else 60
    row: Row = {"graphs_by_default": smax_jax.in_graphs(device)}
    ends = {}
    for name, graphs in (("graphs", True), ("plain", False)):
        programs = smax_jax.programs("3m", size, 10.0, graphs)
        started = time.perf_counter()
        with jax.default_device(device):
            _, first = programs.reset(jax.random.PRNGKey(0))
            noise = jax.random.uniform(jax.random.PRNGKey(1), (steps, *first.view.avail_actions.shape))
        act = jax.jit(lambda avail, own: jax.numpy.where(avail, own, -1.0).argmax(-1))
        carry = programs.step(first, act(first.view.avail_actions, noise[0]))
        jax.block_until_ready(carry)
        row[f"{name}_first_s"] = round(time.perf_counter() - started, 1)
        stop = jax.numpy.full_like(act(first.view.avail_actions, noise[0]), STOP)
        row[f"{name}_ms"] = round(median(stepped_ms(jax, programs.step, first, stop, steps) for _ in range(3)), 4)
        carry = first
        for own in noise:
            carry = programs.step(carry, act(carry.view.avail_actions, own))
        ends[name] = [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(carry))]
    return row | {"same_bits": ends["graphs"] == ends["plain"]}


def stepped_ms(jax, step: Callable, carry, actions, steps: int) -> float:
    """A step, many launched before one is waited for."""
    started = time.perf_counter()
    for _ in range(steps):
        carry = step(carry, actions)
    jax.block_until_ready(carry)
    return 1e3 * (time.perf_counter() - started) / steps


def stage_jaxmarl(rows: Rows, options: Options) -> None:
    """JaxMARL's own QMIX on this device."""
    import throughput

    checkout = options.jaxmarl
    assert checkout is not None
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    rows.measure("3m", lambda: throughput.measure_jaxmarl(checkout, "3m", 64))
