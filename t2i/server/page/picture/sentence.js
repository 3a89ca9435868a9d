// The prompt of the picture, its words alive: hover or focus shows where one lands, a click pins it,
// dragging over several makes a phrase, a double click swaps one, a slider weighs it.

import { find, fill, make } from "../app/dom.js";
import { on, set, state } from "../app/store.js";
import { isLittle } from "./heat_maps.js";
import { awaitsMaps } from "../app/views.js";
import { hover } from "./hover.js";
import { buildWeight, showWeight } from "../change/weight.js";
import { buildSwap } from "../change/swap.js";

let room;
let shown = null; // the view whose words are on screen
let drag = null;

/** Build the sentence and keep it equal to the state. */
export function buildSentence() {
  room = find("#sentence");
  room.addEventListener("pointerover", (event) => over(event.target.closest(".word"), event));
  room.addEventListener("pointerleave", (event) => !drag && hover(null, event));
  room.addEventListener("focusin", (event) => over(event.target.closest(".word"), event));
  room.addEventListener("focusout", (event) => !room.contains(event.relatedTarget) && hover(null, event));
  room.addEventListener("pointerdown", begin);
  window.addEventListener("pointerup", end);
  room.addEventListener("keydown", walk);
  on(["view"], build);
  on(["hovered", "pinned"], mark);
  on(["changes"], weigh);
  build();
}

function build() {
  const { view } = state;
  if (!view) return fill(room);
  const words = view.maps?.words ?? [];
  const text = `${view.prompt}\n${view.negative}\n`;
  // The words of the same text stay as they are while new maps come: a slider keeps the focus.
  if (awaitsMaps(view) && shown?.startsWith(text)) return mark();
  const key = `${text}${awaitsMaps(view)}\n${words.map((word) => word.text).join("|")}`;
  if (shown === key) return mark();
  shown = key;
  const positive = words.map((word, index) => ({ ...word, index })).filter((word) => !word.negative);
  const negative = words.map((word, index) => ({ ...word, index })).filter((word) => word.negative);
  const lines = [make("p", { class: awaitsMaps(view) ? "line awaited" : "line" }, ...spread(view.prompt, positive))];
  if (negative.length) {
    lines.push(make("p", { class: "line negative" }, make("span", { class: "not" }, "not"), ...spread(view.negative, negative)));
  }
  fill(room, lines);
  mark();
  weigh();
  return undefined;
}

/** Return the text with its words as live elements, what is between them as it is. */
function spread(text, words) {
  const known = new Map(words.map((word) => [word.text.toLowerCase(), word]));
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(/[\p{L}\p{N}\p{M}_'-]+/gu)) {
    const word = known.get(found[0].toLowerCase());
    if (!word) continue;
    const between = text.slice(at, found.index).trim();
    if (between) parts.push(make("span", { class: "between" }, between));
    parts.push(alive(word, found[0], found.index));
    at = found.index + found[0].length;
  }
  const rest = text.slice(at).trim();
  if (rest) parts.push(make("span", { class: "between" }, rest));
  return parts;
}

function alive(word, text, start) {
  const name = make("button", { type: "button", class: "word-name", "aria-pressed": "false", title: "Click pins, double click swaps" }, text);
  const element = make("span", { class: isLittle(word.text) ? "word little" : "word" }, name);
  element.dataset.index = word.index;
  element.dataset.start = start;
  element.dataset.text = word.text;
  if (!word.negative) {
    element.append(buildWeight(word.text, isLittle(word.text)));
    // A click without a pointer, as screen readers make it.
    name.addEventListener("click", (event) => !event.detail && pin([word.index]));
    name.addEventListener("dblclick", () => startSwap(element));
  }
  return element;
}

/** Put a field in a word's place; what is typed there is drawn in its stead. */
export function startSwap(element) {
  if (element && !element.querySelector(".swap")) buildSwap(element);
}

/** Return the element of a word. */
export const wordElement = (index) => room.querySelector(`.word[data-index="${index}"]`);

const indexOf = (element) => Number(element.dataset.index);
const elements = () => [...room.querySelectorAll(".word")];
const same = (one, other) => String(one) === String(other);

/** Return the words between two elements, whichever comes first. */
function between(one, other) {
  const every = elements();
  const [from, to] = [every.indexOf(one), every.indexOf(other)].sort((left, right) => left - right);
  return [...new Set(every.slice(from, to + 1).map(indexOf))];
}

function over(element, event) {
  if (!element) return;
  if (drag) drag.to = element;
  hover(drag ? between(drag.from, element) : [indexOf(element)], event);
}

function begin(event) {
  const name = event.target.closest(".word-name");
  if (!name || event.button) return;
  drag = { from: name.parentElement, to: name.parentElement };
  if (name.hasPointerCapture?.(event.pointerId)) name.releasePointerCapture(event.pointerId);
}

function end() {
  if (!drag) return;
  const selection = between(drag.from, drag.to);
  drag = null;
  pin(selection);
}

/** Pin words; those that are pinned already are let go. */
function pin(selection) {
  const again = same(state.pinned, selection);
  set({ pinned: again ? null : selection, hovered: again ? state.hovered : null });
}

let anchor = null; // where a phrase that the keyboard makes begins

function walk(event) {
  const name = event.target.closest(".word-name");
  if (!name) return;
  const element = name.parentElement;
  const every = elements();
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) {
    const next = every[every.indexOf(element) + step];
    next?.querySelector(".word-name").focus();
    if (next && event.shiftKey) {
      anchor ??= element;
      set({ pinned: between(anchor, next), hovered: null });
    } else anchor = null;
  } else if (event.key === "Enter" || event.key === " ") {
    pin([indexOf(element)]);
  } else if (event.key === "ArrowDown") element.querySelector(".weight")?.focus();
  else if (event.key === "F2") startSwap(element);
  else if (event.key === "Escape") set({ pinned: null, hovered: null, mask: null });
  else return;
  event.preventDefault();
}

function mark() {
  const { hovered, pinned } = state;
  for (const element of elements()) {
    const index = indexOf(element);
    const inside = Boolean(pinned?.includes(index));
    element.classList.toggle("lit", Boolean(hovered?.includes(index)));
    element.classList.toggle("pinned", inside);
    element.querySelector(".word-name")?.setAttribute("aria-pressed", inside);
  }
}

function weigh() {
  for (const element of elements()) {
    showWeight(element, state.changes.weights[element.dataset.text] ?? 1);
  }
}
