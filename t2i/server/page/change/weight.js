// The slider under a word: 0 takes the word away, 1 leaves it, 3 triples it.

import { complain } from "../app/alerts.js";
import { debounce, make } from "../app/dom.js";
import { state } from "../app/store.js";
import { changeEdit } from "./edit.js";

const MOST = 3;
const WAIT_MS = 140;

/** Position of the slider (-1 to 1) of a factor: 1 is in the middle. */
const toPosition = (factor) => (factor <= 1 ? factor - 1 : (factor - 1) / (MOST - 1));
const toFactor = (position) => Math.round(100 * (position <= 0 ? 1 + position : 1 + position * (MOST - 1))) / 100;

const send = debounce((word, factor) => {
  const weights = { ...state.changes.weights, [word]: factor };
  if (factor === 1) delete weights[word];
  changeEdit({ weights }).catch(complain);
}, WAIT_MS);

/** Build the slider of a word; that of a little word is hidden until it is pointed at or walked to. */
export function buildWeight(word, little) {
  const slider = make("input", {
    type: "range",
    class: "weight",
    tabIndex: little ? -1 : 0,
    min: "-1",
    max: "1",
    step: "0.05",
    value: "0",
    "aria-label": `Weight of ${word}`,
    "aria-valuetext": "1, unchanged",
    oninput: () => {
      const factor = toFactor(Number(slider.value));
      showWeight(slider.parentElement.parentElement, factor);
      send(word, factor);
    },
    onkeydown: (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      slider.closest(".word").querySelector(".word-name").focus();
    },
    ondblclick: () => {
      slider.value = "0";
      slider.dispatchEvent(new Event("input"));
    },
  });
  return make("span", { class: "weigh" }, slider, make("output", { class: "factor" }));
}

/** Show a factor on a word's slider. */
export function showWeight(element, factor) {
  const slider = element.querySelector(".weight");
  if (!slider) return;
  const position = toPosition(factor);
  if (Math.abs(Number(slider.value) - position) > 0.026) slider.value = String(position);
  slider.setAttribute("aria-valuetext", factor === 1 ? "1, unchanged" : String(factor));
  slider.style.setProperty("--from", `${50 + 50 * Math.min(0, position)}%`);
  slider.style.setProperty("--to", `${50 + 50 * Math.max(0, position)}%`);
  element.querySelector(".factor").textContent = factor === 1 ? "" : `×${factor}`;
  element.classList.toggle("weighed", factor !== 1);
  slider.tabIndex = element.classList.contains("little") && factor === 1 ? -1 : 0;
}
