// Point at the picture: the words there, the strongest first; a click makes a mask of the first.

import { fill, make } from "../app/dom.js";
import { on, set, state } from "../app/store.js";
import { hover } from "./hover.js";

const SHOWN = 4;
const AWAY = 18; // pixels between the pointer and the list
const KEYBOARD_STEP = 1 / 24;

/** Return where a box of a size begins beside a point: behind it, before it, or wherever it fits. */
function besides(point, size, room) {
  if (point + AWAY + size <= room) return point + AWAY;
  return Math.max(0, Math.min(room - size, point - AWAY - size));
}

/** Let a frame be pointed into, with the pointer and with the arrow keys. */
export function buildPointer(frame) {
  const list = make("ol", { class: "ranks", hidden: true, "aria-live": "polite" });
  const cross = make("div", { class: "cross", hidden: true, "aria-hidden": "true" });
  frame.append(cross, list);
  let point = { x: 0.5, y: 0.5 };
  let ranked = [];

  const hide = () => {
    list.hidden = true;
    cross.hidden = true;
    if (ranked.length) hover(null);
    ranked = [];
  };
  const pointAt = (x, y, event, keyboard) => {
    const { view, mask, busy } = state;
    if (!view?.maps || mask || state.placing || (busy && !busy.quiet)) return hide();
    point = { x: Math.min(0.999, Math.max(0, x)), y: Math.min(0.999, Math.max(0, y)) };
    ranked = view.maps.rank(point.x, point.y, state.step);
    if (!ranked.length) return hide();
    fill(
      list,
      ranked.slice(0, SHOWN).map(({ index, lift }) => {
        const bar = make("i", { "aria-hidden": "true" });
        bar.style.width = `${Math.round((100 * lift) / ranked[0].lift)}%`;
        return make("li", {}, make("b", {}, view.maps.words[index].text), make("span", { "aria-label": `${lift.toFixed(1)} times its mean` }, `${lift.toFixed(1)}×`), bar);
      }),
    );
    list.hidden = false;
    list.style.left = `${besides(point.x * frame.clientWidth, list.offsetWidth, frame.clientWidth)}px`;
    list.style.top = `${besides(point.y * frame.clientHeight, list.offsetHeight, frame.clientHeight)}px`;
    cross.style.left = `${point.x * 100}%`;
    cross.style.top = `${point.y * 100}%`;
    cross.hidden = !keyboard;
    if (!state.pinned) hover([ranked[0].index], event);
    return undefined;
  };

  frame.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch" || event.target.closest(".wipe")) return;
    const box = frame.getBoundingClientRect();
    pointAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, event, false);
  });
  frame.addEventListener("pointerleave", hide);
  frame.addEventListener("blur", hide);
  frame.addEventListener("click", (event) => {
    const box = frame.getBoundingClientRect();
    if (state.mask || state.placing) return;
    pointAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, event, false);
    // A finger cannot hover: it pins the first word, and the line under the sentence offers the mask.
    if (event.pointerType !== "touch") makeMask();
    else if (ranked.length) set({ pinned: [ranked[0].index] });
  });
  frame.addEventListener("keydown", (event) => {
    if (event.target !== frame) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      const [across, down] = moves[event.key];
      pointAt(point.x + across * KEYBOARD_STEP, point.y + down * KEYBOARD_STEP, event, true);
    } else if (event.key === "Enter") {
      if (!ranked.length) pointAt(point.x, point.y, event, true);
      makeMask();
    } else if (event.key === "Escape") hide();
    else return;
    event.preventDefault();
  });
  const makeMask = () => {
    if (!ranked.length) return;
    const [{ index }] = ranked;
    hide();
    set({ mask: { words: [index], threshold: 0.5 }, pinned: [index] });
  };
  on(["view", "busy", "mask"], () => {
    if (!list.hidden && (state.mask || state.busy)) hide();
  });
}
