"""The ASGI application: the protocol's endpoints over one table of models and one table of sequences."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any
from urllib.parse import quote

from mast_runtime.bundle import Bundle
from mast_runtime.errors import ObservationError, ServeError
from mast_runtime.serve.content import compress, header_number, read_body
from mast_runtime.serve.http import Application, ClientDisconnect, Request, Response, Route
from mast_runtime.serve.metrics import Metrics
from mast_runtime.serve.models import MODEL_VERSION, Episode, Model, make_models, model_range, policy_of
from mast_runtime.serve.protocol import BEGINS, InferRequest, RequestError, encode_response, parse_request
from mast_runtime.serve.requestlog import Handled, RequestLog
from mast_runtime.serve.sequences import SequenceTable
from mast_runtime.serve.triton import Statistics, configuration
from mast_runtime.version import __version__

EXTENSIONS = ["binary_tensor_data", "model_configuration", "sequence", "sequence(string_id)", "statistics"]


class Endpoints:
    """The handlers. A decision runs on the event loop: it takes less time than handing it to a thread.

    models: those that a sequence starts with; mast_runtime.serve.reload replaces them. deadline_s: from a request's
    head to its answer.
    """

    def __init__(
        self,
        models: dict[str, Model],
        backend: str,
        sequences: SequenceTable[Episode],
        log: RequestLog,
        deadline_s: float = float("inf"),
    ) -> None:
        self.models, self.backend, self.sequences, self.log = models, backend, sequences, log
        self.deadline_s = deadline_s
        self.statistics = {name: Statistics() for name in models}
        self.metrics = Metrics(sequences, lambda: {"version": __version__, "backend": self.backend}, self.policy)
        self.metrics.lost_log_lines = lambda: log.lost

    def policy(self) -> dict[str, str]:
        """Which policy new sequences get."""
        return policy_of(next(iter(self.models.values())).identity)

    def find(self, request: Request) -> Model:
        """The model a path names. Raises RequestError."""
        name, version = request.path_params["model"], request.path_params.get("version", MODEL_VERSION)
        if name not in self.models or version != MODEL_VERSION:
            raise RequestError(
                f"no model {name!r} version {version!r}; this server has version {MODEL_VERSION} of "
                f"{model_range(self.models)}",
                status=404,
                outcome="unknown_model",
            )
        return self.models[name]

    async def server_metadata(self, request: Request) -> Response:
        about = {"name": "mast", "version": __version__, "extensions": EXTENSIONS, "parameters": self.policy()}
        return json_response(about)

    async def server_ready(self, request: Request) -> Response:
        return Response()

    async def model_metadata(self, request: Request) -> Response:
        return json_response(self.find(request).metadata())

    async def model_configuration(self, request: Request) -> Response:
        model = self.find(request)
        limit_s = self.sequences.idle_limit_s
        return json_response(configuration(model.name, MODEL_VERSION, model.inputs, model.outputs, limit_s))

    async def model_statistics(self, request: Request) -> Response:
        names = [self.find(request).name] if "model" in request.path_params else list(self.models)
        return json_response({"model_stats": [self.statistics[name].answer(name, MODEL_VERSION) for name in names]})

    async def model_ready(self, request: Request) -> Response:
        self.find(request)
        return Response()

    async def repository_index(self, request: Request) -> Response:
        return json_response([{"name": name, "version": MODEL_VERSION, "state": "READY"} for name in self.models])

    async def prometheus(self, request: Request) -> Response:
        await asyncio.to_thread(import_module, "prometheus_client")  # decisions go on while it loads
        text, media_type = self.metrics.exposition()
        return Response(text, media_type=media_type)

    async def infer(self, request: Request) -> Response:
        handled = Handled()
        try:
            model = self.find(request)
            handled.model = model.name
            body = await read_body(request, model.max_body_bytes)
            json_size_bytes = header_number(request, "inference-header-content-length")
            message = parse_request(body, json_size_bytes, model.inputs, model.outputs)
            handled.sequence, handled.request_id = message.sequence_id, message.request_id
            episode = self.decide(model, message, handled)
            response = respond(episode.model, message, episode.agent, request.headers.get("accept-encoding", ""))
            handled.outcome = "ok"
            return response
        except ClientDisconnect:
            handled.outcome = "disconnected"
            return Response(status_code=400)
        except RequestError as error:
            handled.outcome, handled.error = error.outcome, str(error)
            raise
        except ObservationError as error:
            handled.outcome, handled.error = "bad_request", str(error)
            raise RequestError(str(error)) from error
        finally:
            self.account(handled)

    def decide(self, model: Model, message: InferRequest, handled: Handled) -> Episode:
        """Step the request's sequence; its agent holds the decision. Raises RequestError, ObservationError."""
        episode = self.sequences.take(model.name, message, lambda: Episode(model, model.new_agent()))
        agent = episode.agent
        outside = agent.out_of_range
        counts = agent.out_of_range_counts.tolist() if outside else [0] * agent.contract.obs_dim
        restore = tell_executed(model, message, agent)
        start_s = time.perf_counter()
        try:
            action: Any = agent.act(message.inputs["obs"], message.inputs.get("avail_actions"))
        except ObservationError:
            restore()  # a refused request changes nothing
            raise
        handled.decision_s = time.perf_counter() - start_s
        handled.action = action if model.head is None else action.tolist()
        self.metrics.decision[model.name].observe(handled.decision_s)
        self.statistics[model.name].decision(round(handled.decision_s * 1e9))
        if agent.out_of_range > outside:
            names = episode.model.input_names
            for name, before, now in zip(names, counts, agent.out_of_range_counts.tolist(), strict=True):
                if now > before:
                    self.metrics.outside[model.name, name] += 1
        self.sequences.keep(model.name, message, episode)
        return episode

    def account(self, handled: Handled) -> None:
        """Count and log a request."""
        request_s = time.perf_counter() - handled.start_s
        late = request_s > self.deadline_s
        self.metrics.requests[handled.model, handled.outcome] += 1
        self.metrics.request[handled.model].observe(request_s)
        self.metrics.late[handled.model] += late
        if handled.model in self.statistics:
            self.statistics[handled.model].request(round(request_s * 1e9), handled.outcome == "ok")
        self.log.write(handled, request_s, late)


