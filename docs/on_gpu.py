"""Figures of a GPU that the documents quote, as Markdown, from benchmarks/results; run by cog like figures.py."""

from __future__ import annotations

from figures import digits, measured, table


def updates() -> str:
    """gpu.md: an update of 3m on a GPU, all seeds together, beside our C pass on the CPU of the same machine."""
    ways = {"fused, 95 % sparse": "mast-active fused", "fused, dense": "dense fused",
            "graph, 95 % sparse": "mast-active graph", "C pass, one thread": "mast-active native",
            "C pass, eight threads": "mast-active native/8"}  # fmt: skip
    found, rows = measured("gpu-h100")["stages"]["update"]["rows"], []
    for hidden in (64, 256):
        for text, way in ways.items():
            cells = [found.get(f"{hidden} {way} {seeds}") for seeds in (1, 8, 64)]
            if any(cells):
                rows.append([str(hidden), text, *(digits(cell["ms"]) if cell else "" for cell in cells)])
    return table(["hidden", "kernel", "1 seed", "8 seeds", "64 seeds"], rows)


def recurrence() -> str:
    """gpu.md: the recurrence alone, the fastest variant of each way: forward / with all gradients."""
    columns = {"graph": "torch, graph", "tf32x3": "dense, tf32x3", "sparse": "sparse, 95 %",
               "cudnn": "cuDNN, one shared network"}  # fmt: skip
    rows = []
    for cell in measured("gpu-kernels-h100")["cells"]:
        best = [min((row for row in cell["rows"] if row["column"] == name), key=lambda row: row["all_us"])
                for name in columns]  # fmt: skip
        both = [f"{row['forward_us']:,.0f} / {row['all_us']:,.0f}" for row in best]
        rows.append([str(cell["hidden"]), str(cell["groups"]), *both])
    return table(["hidden", "groups", *columns.values()], rows)


def rounds() -> str:
    """gpu.md: SMAX 3m, a round in one program."""
    rows = measured("gpu-h100")["stages"]["smax"]["rows"].items()
    found = [[f"{int(name.split()[1]):,}", digits(row["ms"]), f"{row['steps_per_s']:,.0f}"]
             for name, row in rows if name.startswith("training ")]  # fmt: skip
    return table(["battles", "ms a step", "steps/s"], found)


def training() -> str:
    """gpu.md: training 3m end to end."""
    rows = measured("gpu-h100")["stages"]["train"]["rows"]
    found = []
    for seeds in (1, 8, 64):
        row = rows[f"3m {seeds}"]
        shares = f"{100 * row['share_environment']:.0f} %, {100 * row['share_learning']:.0f} %"
        found.append([str(seeds), f"{row['env_steps_per_s']:,.0f}", shares, digits(row["window_s"]),
                      digits(row["minutes_to_2m"])])  # fmt: skip
    head = ["seeds", "steps/s of all", "environment, learning", "measured for, s", "minutes to 2M steps a seed"]
    return table(head, found)


def predicted() -> str:
    """training-speed.md: an update of 3m in training, as measured with padding and at most without it."""
    stages, found = measured("gpu-h100")["stages"], []
    for seeds in (8, 64):
        row, short = stages["train"]["rows"][f"3m {seeds}"], stages["update"]["rows"][f"64 mast-active fused {seeds}"]
        ms, length = 1e3 * seeds / row["updates_per_s"], row["env_steps_per_s"] / row["updates_per_s"]
        most = ms * row["share_environment"] + short["ms"] + (short["evolving_ms"] - short["ms"]) / 200
        parts = (ms, ms * row["share_environment"], ms * row["share_learning"], length, short["ms"], most)
        found.append([str(seeds), *map(digits, parts), digits(2e6 / length * most / 60_000)])
    head = ["seeds", "an update in training, ms", "environment", "learning", "transitions an episode",
            "batch of 32 steps, ms", "without padding at most, ms", "minutes to 2M steps a seed"]  # fmt: skip
    return table(head, found)
