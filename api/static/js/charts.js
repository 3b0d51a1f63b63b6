/* Small charts as inline SVG, drawn from the data; beside each stands the same as a table for those
   who do not see it. Only attributes are set: the page's policy allows no inline style. */

import { el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

function table(title, rows) {
  return el("table", { class: "visually-hidden" }, el("caption", {}, title),
    el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.label), el("td", {}, row.text)))));
}

const ROW = 34;
const WIDTH = 320;

/** Horizontal bars of `[{label, value, text}]`; `value` decides the length, `text` is shown. */
export function bars(title, rows) {
  const top = Math.max(...rows.map((row) => row.value), 0);
  if (!rows.length || top <= 0) return null;
  const lines = rows.flatMap((row, i) => {
    const y = i * ROW;
    const name = svg("text", { x: 0, y: y + 12, class: "chart-label" });
    name.textContent = row.label.length > 34 ? `${row.label.slice(0, 33)}…` : row.label;
    const amount = svg("text", { x: WIDTH, y: y + 12, class: "chart-value", "text-anchor": "end" });
    amount.textContent = row.text;
    return [name, amount,
      svg("rect", { x: 0, y: y + 18, width: WIDTH, height: 6, rx: 3, class: "chart-track" }),
      svg("rect", { x: 0, y: y + 18, width: Math.max(3, (WIDTH * row.value) / top), height: 6, rx: 3, class: "chart-bar" })];
  });
  return el("figure", { class: "chart" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${rows.length * ROW}`, "aria-hidden": "true", focusable: "false" }, ...lines),
    table(title, rows));
}

/** Columns over time of `[{label, value, text}]`. */
export function columns(title, rows) {
  const top = Math.max(...rows.map((row) => row.value), 0);
  if (rows.length < 2 || top <= 0) return null;
  const height = 96;
  const step = WIDTH / rows.length;
  const drawn = rows.map((row, i) => {
    const tall = Math.max(2, (height * row.value) / top);
    const bar = svg("rect", { x: i * step + step * 0.15, y: height - tall, width: step * 0.7, height: tall, rx: 2, class: "chart-bar" });
    const hint = svg("title", {});
    hint.textContent = `${row.label}: ${row.text}`;
    bar.append(hint);
    return bar;
  });
  const first = svg("text", { x: 0, y: height + 16, class: "chart-label" });
  first.textContent = rows[0].label;
  const last = svg("text", { x: WIDTH, y: height + 16, class: "chart-label", "text-anchor": "end" });
  last.textContent = rows.at(-1).label;
  return el("figure", { class: "chart" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${height + 22}`, "aria-hidden": "true", focusable: "false" }, ...drawn, first, last),
    table(title, rows));
}
