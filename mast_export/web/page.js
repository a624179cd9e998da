/* The page: what is shown, and what a person does with it. */
const $ = (id) => document.getElementById(id);
const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
const PULSE_MS = 420;

class Page {
  constructor(data, policies) {
    Object.assign(this, { data, policies, step: 0, agent: 0, kind: "sparse", timer: 0 });
    this.decided = { sparse: decide(data, policies, "sparse"), dense: decide(data, policies, "dense") };
    this.returns = data.reward.reduce((sums, r) => [...sums, sums.at(-1) + r], [0]);
    this.network = new NetworkView($("network"), data);
    this.strip = new Strip($("strip"), data, this.decided.sparse, (step, agent) => { this.stop(); this.agent = agent; this.go(step); });
    this.fill();
    this.listen();
    this.fromHash();
    this.go(this.step);
    setTimeout(() => this.measure(), 60);
  }

  get decision() {
    return this.decided[this.kind][this.agent][Math.min(this.step, this.data.steps - 1)];
  }

  fill() {
    const { data } = this, { agents, networks } = data;
    const total = agents.reduce((sums, { network }) => {
      for (const layer of Object.values(networks[network].layers)) { sums.kept += layer.rows.length; sums.all += layer.all; }
      return sums;
    }, { kept: 0, all: 0 });
    const sparsity = number(100 * (1 - total.kept / total.all), 1);
    $("summary").textContent = `${agents.length} agents, ${number(total.kept)} of ${number(total.all)} connections (${sparsity} % are absent). `
      + `${data.result} after ${data.steps} steps. Every decision here is made in this page: the exported C policy, compiled to WebAssembly.`;
    $("legend").innerHTML = data.legend.map(([name, colour]) => `<i style="background:${colour}"></i>${escaped(name)}`).join(" ");
    $("agents").innerHTML = agents.map(({ name, type }, i) =>
      `<button role="radio" data-agent="${i}" title="${escaped(type)} (${i + 1})">${escaped(name.replace(/_/g, " "))}</button>`).join("");
    $("scrub").max = data.steps;
    const all = agents.length * data.steps;
    const equal = (kind) => this.decided[kind].flat().filter((decision) => decision.equal).length;
    const { continuous, tolerance, candidates } = data.contract;
    const are = continuous ? `are the recorded ones, within ${number(100 * tolerance, 1)} % of the range` : "equal the recorded ones";
    const least = candidates ? 0.98 * all : all; /* a search may end at another action of about the same value */
    if (data.steps > 200) $("speed").value = "20";
    const found = { sparse: equal("sparse"), dense: equal("dense") };
    $("checked").innerHTML = ["sparse", "dense"].map((kind) =>
      `<p><b class="${found[kind] >= least ? "good" : "bad"}">${found[kind]} of ${all}</b> ${kind} decisions ${are}</p>`).join("");
    Object.assign(document.documentElement.dataset, { decisions: all, equalSparse: found.sparse, equalDense: found.dense });
  }

  go(step, pulse = false) {
    this.step = Math.max(0, Math.min(this.data.steps, step));
    drawBattle($("battle"), this.data, this.step);
    $("scrub").value = this.step;
    $("scrub").setAttribute("aria-valuetext", `step ${this.step} of ${this.data.steps}`);
    $("counter").textContent = `step ${this.step} of ${this.data.steps}, return ${number(this.returns[this.step], 2)}`;
    this.strip.show(Math.min(this.step, this.data.steps - 1));
    for (const button of $("agents").children) button.setAttribute("aria-checked", Number(button.dataset.agent) === this.agent);
    for (const kind of ["sparse", "dense"]) $(kind).setAttribute("aria-checked", kind === this.kind);
    this.show(pulse);
    Object.assign(document.documentElement.dataset, { step: this.step, agent: this.agent, kind: this.kind, playing: this.timer ? "yes" : "no" });
  }

  /* The network of the chosen agent at this decision, and the words beside it. */
  show(pulse) {
    const agent = this.data.agents[this.agent], { decision } = this;
    const active = activity(this.data, agent, decision);
    const layers = Object.entries(this.data.networks[agent.network].layers);
    const kept = layers.reduce((sum, [, layer]) => sum + layer.rows.length, 0);
    const all = layers.reduce((sum, [, layer]) => sum + layer.all, 0);
    $("said").textContent = `${agent.name.replace(/_/g, " ")} (${agent.type}) takes ${this.taken(agent, decision)}. `
      + `${number(active.fired)} of its ${number(kept)} connections carry a signal.`;
    const multiplied = this.kind === "dense" ? all : kept;
    $("connections").innerHTML = `<p><b>${number(multiplied)}</b> multiplied in every decision${this.data.contract.candidates ? `, those of act and fc3 for each of ${this.data.contract.candidates} candidates` : ""}</p>`
      + layers.map(([name, layer]) => `<div class="row"><span>${name}</span><meter min="0" max="1" value="${this.kind === "dense" ? 1 : layer.rows.length / layer.all}"></meter>`
        + `<span>${number(this.kind === "dense" ? layer.all : layer.rows.length)}</span></div>`).join("");
    document.documentElement.dataset.fired = active.fired;
    cancelAnimationFrame(this.frame);
    const draw = (progress) => this.network.draw(agent, this.kind, decision, active, progress);
    if (!pulse || calm.matches) { draw(1); return; }
    const start = performance.now(), length = Math.min(PULSE_MS, 900 / Number($("speed").value));
    const tick = (now) => {
      const progress = Math.min(1, (now - start) / length);
      draw(progress);
      if (progress < 1) this.frame = requestAnimationFrame(tick);
    };
    this.frame = requestAnimationFrame(tick);
  }

