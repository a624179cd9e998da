/* An agent's network as it is: every connection a faint line, those that carry a signal lit by how much. */
const COLUMNS = { x: 0.1, y: 0.38, h: 0.64, q: 0.87 };
/* Of continuous actions, whose bars have numbers beside them; q are outputs where an action, a, is searched for from them. */
const WIDE = { ...COLUMNS, q: 0.78, a: 0.78 };
const SEARCHED = { x: 0.08, y: 0.28, h: 0.47, q: 0.66, a: 0.8 };
const STAGES = { fc1: 0, mid: 0.25, weight_ih: 0.2, weight_hh: 0.35, fc2: 0.55, act: 0.6, fc3: 0.65 };
const LIT_FROM = 0.02;

class NetworkView {
  constructor(canvas, data) {
    this.canvas = canvas;
    this.data = data;
    this.faint = new Map();
    this.shown = null;
  }

  /* Positions of the units, in CSS pixels. */
  place(network) {
    const { width, height } = this;
    const column = (n, gapAfter = -1) => {
      const top = 44, bottom = height - 14, gap = gapAfter > 0 ? 10 : 0;
      const pitch = (bottom - top - gap) / Math.max(1, n - 1);
      return Array.from({ length: n }, (_, i) => (n === 1 ? (top + bottom) / 2 : top + i * pitch + (i >= gapAfter && gapAfter > 0 ? gap : 0)));
    };
    const { obs, continuous, actions } = this.data.contract, searched = Boolean(network.layers.act);
    const columns = searched ? SEARCHED : continuous ? WIDE : COLUMNS;
    const q = column(network.outputs);
    return {
      x: column(network.inputs, obs < network.inputs ? obs : -1), y: column(network.fc1),
      h: column(network.hidden), q, a: searched ? column(actions + 1) : q, /* the last one is the value */
      at: Object.fromEntries(Object.entries(columns).map(([name, share]) => [name, share * width])),
    };
  }

  /* A path for each connection of a layer: straight between columns, an arc from the state back to itself. */
  line(pen, name, spots, row, column) {
    const { at } = spots;
    if (name === "weight_hh") {
      const y0 = spots.h[column], y1 = spots.h[row % spots.h.length];
      const far = Math.abs(y1 - y0);
      const bend = at.h + 12 + (1.1 * (at.q - at.h) * far) / (far + 0.6 * this.height);
      pen.moveTo(at.h, y0);
      pen.bezierCurveTo(bend, y0, bend, y1, at.h, y1);
      return;
    }
    const [from, to] = { fc1: ["x", "y"], mid: ["y", "h"], weight_ih: ["y", "h"], fc2: ["h", "q"], act: ["a", "q"], fc3: ["q", "a"] }[name];
    const y0 = spots[from][column], y1 = name === "fc3" ? spots.a.at(-1) : spots[to][row % spots[to].length], middle = (at[from] + at[to]) / 2;
    pen.moveTo(at[from], y0);
    pen.bezierCurveTo(middle, y0, middle, y1, at[to], y1);
  }

