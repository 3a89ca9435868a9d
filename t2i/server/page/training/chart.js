// A line chart of a run: loss as it was logged and smoothed, validation as points.

import { make, makeSvg } from "../app/dom.js";

const HEIGHT = 260;
const LEFT = 52;
const BOTTOM = 26;
const SMOOTHING = 0.06; // of the points, on each side

/** Return a chart of series [{kind: "line" | "points", values: [[step, value]]}], `width` pixels wide. */
export function drawChart(series, label, width) {
  const every = series.flatMap(({ values }) => values);
  if (!every.length) return make("p", { class: "hint" }, "Nothing is logged yet.");
  const steps = every.map(([step]) => step);
  const values = every.map(([, value]) => value);
  const [first, last] = [Math.min(...steps), Math.max(...steps, Math.min(...steps) + 1)];
  const [low, high] = bounds(values);
  const x = (step) => LEFT + ((width - LEFT - 8) * (step - first)) / (last - first);
  const y = (value) => 8 + ((HEIGHT - BOTTOM - 8) * (high - value)) / (high - low);
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img", "aria-label": label });
  for (const tick of ticks(low, high)) {
    svg.append(
      makeSvg("line", { class: "rule", x1: LEFT, x2: width - 8, y1: y(tick), y2: y(tick) }),
      text(LEFT - 8, y(tick) + 4, format(tick), "end"),
    );
  }
  for (const tick of ticks(first, last)) {
    if (Number.isInteger(tick)) svg.append(text(x(tick), HEIGHT - 6, tick.toLocaleString("en"), "middle"));
  }
  for (const { kind, values: own } of series) {
    if (kind === "points") {
      for (const [step, value] of own) svg.append(makeSvg("circle", { class: "point", cx: x(step), cy: y(value), r: 3.5 }));
    } else if (own.length === 1) {
      svg.append(makeSvg("circle", { class: "single", cx: x(own[0][0]), cy: y(own[0][1]), r: 3.5 }));
    } else {
      svg.append(line("raw", own, x, y), line("smooth", smooth(own), x, y));
    }
  }
  return svg;
}

function line(name, values, x, y) {
  const path = values.map(([step, value], place) => `${place ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("");
  return makeSvg("path", { class: name, d: path });
}

function text(x, y, content, anchor) {
  const element = makeSvg("text", { x, y, "text-anchor": anchor });
  element.textContent = content;
  return element;
}

/** Return the running mean of values over their neighbours. */
function smooth(values) {
  const reach = Math.floor(values.length * SMOOTHING);
  return values.map(([step], place) => {
    const around = values.slice(Math.max(0, place - reach), place + reach + 1);
    return [step, around.reduce((sum, [, value]) => sum + value, 0) / around.length];
  });
}

/** Return the range of the values, without the largest hundredth: the first steps of a run. */
function bounds(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const low = sorted[0];
  const high = sorted[Math.ceil((sorted.length - 1) * 0.99)];
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) found.push(Number(tick.toPrecision(10)));
  return found;
}

const format = (value) => (Math.abs(value) >= 0.01 || value === 0 ? String(Number(value.toPrecision(3))) : value.toExponential(0));
