"""What a robot does with a policy, in a process without any other package: run by test_without_numpy.py.

python without_numpy.py FUNCTION JSON...: prints the JSON of a function of this file. Or: mast WORD..., the command.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from contextlib import redirect_stderr, redirect_stdout
from functools import wraps
from importlib.abc import MetaPathFinder
from io import StringIO

ABSENT = {"numpy", "safetensors", "typer", "rich", "click", "pydantic", "pydantic_core", "torch", "onnx", "onnxruntime"}


class Absent(MetaPathFinder):
    """Hides what a robot has not installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname.partition(".")[0])


def as_given(values, kind):
    """A list of numbers as a robot may have it."""
    if kind == "numpy":
        import numpy as np

        return np.array(values, np.float32)
    kinds = {"list": list, "tuple": tuple, "f": lambda x: array("f", x), "d": lambda x: array("d", x)}
    return memoryview(array("f", values)) if kind == "view" else kinds[kind](values)


def plain(answer, kind):
    """As JSON has it, of the type that is promised."""
    if kind == "numpy":
        return answer.tolist() if hasattr(answer, "tolist") else answer
    if isinstance(answer, list):
        assert answer and all(type(row) is array for row in answer)
        return [row.tolist() for row in answer]
    assert type(answer) in (int, array), type(answer)
    return answer if type(answer) is int else answer.tolist()


def seen(actor, kind):
    """All that can be read of an agent or a team."""
    names = ["q", "hidden", "last_action", "out_of_range", "out_of_range_counts"]
    names += ["scaled"] * (actor.contract.head is not None)
    return {name: plain(getattr(actor, name), kind) for name in names}


def play(path, kind, observations, availability):
    """Episodes [T,N,O] by every agent alone and by two teams at once; now and then something else was executed."""
    import mast_runtime

    policy = mast_runtime.load(path)
    n, chooses = len(policy.agents), policy.contract.head is None
    agents, team, found = [policy.agent(i) for i in range(n)], policy.team(2 * n), []
    for t, rows in enumerate(observations):
        flags = [[own] for own in availability[t]] if chooses else [[]] * n
        given = [as_given(row, kind) for row in rows]
        alone = [agent.act(row, *own) for agent, row, own in zip(agents, given, flags, strict=True)]
        together = team.act(given * 2, *([availability[t] * 2] if chooses else []))
        found.append([plain(one, kind) for one in alone] + [plain(together, kind)])
        found += [seen(actor, kind) for actor in (*agents, team)]
        if t % 2:
            done = [own.index(1) for own in availability[t]] if chooses else [[0.25] * len(own) for own in alone]
            for agent, action in zip(agents, done, strict=True):
                agent.executed(action)
            team.executed(done * 2)
        if t == 4:
            agents[0].reset()
            team.reset([0, 2])
    return found


def refuse(path, observation, availability):
    """What is said of input that cannot be: of an agent's, then of a team's."""
    import mast_runtime

    policy = mast_runtime.load(path)
    agent, n = policy.agent(0), len(policy.agents)
    nan = [float("nan"), *observation[1:]]
    nothing, texts, unknown = [0] * len(availability), ["a"] * len(availability), [float("nan")] * len(availability)
    rows = observation[1:], nan, ["a", *observation[1:]], "text", None, 3, [observation], {}, bytes(len(observation))
    large = [1e39, *observation[1:]], [10**400, *observation[1:]]
    wrong = [(row,) for row in (*rows, *large)]
    wrong += [(observation, flags) for flags in (availability[1:], nothing, texts, unknown)]
    calls = [(agent, given) for given in wrong]
    calls += [(policy.team(), tuple([part] * n for part in given)) for given in wrong]
    return [_refusal(actor.act, *given) for actor, given in calls]


def _refusal(call, *given):
    import mast_runtime

    try:
        return f"taken: {call(*given)!r}"
    except mast_runtime.ObservationError as error:
        return str(error)


def damaged(path):
    """What is said of a file cut short, of one with a byte changed, and of one that is none."""
    import mast_runtime

    with open(path, "rb") as file:
        content = file.read()
    found = []
    for bad in (content[:-1], content[:100], b"", content[:-9] + bytes([content[-9] ^ 4]) + content[-8:], b"x" * 99):
        with open(f"{path}.bad", "wb") as file:
            file.write(bad)
        try:
            mast_runtime.load(f"{path}.bad")
        except mast_runtime.BundleError as error:
            found.append(str(error))
    return found


def supervised(path, observation):
    """A control loop's supervisor on lists, and one of its refusals."""
    import mast_runtime
    from mast_runtime.control import STOP, Supervisor

    supervisor = Supervisor(mast_runtime.load(path).agent(0))
    supervisor.observe(observation)
    action = supervisor.decide()
    supervisor.observe(observation[1:])
    assert supervisor.decide() == STOP
    return [action, supervisor.trouble]


def elsewhere(path):
    """What else is asked for, and needs numpy."""
    import mast_runtime

    policy, found = mast_runtime.load(path), []
    calls = (
        lambda: policy.agent(0, "reference"),
        lambda: policy.team(None, "onnx"),
        lambda: mast_runtime.save(policy, path),
    )
    for call in calls:
        try:
            call()
        except mast_runtime.RuntimeFault as error:
            found.append(str(error))
    layer = policy.networks[0].fc1
    return [*found, layer.counts.tolist(), policy.networks[0].inputs.high.tolist()]


def parsed(lines, environment):
    """What each command line means to the command it names: its arguments, or what is said, and the exit code."""
    import cli
    from mast_runtime import shell
    from mast_runtime.commands import new_app

    os.environ.update(environment)
    found = []
    for line in lines:
        given = []
        app = new_app([_recording(command, given) for command in cli.COMMANDS], "About.", cli.user_errors)
        sys.argv = ["mast", *line]
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
            try:
                shell.run_app(app)
            except SystemExit as ended:
                found.append([given, bool(out.getvalue()), err.getvalue(), ended.code or 0])
    return found


def _recording(command, given):
    @wraps(command)
    def record(**arguments):
        given.extend([command.__name__, {name: _text(value) for name, value in sorted(arguments.items())}])

    return record


def _text(value):
    if isinstance(value, list | tuple):
        return [_text(part) for part in value]
    return f"{type(value).__name__} {value}"


def main(program, *arguments):
    if program == "mast":
        ABSENT.discard("click" if arguments[0] == "serve" else "")  # which comes with uvicorn
        from mast_runtime import commands

        sys.argv = ["mast", *arguments]
        commands.main()
    found = globals()[program](*map(json.loads, arguments))
    assert not ABSENT & {name.partition(".")[0] for name in sys.modules}
    print(json.dumps(found))


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    main(*sys.argv[1:])