  /* All connections of a network, drawn once and kept. */
  background(agent, kind, spots) {
    const key = [agent.network, kind, this.width, this.height, this.colours.key].join();
    if (this.faint.has(key)) return this.faint.get(key);
    if (this.faint.size > 8) this.faint.clear();
    const layer = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const pen = layer.getContext("2d");
    pen.scale(this.scale, this.scale);
    pen.strokeStyle = this.colours.line;
    pen.lineWidth = 0.6;
    const network = this.data.networks[agent.network];
    for (const [name, { rows, columns, all }] of Object.entries(network.layers)) {
      pen.globalAlpha = kind === "dense" ? Math.min(0.1, 4 / Math.sqrt(all)) : Math.min(0.3, 4 / Math.sqrt(rows.length));
      if (kind === "sparse") {
        pen.beginPath();
        for (let e = 0; e < rows.length; e++) this.line(pen, name, spots, rows[e], columns[e]);
        pen.stroke();
        continue;
      }
      const width = { fc1: network.inputs, mid: network.fc1, weight_ih: network.fc1, weight_hh: network.hidden, fc2: network.hidden, act: this.data.contract.actions, fc3: network.outputs }[name];
      for (let row = 0; row < all / width; row++) {
        pen.beginPath();
        for (let c = 0; c < width; c++) this.line(pen, name, spots, row, c);
        pen.stroke();
      }
    }
    this.faint.set(key, layer);
    return layer;
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.scale = Math.min(2, window.devicePixelRatio || 1);
    this.width = box.width;
    this.height = box.height;
    this.canvas.width = Math.round(box.width * this.scale);
    this.canvas.height = Math.round(box.height * this.scale);
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const dark = read("--dark") === "1";
    this.colours = {
      line: read("--line"), plus: read("--plus"), minus: read("--minus"), ink: read("--ink"), soft: read("--soft"),
      unit: read("--unit"), chosen: read("--chosen"), card: read("--card"), glow: dark ? "lighter" : "source-over", key: dark,
    };
  }

