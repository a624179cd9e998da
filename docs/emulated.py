"""The table of the robot's wheels on other machines, as Markdown, from benchmarks/results/arm.json (see figures.py)."""

from __future__ import annotations

from typing import Any

from figures import digits, measured, table


def wheels() -> str:
    """install.md: what was installed, what it weighs, and a decision of the kernel beside others."""
    head = ["", *(row["system"] for row in _rows())]
    lines = {
        "wheel, kB": lambda row: f"{row['wheel_bytes'] / 1e3:,.0f}",
        "installed, kB": lambda row: f"{row['installed_bytes'] / 1e3:,.0f}",
        "`pip install`, times `pip --version`": lambda row: digits(row["install_cpu_s"] / row["pip_version_cpu_s"]),
        "a fresh process to its first decision, times a bare Python": lambda row: digits(
            row["policy_cpu_ms"] / row["bare_cpu_ms"]
        ),
        "its memory above a bare Python's, MB": lambda row: digits(_more_bytes(row) / 1e6),
        "`mast selftest`": lambda row: "pass: " + ", ".join(_engines(row)),
        "a decision, numpy reference / kernel": lambda row: _times(row, "reference"),
        "a decision, ONNX Runtime / kernel": lambda row: _times(row, "onnx"),
    }
    return table(head, [[text, *map(cell, _rows())] for text, cell in lines.items()])


def _rows() -> list[dict[str, Any]]:
    return list(measured("arm").values())


def _more_bytes(row: dict[str, Any]) -> int:
    return row["policy_peak_bytes"] - row["bare_peak_bytes"]


def _engines(row: dict[str, Any]) -> list[str]:
    names = [check.partition(":")[0] for check in row["selftest"]]
    return [name.removeprefix("native ") for name in names if "at once" not in name]


def _times(row: dict[str, Any], backend: str) -> str:
    found = row["decisions"]["over_kernel"].get(backend)
    return f"{digits(found)}x" if found else "not to be had"
