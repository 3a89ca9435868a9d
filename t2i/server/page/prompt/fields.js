// Fields of a card of the form: sliders and lines of text that follow the form's values.

import { freshId, make } from "../app/dom.js";

/** A slider with its value in words: {row, follow(value, words)}. */
export function slider(text, limits, act) {
  const id = freshId("slider");
  const output = make("output", {});
  const field = make("input", { id, type: "range", ...limits, oninput: () => act(Number(field.value)) });
  const follow = (value, words) => {
    if (Number(field.value) !== value) field.value = String(value);
    output.textContent = words;
  };
  return { row: make("p", { class: "row" }, make("label", { for: id }, text), field, output), follow };
}

/**
 * Two sliders of the shares of the run between which something acts, the first always below the
 * second: {rows, follow(steps)}. `now` returns both shares, `act` takes them changed.
 */
export function stepSliders(now, act) {
  const from = slider("From", { min: "0", max: "0.95", step: "0.05" }, (value) => act([value, Math.max(now()[1], rounded(value + 0.05))]));
  const until = slider("Until", { min: "0.05", max: "1", step: "0.05" }, (value) => act([Math.min(now()[0], rounded(value - 0.05)), value]));
  const follow = ([first, end]) => {
    from.follow(first, percent(first));
    until.follow(end, percent(end));
  };
  return { rows: [from.row, until.row], follow };
}

const rounded = (value) => Math.round(100 * value) / 100;
const percent = (share) => `${Math.round(100 * share)} % of the steps`;

/** A line of text: {row, follow(value)}. `attributes`: of its field; `act` takes what was typed. */
export function textField(text, attributes, act) {
  const id = freshId("text");
  const field = make("input", { id, type: "text", ...attributes, onchange: () => act(field.value.trim()) });
  const follow = (value) => {
    if (document.activeElement !== field) field.value = String(value);
  };
  return { row: make("p", { class: "field" }, make("label", { for: id }, text), field), follow };
}