  /* One decision; `progress` from 0 to 1 is how far the signal has come from the inputs to the actions. */
  draw(agent, kind, decision, active, progress = 1) {
    if (!this.width) this.resize();
    const pen = this.canvas.getContext("2d"), network = this.data.networks[agent.network];
    const spots = this.place(network);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.background(agent, kind, spots), 0, 0);
    pen.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    const arrived = (name) => Math.max(0, Math.min(1, (progress - STAGES[name]) / 0.35));
    pen.globalCompositeOperation = this.colours.glow;
    for (const [name, layer] of Object.entries(network.layers)) this.lit(pen, name, layer, active.flow[name], spots, arrived(name));
    pen.globalCompositeOperation = "source-over";
    pen.globalAlpha = 1;
    this.units(pen, spots, "x", active.x, 1);
    this.units(pen, spots, "y", active.y, arrived("fc1"));
    this.units(pen, spots, "h", active.h, arrived(network.layers.mid ? "mid" : "weight_hh"));
    if (network.layers.act) this.units(pen, spots, "q", active.v, arrived("fc2"));
    if (decision.units) this.components(pen, spots, agent, decision, arrived("fc2"));
    else this.values(pen, spots, decision, arrived("fc2"));
    this.words(pen, spots, network);
  }

  lit(pen, name, { rows, columns }, flow, spots, share) {
    let largest = 1e-9, count = 0;
    for (const value of flow) largest = Math.max(largest, Math.abs(value));
    for (const value of flow) count += Math.abs(value) >= LIT_FROM * largest;
    const bright = Math.min(1, 16 / Math.sqrt(count + 1));
    for (let e = 0; e < flow.length; e++) {
      const size = Math.abs(flow[e]) / largest;
      if (size < LIT_FROM || !share) continue;
      pen.globalAlpha = share * bright * (0.1 + 0.75 * size);
      pen.lineWidth = 0.5 + 2 * size;
      pen.strokeStyle = flow[e] > 0 ? this.colours.plus : this.colours.minus;
      pen.beginPath();
      this.line(pen, name, spots, rows[e], columns[e]);
      pen.stroke();
    }
  }

  units(pen, spots, column, values, share) {
    const largest = Math.max(1e-9, ...Array.from(values, Math.abs));
    for (let i = 0; i < values.length; i++) {
      const size = (share * Math.abs(values[i])) / largest;
      pen.beginPath();
      pen.arc(spots.at[column], spots[column][i], 1.5 + 2.2 * Math.sqrt(size), 0, 7);
      pen.fillStyle = size < 0.01 ? this.colours.unit : values[i] > 0 ? this.colours.plus : this.colours.minus;
      pen.fill();
    }
  }

  /* Action values as bars from the smallest available one, the chosen action filled. */
  values(pen, spots, { q, avail, action }, share) {
    const open = Array.from(q).filter((_, a) => avail[a]);
    const low = Math.min(...open), span = Math.max(1e-9, Math.max(...open) - low), room = this.width - spots.at.q - 44;
    const pitch = spots.q.length > 1 ? spots.q[1] - spots.q[0] : 20;
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (let a = 0; a < q.length; a++) {
      const chosen = a === action && share > 0.5;
      pen.globalAlpha = avail[a] ? 1 : 0.35;
      pen.fillStyle = chosen ? this.colours.chosen : this.colours.unit;
      pen.beginPath();
      pen.arc(spots.at.q, spots.q[a], chosen ? 7 : 4, 0, 7);
      pen.fill();
      if (pitch > 9) {
        pen.fillStyle = chosen ? this.colours.ink : this.colours.soft;
        pen.fillText(String(a), spots.at.q + 11, spots.q[a]);
      }
      if (!avail[a]) continue;
      pen.fillStyle = chosen ? this.colours.chosen : this.colours.unit;
      pen.fillRect(spots.at.q + 28, spots.q[a] - Math.min(4, pitch / 3), share * (2 + (room * (q[a] - low)) / span), Math.min(8, (2 * pitch) / 3));
    }
    pen.globalAlpha = 1;
  }

  /* Components of a continuous action as bars from the middle of their range; faint: those that other agents have. */
  components(pen, spots, { low, high }, { action, units }, share) {
    const left = spots.at.a + 14, room = this.width - left - 46, middle = left + room / 2;
    const pitch = spots.a.length > 1 ? spots.a[1] - spots.a[0] : 20, height = Math.min(10, (2 * pitch) / 3);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (let k = 0; k < spots.a.length; k++) {
      const y = spots.a[k];
      pen.globalAlpha = k < action.length ? 1 : 0.35;
      pen.fillStyle = this.colours.unit;
      pen.beginPath();
      pen.arc(spots.at.a, y, 4, 0, 7);
      pen.fill();
      if (spots.a !== spots.q && k === spots.a.length - 1) {
        pen.globalAlpha = 1;
        pen.fillStyle = this.colours.soft;
        pen.fillText("value", left, y);
      }
      if (k >= action.length) continue;
      pen.globalAlpha = 0.4;
      pen.fillRect(left, y - height / 2, room, height);
      pen.globalAlpha = 1;
      pen.fillStyle = action[k] > 0 ? this.colours.plus : this.colours.minus;
      pen.fillRect(middle, y - height / 2, (share * action[k] * room) / 2, height);
      pen.fillStyle = this.colours.ink;
      if (pitch > 9 && share > 0.5) pen.fillText(rounded(units[k], low[k], high[k]), left + room + 6, y);
    }
    pen.globalAlpha = 1;
  }

  words(pen, spots, network) {
    const { obs, lastAction, agentId } = this.data.contract;
    const inputs = ["observation", ...(lastAction ? ["last action"] : []), ...(agentId ? ["id"] : [])].join(", ");
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    const label = (column, name, size) => {
      const x = Math.max(46, Math.min(this.width - 36, spots.at[column]));
      pen.font = "600 12px system-ui, sans-serif";
      pen.fillStyle = this.colours.ink;
      pen.fillText(name, x, 14);
      pen.font = "11px system-ui, sans-serif";
      pen.fillStyle = this.colours.soft;
      pen.fillText(size, x, 28);
    };
    label("x", "inputs", String(network.inputs));
    label("y", "fc1", String(network.fc1));
    label("h", network.layers.mid ? "mid" : "GRU", String(network.hidden));
    label("q", network.layers.act ? "fc2" : "actions", String(network.outputs));
    if (network.layers.act) label("a", "actions", String(this.data.contract.actions));
    pen.textAlign = "left";
    this.canvas.title = `Inputs: ${inputs}; the first ${obs} are the observation`;
  }
}
