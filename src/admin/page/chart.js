"use strict";
// Charts of one hour in 60 columns. Colours come from the style sheet by class; every chart says in words what it shows.
const CHART = { width: 360, height: 120, left: 34, bottom: 16, top: 6, columns: 60 };

function draw(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Steps into minutes, the newest last; missing ones are null. `how` joins the steps of a minute.
function minutes(values, step, how) {
  const per = Math.max(1, Math.round(60 / step));
  const columns = new Array(CHART.columns).fill(null);
  for (let end = values.length, column = CHART.columns - 1; end > 0 && column >= 0; end -= per, column -= 1) {
    columns[column] = how(values.slice(Math.max(0, end - per), end));
  }
  return columns;
}

const sum = (list) => list.reduce((a, b) => a + b, 0);
const last = (list) => list[list.length - 1];

// The next number that reads well on an axis.
function ceiling(value) {
  if (value <= 4) return 4;
  const scale = 10 ** Math.floor(Math.log10(value));
  return scale * [1, 2, 2.5, 5, 10].find((step) => step * scale >= value);
}

function frame(top, title) {
  const { width, height, left, bottom, top: above } = CHART;
  const floor = height - bottom;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const part of [0, 0.5, 1]) {
    const y = floor - part * (floor - above);
    svg.append(draw("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }),
      draw("text", { x: left - 4, y: y + 3, "text-anchor": "end" }, (part * top).toLocaleString()));
  }
  for (const [ago, anchor] of [[60, "start"], [30, "middle"], [0, "end"]]) {
    const x = width - (ago / 60) * (width - left);
    svg.append(draw("text", { x, y: height - 4, "text-anchor": anchor }, ago ? `${ago} min ago` : "now"));
  }
  return svg;
}

// Bars on top of each other; `series` holds [class, columns].
function bars(series, title) {
  const { width, height, left, bottom, top: above, columns } = CHART;
  const totals = [...Array(columns).keys()].map((at) => sum(series.map(([, list]) => list[at] ?? 0)));
  const top = ceiling(Math.max(...totals));
  const svg = frame(top, title);
  const step = (width - left) / columns;
  for (let at = 0; at < columns; at += 1) {
    let y = height - bottom;
    for (const [kind, list] of series) {
      const tall = ((list[at] ?? 0) / top) * (height - bottom - above);
      if (tall <= 0) continue;
      y -= tall;
      svg.append(draw("rect", { class: kind, x: left + at * step + 0.5, y, width: step - 1, height: tall }));
    }
  }
  return svg;
}

// Lines in percent of their own limit; `series` holds [class, columns, limit].
function lines(series, title) {
  const { width, height, left, bottom, top: above, columns } = CHART;
  const svg = frame(100, title);
  const step = (width - left) / columns;
  for (const [kind, list, limit] of series) {
    const points = list.flatMap((value, at) => (value === null ? [] :
      [`${(left + (at + 0.5) * step).toFixed(1)},${(height - bottom - (value / limit) * (height - bottom - above)).toFixed(1)}`]));
    svg.append(draw("polyline", { class: "line " + kind, points: points.join(" ") }));
    // A single point makes no line.
    const newest = last(points)?.split(",");
    if (newest) svg.append(draw("circle", { class: "dot " + kind, cx: newest[0], cy: newest[1], r: 2.5 }));
  }
  return svg;
}
