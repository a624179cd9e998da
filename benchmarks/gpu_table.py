"""What gpu.py found, in about twenty lines."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_rows import Row

Found = dict[str, Row]
COLUMNS = ("graph", "cell", "ieee", "tf32x3", "sparse", "cudnn")
"""Of gpu_kernels.py."""


def table(found: Found) -> list[str]:
    """Lines; a stage that is not there has none, and one that is not done says so."""
    lines = []
    for stage, result in found.items():
        lines += MAKERS[stage](result["rows"])
        errors = [f"{name}: {row['error']}" for name, row in result["rows"].items() if "error" in row]
        if result["status"] != "done":
            lines.append(f"{stage}: {result['status']}" + "".join(f"; {error}"[:160] for error in errors[:2]))
    return lines


def _card(rows: Found) -> Iterator[str]:
    row, link = rows.get("machine", {}), rows.get("dlpack", {})
    versions = ", ".join(f"{name} {row[name]}" for name in ("torch", "triton", "jax", "jaxmarl") if name in row)
    memory = f", {row['memory_mb'] / 1024:.0f} GB, {row['multiprocessors']} SMs" if "memory_mb" in row else ""
    yield f"card     {row.get('device', '?')}{memory}; {versions}; {row.get('native', '')}"
    nvrtc = f"; NVRTC {rows['nvrtc'].get('seconds', '?')} s" if "nvrtc" in rows else ""
    yield f"         DLPack in order: to JAX {link.get('to_jax', '?')}, to torch {link.get('to_torch', '?')}{nvrtc}"


def _tests(rows: Found) -> Iterator[str]:
    said = []
    for name, row in rows.items():
        if "passed" in row:
            said.append(
                f"{name} {row['passed']} passed, {row['failed']} failed{', unfinished' * ('unfinished' in row)}"
            )
        elif "updates" in row:
            apart = f"{row['early']:.0e} before the masks change, {row['late']:.0e} late"
            said.append(f"{row['updates']} {name}: losses {apart}, masks {row['masks_equal']:.2%} equal")
        elif "cases" in row:
            said.append(f"{name} {row['cases'] - row['failures']} of {row['cases']} agree with float64")
    yield "tests    " + "; ".join(said)


def _update(rows: Found) -> Iterator[str]:
    kinds: dict[tuple[str, str, str], dict[int, Row]] = {}
    for name, row in rows.items():
        hidden, method, kernel, seeds = name.split()
        kinds.setdefault((hidden, method, kernel), {})[int(seeds)] = row
    seeds = sorted({k for by in kinds.values() for k in by})
    yield (
        "update, ms (replay alone)" + "".join(f"{f'{k} seed' + 's' * (k > 1):>18}" for k in seeds) + "   kernels    MB"
    )
    for kind in sorted(kinds, key=lambda kind: (int(kind[0]), kind[2], kind[1])):
        (hidden, method, kernel), by = kind, kinds[kind]
        cells, most = "".join(f"{_ms(by.get(k, {})):>18}" for k in seeds), by[max(by)]
        yield f"  {hidden:>3} {method:11} {kernel:8}{cells}{most.get('kernels', '-'):>10}{most.get('peak_mb', '-'):>6}"
    split = {name: row["parts_ms"] for name, row in rows.items() if "parts_ms" in row}
    for name, parts in split.items():
        yield f"  parts of {name}, ms: " + ", ".join(f"{part} {ms:.2f}" for part, ms in parts.items())


def _packed(rows: Found) -> Iterator[str]:
    measured = {name: row for name, row in rows.items() if "gain" in row}
    if measured:
        yield "batch and update, ms (replay alone)          padded            packed   gain"
    for name, row in measured.items():
        hidden, method, seeds = name.split()
        cells = "".join(
            f"{_ms({key: row[f'{way}_{key}'] for key in ('ms', 'replay_ms') if f'{way}_{key}' in row}):>18}"
            for way in ("padded", "packed")
        )
        yield f"  {hidden:>3} {method:11} {seeds:>3} seed{'s' * (int(seeds) > 1):1}       {cells}{row['gain']:>6.2f}x"


def _ms(row: Row) -> str:
    if "ms" not in row:
        return "failed" if "error" in row else "-"
    return f"{row['ms']:.2f}" + (f" ({row['replay_ms']:.2f})" if "replay_ms" in row else "")


def _kernels(rows: Found) -> Iterator[str]:
    measured = {name: row["us"] for name, row in rows.items() if "us" in row}
    if measured:
        yield "recurrence, us forward/all" + "".join(f"{column:>14}" for column in COLUMNS)
    for name, us in measured.items():
        cells = "".join(f"{f'{us[c][0]:.0f}/{us[c][1]:.0f}' if c in us else '-':>14}" for c in COLUMNS)
        hidden, groups = name.split()
        yield f"  {hidden:>3} units, {groups:>3} groups     {cells}"


def _smax(rows: Found) -> Iterator[str]:
    yield "SMAX 3m, ms a step    JAX  graphs  random  network  training  steps/s in training"
    for size in sorted({int(name.split()[1]) for name in rows if " " in name}):
        alone, stepped, training = (rows.get(f"{kind} {size}", {}) for kind in ("jax", "stepped", "training"))
        values = (alone.get("plain_ms"), alone.get("graphs_ms"), stepped.get("random_ms"), stepped.get("ms"))
        cells = "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in (*values, training.get("ms")))
        same = "" if alone.get("same_bits", True) else "   GRAPHS DIFFER"
        yield f"  {size:>5} battles    {cells}{training.get('steps_per_s', 0.0):>12,.0f}{same}"


def _train(rows: Found) -> Iterator[str]:
    head = (
        "training           steps/s environment/acting/learning  wins after steps each   minutes to 2M  evaluation, s"
    )
    yield f"{head}     MB"
    measured = {name: row for name, row in rows.items() if "env_steps_per_s" in row}
    for name, row in sorted(measured.items(), key=lambda item: (item[0].split()[0], int(item[0].split()[1]))):
        shares = "/".join(f"{row[f'share_{part}']:.0%}" for part in ("environment", "acting", "learning"))
        wins = f"{row['win_rate_mean']:.2f}" if "win_rate_mean" in row else "-"
        cut = " unfinished" * ("unfinished" in row)
        speed, steps, minutes = row["env_steps_per_s"], row.get("steps_each", 0), row["minutes_to_2m"]
        yield (
            f"  {name + ' seeds':14}{speed:>10,.0f}{shares:>28}{wins:>6} after {steps:>11,}{minutes:>16,.1f}"
            f"{row.get('evaluation_s', 0.0):>15,.2f}{row.get('peak_mb', '-'):>7}{cut}"
        )


def _jaxmarl(rows: Found) -> Iterator[str]:
    for name, row in rows.items():
        short = ", ".join(f"{key} {value:,.1f}" for key, value in row.items() if isinstance(value, float))
        yield f"JaxMARL {name}: {short}"


MAKERS = {
    "card": _card, "tests": _tests, "update": _update, "packed": _packed, "kernels": _kernels, "smax": _smax,
    "train": _train, "jaxmarl": _jaxmarl,
}  # fmt: skip
