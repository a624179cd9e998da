/* Data of the page, and the policies: exported C as WebAssembly, one module for each agent and kind of weights. */
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const arrayOf = (text, Type) => new Type(bytesOf(text).buffer);

async function readData() {
  const packed = bytesOf(document.getElementById("data").textContent.trim());
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = JSON.parse(await new Response(stream).text());
  data.obs = arrayOf(data.obs, Float32Array);
  data.avail = arrayOf(data.avail, Uint8Array);
  data.actions = arrayOf(data.actions, data.contract.continuous ? Float32Array : Int32Array);
  for (const network of data.networks) {
    network.bias = arrayOf(network.bias, Float32Array);
    network.midBias = arrayOf(network.midBias, Float32Array);
    for (const layer of Object.values(network.layers)) {
      layer.rows = arrayOf(layer.rows, Uint16Array);
      layer.columns = arrayOf(layer.columns, Uint16Array);
      layer.values = arrayOf(layer.values, Float32Array);
    }
  }
  return data;
}

/* One agent's policy: the C of mast export behind typed arrays that are its memory. */
class Policy {
  static async load(text) {
    const { instance } = await WebAssembly.instantiate(bytesOf(text), {});
    return new Policy(instance.exports);
  }

  constructor(c) {
    this.c = c;
    const memory = c.memory.buffer;
    this.obs = new Float32Array(memory, c.obs_at(), c.obs_size());
    this.q = new Float32Array(memory, c.q_at(), c.output_size());
    this.hidden = c.hidden_at ? new Float32Array(memory, c.hidden_at(), c.hidden_size()) : new Float32Array(0);
    if (c.avail_at) {
      this.avail = new Uint8Array(memory, c.avail_at(), c.action_size());
    } else {
      this.action = new Float32Array(memory, c.action_at(), c.action_size());
      this.last = new Float32Array(memory, c.last_at(), c.action_size());
    }
    c.reset();
  }

  /* What a decision reads; of continuous actions nothing but obs. */
  give(obs, avail) {
    this.obs.set(obs);
    this.avail?.set(avail);
  }

  /* The action: a number, or of continuous ones its components in [-1, 1]; `units` has those of the environment. */
  act(obs, avail) {
    this.give(obs, avail);
    const action = this.c.act();
    return this.avail ? { action } : { action: this.last.slice(), units: this.action.slice() };
  }

  /* What was done at this step: of it the next decision is told, so that all follow the recorded episode. */
  executed(recorded) {
    this.last?.set(recorded.subarray(0, this.last.length));
  }
}

/* A component of an action, to about a five-hundredth of its range. */
function rounded(value, low, high) {
  const digits = Math.min(8, Math.max(0, Math.ceil(Math.log10(200 / (high - low)))));
  return ((Math.round(value * 10 ** digits) || 0) / 10 ** digits).toFixed(digits);
}

/* Whether the page's action is the recorded one: a number, or components within the tolerance, a share of their range. */
const same = (action, recorded, tolerance) => typeof action === "number" ? action === recorded
  : action.every((value, k) => Math.abs(value - recorded[k]) <= 2 * tolerance);

/* The whole episode, decided in this page: for each agent and step the action, the values, the state before and after. */
function decide(data, policies, kind) {
  const { obs: width, actions: n, continuous, tolerance } = data.contract;
  const count = data.agents.length;
  return policies.map((own, i) => {
    const policy = own[kind];
    policy.c.reset();
    const steps = [];
    for (let t = 0; t < data.steps; t++) {
      const at = t * count + i;
      const before = policy.hidden.slice();
      const last = t ? steps[t - 1].done : continuous ? new Float32Array(n) : -1;
      const obs = data.obs.subarray(at * width, (at + 1) * width);
      const avail = data.avail.subarray(at * n, (at + 1) * n);
      const taken = policy.act(obs, avail);
      const recorded = continuous ? data.actions.subarray(at * n, (at + 1) * n) : data.actions[at];
      const equal = same(taken.action, recorded, tolerance), done = continuous ? recorded : taken.action;
      steps.push({ obs, avail, last, before, after: policy.hidden.slice(), q: policy.q.slice(), ...taken, done, equal });
      if (continuous) policy.executed(recorded);
    }
    return steps;
  });
}

const WARM_MS = 120;

/* Microseconds of one decision: the lower quartile of rounds in which sparse and dense take turns, since other work of the
 * machine only ever adds to some of them, after the browser has had time to
 * compile both for speed. */
function measure(policy, decision, rounds = 60, budgetMs = 1) {
  const kinds = ["sparse", "dense"];
  const times = { sparse: [], dense: [] };
  const repeats = {};
  for (const kind of kinds) {
    policy[kind].give(decision.obs, decision.avail);
    const warm = performance.now() + WARM_MS;
    for (let i = 0; i < 400 && performance.now() < warm; i++) policy[kind].c.repeat(128);
    let n = 64;
    for (;;) {
      const start = performance.now();
      policy[kind].c.repeat(n);
      const taken = performance.now() - start;
      if (taken >= budgetMs || n >= 1 << 16) break;
      n = taken > 0.3 ? Math.ceil(n * Math.min(8, (1.2 * budgetMs) / taken)) : n * 8;
    }
    repeats[kind] = n;
  }
  for (let round = 0; round < rounds; round++) {
    for (const kind of round % 2 ? kinds : [...kinds].reverse()) {
      const start = performance.now();
      policy[kind].c.repeat(repeats[kind]);
      times[kind].push((1000 * (performance.now() - start)) / repeats[kind]);
    }
  }
  const quartile = (values) => values.sort((a, b) => a - b)[values.length >> 2];
  return { sparse: quartile(times.sparse), dense: quartile(times.dense) };
}

/* relu(layer x + bias) */
function positive({ rows, columns, values }, bias, x) {
  const y = bias.slice();
  for (let e = 0; e < rows.length; e++) y[rows[e]] += values[e] * (x[columns[e]] ?? 0);
  return y.map((value) => Math.max(0, value));
}

/* What each layer of the network carries at a decision: its inputs, and each connection's weight times its input. */
function activity(data, agent, decision) {
  const network = data.networks[agent.network];
  const { obs, actions, agents, lastAction, agentId } = data.contract;
  const x = new Float32Array(network.inputs);
  x.set(decision.obs);
  if (lastAction && typeof decision.last !== "number") x.set(decision.last, obs);
  else if (lastAction && decision.last >= 0) x[obs + decision.last] = 1;
  if (agentId) x[obs + (lastAction ? actions : 0) + agent.index] = 1;
  const { fc1, mid, act } = network.layers;
  const y = positive(fc1, network.bias, x);
  const h = mid ? positive(mid, network.midBias, y) : decision.after;
  const v = act ? positive(act, decision.q, decision.action) : decision.q;
  const inputs = { fc1: x, mid: y, weight_ih: y, weight_hh: decision.before, fc2: h, act: decision.action, fc3: v };
  const flow = {};
  let fired = 0;
  for (const [name, layer] of Object.entries(network.layers)) {
    flow[name] = Float32Array.from(layer.values, (w, e) => w * (inputs[name][layer.columns[e]] ?? 0));
    for (const value of flow[name]) fired += value !== 0;
  }
  return { x, y, h, v, flow, fired };
}
