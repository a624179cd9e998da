"""`mast selftest`: what it prints, and its exit code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from mast_runtime import shell
from mast_runtime.shell import JsonOption, PolicyArgument, RunsOption, typer


def selftest(
    policy: PolicyArgument = None,
    robot_log: Annotated[Path | None, typer.Option(help="Observations of a robot, .jsonl or .csv, to compare.")] = None,
    agent: Annotated[int, typer.Option(help="Whose observations the log has.")] = 0,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Replay a policy's recorded episode on this device, on every backend.

    With --robot-log also compare what a robot saw with what training saw. Exit code 1 where something does not fit.
    """
    from mast_runtime.selftest.replay import replay

    bundle = shell.load_policy(policy, runs)
    findings: list[Any] | None = None
    rows = []
    if robot_log is not None:
        from mast_runtime.selftest.compare import compare, one_episode
        from mast_runtime.selftest.log import read_log

        inputs = bundle.networks[bundle.agents[agent].network].inputs if 0 <= agent < len(bundle.agents) else None
        names = inputs.names if inputs else ()
        rows = read_log(robot_log, bundle.contract.obs_dim, names)
        findings = compare(bundle, agent, rows)
    result = replay(bundle)
    passed = result.passed and not findings
    data = {
        "passed": passed,
        "identity": bundle.identity._asdict(),
        "checks": [asdict(check) | {"passed": check.passed} for check in result.checks],
        "absent": result.absent,
    }
    if findings is not None:
        data["findings"] = [asdict(finding) for finding in findings]
    lines = [f"{bundle.path}, digest {bundle.identity.digest[:12]}"]
    for check in result.checks:
        verdict = "pass" if check.passed else f"FAIL: {check.differs}"
        lines.append(f"{check.backend}: {check.equal} of {check.steps} actions, {check.decision_us:g} us: {verdict}")
    lines += [f"{name}: not here: {reason}" for name, reason in result.absent.items()]
    if findings is not None:
        lines += [finding.sentence() for finding in findings]
        if not findings:
            lines.append(f"{robot_log}: every input of {len(rows)} rows looks as it did in training")
        if len(rows) <= one_episode(bundle):
            lines.append(f"stuck or too small inputs show in more than {one_episode(bundle)} rows, of several episodes")
    shell.answer(json_, data, *lines, "pass" if passed else "FAIL")
    if not passed:
        raise typer.Exit(1)