  /* The action in words. */
  taken({ low, high }, { action, units, avail }) {
    if (!units) return `action ${action}, one of ${avail.reduce((sum, flag) => sum + flag, 0)} available`;
    const bounds = low.map((value, k) => `${Number(value.toPrecision(3))} to ${Number(high[k].toPrecision(3))}`);
    const alike = bounds.every((words) => words === bounds[0]);
    const each = Array.from(units, (value, k) => rounded(value, low[k], high[k]) + (alike ? "" : ` of ${bounds[k]}`));
    return `the action ${each.join(", ")}${alike ? `, within ${bounds[0]}` : ""}`;
  }

  measure() {
    const step = Math.min(this.step, this.data.steps - 1);
    const found = measure(this.policies[this.agent], this.decided.sparse[this.agent][step]);
    const longest = Math.max(found.sparse, found.dense);
    const timed = found.sparse > 0 && found.dense > 0; /* some browsers' clocks stand still for a tenth of a second */
    const words = timed ? `The dense policy takes ${number(found.dense / found.sparse, 1)} times as long.` : "This browser's clock is too coarse to time a decision.";
    $("times").innerHTML = (timed ? ["sparse", "dense"] : []).map((kind) =>
      `<div class="row ${kind}"><span>${kind}</span><div class="meter"><i style="width:${(100 * found[kind]) / longest}%"></i></div><span>${number(found[kind], 2)} µs</span></div>`).join("")
      + `<p>${words}</p>`;
    Object.assign(document.documentElement.dataset, { sparseUs: found.sparse.toFixed(4), denseUs: found.dense.toFixed(4), ready: "yes" });
  }

  play() {
    if (this.step >= this.data.steps) this.step = 0;
    const next = () => {
      this.timer = setTimeout(next, 1000 / Number($("speed").value));
      if (this.step >= this.data.steps) { this.stop(); return; }
      this.go(this.step + 1, true);
    };
    this.timer = setTimeout(next, 10);
    $("play").textContent = "Pause";
    $("said").setAttribute("aria-live", "off");
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    $("play").textContent = "Play";
    $("said").setAttribute("aria-live", "polite");
    document.documentElement.dataset.playing = "no";
  }

  toggle() { this.timer ? this.stop() : this.play(); }

  move(step) { this.stop(); this.go(step, true); }

  choose(agent) {
    if (agent >= this.data.agents.length) return;
    this.agent = agent;
    this.go(this.step, true);
    if (!this.timer) this.measure();
  }

  use(kind) { this.kind = kind; this.go(this.step); }

  listen() {
    const clicks = {
      first: () => this.move(0), back: () => this.move(this.step - 1), play: () => this.toggle(),
      forward: () => this.move(this.step + 1), last: () => this.move(this.data.steps),
      sparse: () => this.use("sparse"), dense: () => this.use("dense"), measure: () => this.measure(),
      theme: () => { const root = document.documentElement; root.dataset.theme = getComputedStyle(root).getPropertyValue("--dark").trim() === "1" ? "light" : "dark"; this.redraw(); },
    };
    for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
    $("agents").addEventListener("click", ({ target }) => { if (target.dataset.agent) this.choose(Number(target.dataset.agent)); });
    $("scrub").addEventListener("input", ({ target }) => { this.stop(); this.go(Number(target.value)); });
    const keys = { " ": clicks.play, ArrowLeft: clicks.back, ArrowRight: clicks.forward, Home: clicks.first, End: clicks.last, s: clicks.sparse, d: clicks.dense, m: clicks.measure };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
      if (event.key === " " && event.target.tagName === "BUTTON" && event.target.id !== "play") return;
      const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key] || (/^[1-9]$/.test(event.key) && (() => this.choose(Number(event.key) - 1)));
      if (!act) return;
      event.preventDefault();
      act();
    });
    new ResizeObserver(() => this.redraw()).observe($("network").parentElement);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  redraw() { this.network.resize(); this.go(this.step); }

  /* #step=5&agent=1&dense */
  fromHash() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    this.step = Number(wanted.get("step")) || 0;
    this.agent = Math.min(Number(wanted.get("agent")) || 0, this.data.agents.length - 1);
    if (wanted.has("dense")) this.kind = "dense";
    if (wanted.has("theme")) document.documentElement.dataset.theme = wanted.get("theme");
  }
}

async function start() {
  const data = await readData();
  const policies = await Promise.all(data.agents.map(async ({ sparse, dense }) => ({ sparse: await Policy.load(sparse), dense: await Policy.load(dense) })));
  window.page = new Page(data, policies);
}

start().catch((error) => {
  $("summary").textContent = `This browser cannot run the page (${error.message}); it needs WebAssembly with SIMD, 2023 or later.`;
  document.documentElement.dataset.ready = "failed";
});
