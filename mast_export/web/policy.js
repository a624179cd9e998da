/* Data of the page, and the policies: exported C as WebAssembly, one module for each agent and kind of weights. */
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const arrayOf = (text, Type) => new Type(bytesOf(text).buffer);

async function readData() {
  const packed = bytesOf(document.getElementById("data").textContent.trim());
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = JSON.parse(await new Response(stream).text());
  data.obs = arrayOf(data.obs, Float32Array);
  data.avail = arrayOf(data.avail, Uint8Array);
  data.actions = arrayOf(data.actions, Int32Array);
  for (const network of data.networks) {
    network.bias = arrayOf(network.bias, Float32Array);
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
    this.avail = new Uint8Array(memory, c.avail_at(), c.action_size());
    this.q = new Float32Array(memory, c.q_at(), c.action_size());
    this.hidden = new Float32Array(memory, c.hidden_at(), c.hidden_size());
    c.reset();
  }

  act(obs, avail) {
    this.obs.set(obs);
    this.avail.set(avail);
    return this.c.act();
  }
}

/* The whole episode, decided in this page: for each agent and step the action, the values, the state before and after. */
function decide(data, policies, kind) {
  const { obs: width, actions: n } = data.contract;
  const count = data.agents.length;
  return policies.map((own, i) => {
    const policy = own[kind];
    policy.c.reset();
    const steps = [];
    for (let t = 0; t < data.steps; t++) {
      const at = t * count + i;
      const before = policy.hidden.slice();
      const last = t ? steps[t - 1].action : -1;
      const obs = data.obs.subarray(at * width, (at + 1) * width);
      const avail = data.avail.subarray(at * n, (at + 1) * n);
      const action = policy.act(obs, avail);
      steps.push({ obs, avail, last, before, after: policy.hidden.slice(), q: policy.q.slice(), action, recorded: data.actions[at] });
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
    policy[kind].obs.set(decision.obs);
    policy[kind].avail.set(decision.avail);
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

/* What each layer of the network carries at a decision: its inputs, and each connection's weight times its input. */
function activity(data, agent, decision) {
  const network = data.networks[agent.network];
  const { obs, actions, agents, lastAction, agentId } = data.contract;
  const x = new Float32Array(network.inputs);
  x.set(decision.obs);
  if (lastAction && decision.last >= 0) x[obs + decision.last] = 1;
  if (agentId) x[obs + (lastAction ? actions : 0) + agent.index] = 1;
  const y = network.bias.slice();
  const { fc1 } = network.layers;
  for (let e = 0; e < fc1.rows.length; e++) y[fc1.rows[e]] += fc1.values[e] * x[fc1.columns[e]];
  for (let i = 0; i < y.length; i++) y[i] = Math.max(0, y[i]);
  const inputs = { fc1: x, weight_ih: y, weight_hh: decision.before, fc2: decision.after };
  const flow = {};
  let fired = 0;
  for (const [name, layer] of Object.entries(network.layers)) {
    flow[name] = Float32Array.from(layer.values, (w, e) => w * inputs[name][layer.columns[e]]);
    for (const value of flow[name]) fired += value !== 0;
  }
  return { x, y, flow, fired };
}
