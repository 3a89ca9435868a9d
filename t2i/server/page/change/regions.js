// Boxes for words: drawn on the picture, the words are bound to them, and the picture is drawn anew.

import { complain, say } from "../app/alerts.js";
import { find, make } from "../app/dom.js";
import { on, set, state } from "../app/store.js";
import { changeEdit } from "./edit.js";

const FIRST = [0.3, 0.3, 0.7, 0.7];
const STEP = 0.05;
const SMALLEST = 0.05;

let layer;

/** Build the layer of boxes over the picture and keep it equal to the state. */
export function buildRegions() {
  layer = make("div", { class: "regions" });
  find("#frame").append(layer);
  listen(find("#frame"));
  on(["changes", "view", "placing"], build);
  build();
}

/** Let a box be drawn for words (their indices in the maps). */
export function place(indices) {
  const words = state.view.maps.name(indices);
  const known = state.changes.regions.find((region) => region.words === words);
  set({ placing: { words, box: known?.box ?? FIRST }, mask: null, hovered: null });
  say(`Draw the box of \u201c${words}\u201d on the picture.`);
  layer.querySelector(".box.new")?.focus();
}

/** Take the box of words away. */
export function removeRegion(words) {
  const regions = state.changes.regions.filter((region) => region.words !== words);
  changeEdit({ regions }).catch(complain);
}

function build() {
  const { changes, placing } = state;
  const boxes = changes.regions.filter((region) => region.words !== placing?.words).map((region) => box(region));
  if (placing) boxes.push(box(placing, true));
  layer.replaceChildren(...boxes);
  layer.classList.toggle("placing", Boolean(placing));
}

function box(region, drawn = false) {
  const element = make("div", { class: drawn ? "box new" : "box" }, make("span", {}, region.words));
  fit(element, region.box);
  if (!drawn) return element;
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", `Box of ${region.words}. The arrow keys move it, with Shift they size it, Enter draws the picture, Escape leaves.`);
  element.addEventListener("keydown", press);
  return element;
}

function fit(element, [left, top, right, bottom]) {
  Object.assign(element.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
  });
}

/** Let a box be drawn with the pointer. */
function listen(frame) {
  let start = null;
  const at = (event) => {
    const bounds = frame.getBoundingClientRect();
    const part = (value) => Math.round(1000 * Math.min(1, Math.max(0, value))) / 1000;
    return [part((event.clientX - bounds.left) / bounds.width), part((event.clientY - bounds.top) / bounds.height)];
  };
  layer.addEventListener("pointerdown", (event) => {
    if (!state.placing || event.button) return;
    event.preventDefault();
    start = at(event);
    layer.setPointerCapture(event.pointerId);
  });
  layer.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = at(event);
    const drawn = [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
    state.placing.box = drawn;
    fit(layer.querySelector(".box.new"), drawn);
  });
  layer.addEventListener("pointerup", () => {
    if (!start) return;
    start = null;
    const [left, top, right, bottom] = state.placing.box;
    // A click without a drag leaves the box where it is, for the keyboard.
    if (right - left >= SMALLEST && bottom - top >= SMALLEST) apply();
    else set({ placing: { ...state.placing, box: FIRST } });
  });
  layer.addEventListener("click", (event) => event.stopPropagation());
}

function press(event) {
  const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  event.stopPropagation();
  if (event.key in moves) {
    const [across, down] = moves[event.key];
    const [left, top, right, bottom] = state.placing.box;
    const moved = event.shiftKey
      ? [left, top, right + across, bottom + down]
      : [left + across, top + down, right + across, bottom + down];
    const rounded = moved.map((side) => Math.round(1000 * side) / 1000);
    const inside = rounded.every((side) => side >= 0 && side <= 1);
    if (inside && rounded[2] - rounded[0] >= SMALLEST && rounded[3] - rounded[1] >= SMALLEST) state.placing.box = rounded;
    fit(event.currentTarget, state.placing.box);
  } else if (event.key === "Enter") apply();
  else if (event.key === "Escape") {
    set({ placing: null });
    say("");
  } else return;
  event.preventDefault();
}

function apply() {
  const { words, box: drawn } = state.placing;
  const regions = [...state.changes.regions.filter((region) => region.words !== words), { words, box: drawn }];
  set({ placing: null, pinned: null });
  changeEdit({ regions }).catch(complain);
}
