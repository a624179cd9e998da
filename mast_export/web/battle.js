/* The recorded pictures of the environment, and the strip of everybody's actions. */
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const brightness = (colour) => [1, 3, 5].reduce((sum, i) => sum + parseInt(colour.slice(i, i + 2), 16), 0);

function shapeText(shape) {
  if (shape[0] === "c") {
    const [, x, y, r, colour, label] = shape;
    const disc = `<circle cx="${x}" cy="${y}" r="${r}" fill="${colour}"/>`;
    if (!label) return disc;
    const ink = brightness(colour) > 480 ? "#222" : "#fff";
    return `${disc}<text x="${x}" y="${y}" font-size="${1.1 * r}" fill="${ink}">${escaped(label)}</text>`;
  }
  if (shape[0] === "p") {
    const points = shape[1].map((value, i) => (i % 2 ? `${value} ` : `${value},`)).join("");
    return `<polygon points="${points}" fill="${shape[2]}"/>`;
  }
  const [, x0, y0, x1, y1, colour, width, round] = shape;
  const ends = round ? ` stroke-linecap="round"` : "";
  return `<line x1="${x0}" y1="${y0}" x2="${x1}" y2="${y1}" stroke="${colour}" stroke-width="${width}"${ends}/>`;
}

function drawBattle(box, data, step) {
  const frame = data.frames[step];
  if (typeof frame === "string") {
    box.innerHTML = `<img alt="" src="data:image/png;base64,${frame}">`;
  } else {
    box.innerHTML = `<svg viewBox="${data.views[Math.min(step, data.views.length - 1)].join(" ")}" aria-hidden="true">${frame.map(shapeText).join("")}</svg>`;
  }
  box.setAttribute("aria-label", `The episode after ${step} of ${data.steps} steps`);
}

/* A row for each agent, a cell for each step, coloured by action. */
function cells(data, decided, pitch, height) {
  return decided.flatMap((steps, i) => steps.map(({ action }, t) => {
    const hue = (360 * action) / data.contract.actions;
    const number = data.steps <= 60 ? `<text x="${(t + 0.5) * pitch}%" y="${i * height + 9}">${action}</text>` : "";
    return `<rect x="${t * pitch}%" y="${i * height}" width="${pitch}%" height="${height - 2}" rx="2" style="--hue:${hue}"/>${number}`;
  })).join("");
}

/* A row for each agent, a line for each component of its actions, from the low bound below to the high one above. */
function curves(data, decided, height) {
  return decided.map((steps, i) => {
    const middle = height / 2 - 1, lines = Array.from(steps[0].action, (_, k) => {
      const points = steps.map(({ action }, t) => `${t + 0.5},${(middle - action[k] * (middle - 2)).toFixed(1)}`);
      const hue = (360 * k) / data.contract.actions;
      return `<polyline points="${points.join(" ")}" style="--hue:${hue}"><title>component ${k}</title></polyline>`;
    });
    return `<svg y="${i * height}" width="100%" height="${height - 2}" viewBox="0 0 ${data.steps} ${height - 2}" preserveAspectRatio="none">`
      + `<rect class="lane" width="${data.steps}" height="${height - 2}"/>${lines.join("")}</svg>`;
  }).join("");
}

/* Everybody's actions over the episode; `onStep(step, agent)` where one is clicked. */
class Strip {
  constructor(box, data, decided, onStep) {
    const { continuous } = data.contract;
    const pitch = 100 / data.steps, rows = data.agents.length, height = continuous ? 40 : 18;
    const drawn = continuous ? curves(data, decided, height) : cells(data, decided, pitch, height);
    box.innerHTML = `<svg width="100%" height="${rows * height}">${drawn}<rect class="now" width="${pitch}%" height="${rows * height - 1}" y="0.5" rx="3"/></svg>`;
    this.now = box.querySelector(".now");
    this.pitch = pitch;
    box.addEventListener("click", (event) => {
      const area = box.getBoundingClientRect();
      const step = Math.floor(((event.clientX - area.left) / area.width) * data.steps);
      const agent = Math.floor((event.clientY - area.top) / height);
      onStep(Math.max(0, Math.min(data.steps - 1, step)), Math.max(0, Math.min(rows - 1, agent)));
    });
  }

  show(step) {
    this.now.setAttribute("x", `${step * this.pitch}%`);
  }
}
