// Two pictures, one over the other, and a handle that wipes between them.

import { make } from "../app/dom.js";

const STEP = 2;

/** Build the handle of a wipe between `over` and what lies under it. */
export function buildWipe(frame, over) {
  const handle = make("div", {
    class: "wipe",
    role: "slider",
    tabIndex: 0,
    "aria-label": "Wipe between the source (left) and the edit (right)",
    "aria-orientation": "horizontal",
    "aria-valuemin": "0",
    "aria-valuemax": "100",
    hidden: true,
  });
  let share = 50;
  const place = (value) => {
    share = Math.min(100, Math.max(0, value));
    handle.style.left = `${share}%`;
    handle.setAttribute("aria-valuenow", Math.round(share));
    over.style.clipPath = handle.hidden ? "" : `inset(0 0 0 ${share}%)`;
  };
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
    event.stopPropagation();
    handle.focus();
  });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    event.stopPropagation();
    const box = frame.getBoundingClientRect();
    place((100 * (event.clientX - box.left)) / box.width);
  });
  handle.addEventListener("click", (event) => event.stopPropagation());
  handle.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -STEP, ArrowRight: STEP, ArrowDown: -STEP, ArrowUp: STEP, PageDown: -10, PageUp: 10 };
    if (event.key in moves) place(share + moves[event.key]);
    else if (event.key === "Home") place(0);
    else if (event.key === "End") place(100);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return {
    handle,
    show(visible) {
      handle.hidden = !visible;
      place(share);
    },
  };
}