def tell_executed(model: Model, message: InferRequest, agent: Any) -> Callable[[], None]:
    """Tell the agent what was executed, where the request says it; returns what takes it back. Raises RequestError,
    ObservationError."""
    if model.head is None:
        given, before = message.executed_action, agent.last_action
        taken_back = partial(agent.executed, before)
    else:
        given = message.inputs.get("executed_action")
        if given is not None and message.sequence_start:
            raise RequestError(BEGINS)
        taken_back = partial(agent.executed, agent.scaled, scaled=True)
    if given is None:
        return lambda: None
    agent.executed(given)
    return taken_back


def respond(model: Model, message: InferRequest, agent: Any, accepted: str) -> Response:
    """The decision as the request wants it: which outputs, JSON or raw, compressed or not."""
    header = {"model_name": model.name, "model_version": MODEL_VERSION}
    if message.request_id is not None:
        header["id"] = message.request_id
    if model.head is None:
        arrays = {"action": array("q", [agent.last_action]), "q": array("f", agent.q_bytes)}
    else:
        arrays = {"action": array("f", agent.last_action.tolist()), "q": array("f", agent.q.tolist())}
    body, json_size_bytes = encode_response(header, message.outputs, arrays)
    headers = {"content-type": "application/json", "mast-policy-digest": model.identity.digest}
    if model.identity.version:
        headers["mast-policy-version"] = quote(model.identity.version)  # a header is no place for any character
    if json_size_bytes is not None:
        headers["content-type"] = "application/octet-stream"
        headers["inference-header-content-length"] = str(json_size_bytes)
    body, encoding = compress(body, accepted)
    if encoding is not None:
        headers["content-encoding"] = encoding
    return Response(body, headers=headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain ASCII JSON: whatever string a client or a bundle holds can be sent."""
    return Response(json.dumps(content), status, headers, "application/json")


def _refused(error: RequestError) -> Response:
    return json_response({"error": str(error)}, error.status)


def _failed() -> Response:
    return json_response({"error": "internal error; the server's log has the details"}, 500)


def create_app(
    bundle: Bundle,
    agent: int | None = None,
    backend: str = "auto",
    idle_limit_s: float = 60.0,
    max_sequences: int = 1024,
    request_log: str | None = None,
    deadline_s: float = float("inf"),
) -> tuple[Application, Endpoints]:
    """The ASGI application for `bundle`, and its handlers; arguments and errors as `mast_runtime.serve.serve`."""
    if not 0.0 < idle_limit_s < float("inf") or max_sequences < 1:
        raise ServeError(f"idle limit {idle_limit_s} s and {max_sequences} sequences: both must be positive")
    if not deadline_s > 0.0:
        raise ServeError(f"deadline {deadline_s} s: expected seconds above 0 in which an answer is in time")
    models, chosen = make_models(bundle, agent, backend)
    endpoints = Endpoints(
        models, chosen, SequenceTable(idle_limit_s, max_sequences), RequestLog(request_log), deadline_s
    )
    routes: list[Route] = [("GET", "/v2/models/stats", endpoints.model_statistics)]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            ("POST", f"{path}/infer", endpoints.infer),
            ("GET", f"{path}/ready", endpoints.model_ready),
            ("GET", f"{path}/config", endpoints.model_configuration),
            ("GET", f"{path}/stats", endpoints.model_statistics),
            ("GET", path, endpoints.model_metadata),
        ]
    routes += [
        ("GET", "/v2", endpoints.server_metadata),
        ("GET", "/v2/health/live", endpoints.server_ready),
        ("GET", "/v2/health/ready", endpoints.server_ready),
        ("POST", "/v2/repository/index", endpoints.repository_index),
        ("GET", "/metrics", endpoints.prometheus),
    ]
    return Application(routes, _refused, _failed), endpoints
