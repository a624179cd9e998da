"use strict";
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
root.dataset.theme = dark ? "dark" : "light";
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});

function light(figure, row) {
  for (const group of figure.querySelectorAll("[data-row]")) {
    group.classList.toggle("lit", group.dataset.row === row);
    group.classList.toggle("dim", row !== null && group.dataset.row !== row);
  }
}

for (const key of document.querySelectorAll("[data-toggle]")) {
  const figure = key.closest("figure");
  const rows = [...figure.querySelectorAll("[data-row]")].filter((g) => g.dataset.row === key.dataset.toggle);
  key.addEventListener("click", () => {
    const shown = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", String(shown));
    for (const row of rows) row.classList.toggle("hidden", !shown);
  });
  for (const event of ["pointerenter", "focus"]) key.addEventListener(event, () => light(figure, key.dataset.toggle));
  for (const event of ["pointerleave", "blur"]) key.addEventListener(event, () => light(figure, null));
}

const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("figure > svg")) {
  const dots = [...svg.querySelectorAll("[data-tip]")];
  for (const dot of dots) dot.querySelector("title")?.remove();
  svg.addEventListener("pointermove", (event) => {
    let nearest = null;
    let best = 18;
    for (const dot of dots) {
      const box = dot.getBoundingClientRect();
      if (!box.width) continue;
      const distance = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (distance < best) [nearest, best] = [dot, distance];
    }
    tip.classList.toggle("shown", nearest !== null);
    light(svg.closest("figure"), nearest?.closest("[data-row]")?.dataset.row ?? null);
    if (nearest === null) return;
    tip.textContent = nearest.dataset.tip;
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${left}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  svg.addEventListener("pointerleave", () => {
    tip.classList.remove("shown");
    light(svg.closest("figure"), null);
  });
}
