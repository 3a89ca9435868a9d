// The picture in the middle: heat over it, the steps under it, two pictures with a wipe.

import { find, fill, make } from "../app/dom.js";
import { on, state } from "../app/store.js";
import { overlayDrawn } from "./hover.js";
import { drawHeat, drawMask, paintHeat } from "./overlay.js";
import { buildWipe } from "./wipe.js";
import { buildPointer } from "./pointer.js";

let frame;
let image;
let sourceImage;
let canvas;
let progress;
let wipe;

/** Build the stage and keep it equal to the state. */
export function buildStage() {
  image = make("img", { class: "picture", alt: "", draggable: false });
  sourceImage = make("img", { class: "picture source", alt: "", draggable: false });
  canvas = make("canvas", { class: "heat", "aria-hidden": "true" });
  progress = make("progress", { class: "progress", "aria-label": "Progress", hidden: true });
  frame = make("div", {
    class: "frame",
    id: "frame",
    tabIndex: 0,
    role: "group",
    "aria-label": "Picture. The arrow keys point into it, Enter makes a mask of the word there.",
  });
  wipe = buildWipe(frame, image, sourceImage);
  frame.append(sourceImage, image, canvas, progress, wipe.handle);
  fill(find("#stage"), frame);
  buildPointer(frame);
  on(["view", "before", "step", "busy"], showPicture);
  on(["view", "hovered", "pinned", "step", "mask", "placing", "busy"], showHeat);
  on(["view"], paintAhead);
  new ResizeObserver(() => showHeat()).observe(frame);
  showPicture();
}

function showPicture() {
  const { view, before, busy, step } = state;
  frame.classList.toggle("busy", Boolean(busy));
  frame.classList.toggle("empty", !view);
  progress.hidden = !busy;
  if (busy?.steps) Object.assign(progress, { max: busy.steps, value: busy.step });
  else progress.removeAttribute("value");
  if (!view) return;
  const drawn = busy?.preview && !busy.quiet ? busy.preview : pictureAt(view, step);
  if (image.getAttribute("src") !== drawn) image.src = drawn;
  image.alt = view.prompt ? `Picture of: ${view.prompt}` : "Your picture";
  frame.style.setProperty("--width", view.width);
  frame.style.setProperty("--height", view.height);
  const compared = before?.picture && !(busy && !busy.quiet) ? pictureAt(before, step) : null;
  if (compared && sourceImage.getAttribute("src") !== compared) sourceImage.src = compared;
  sourceImage.alt = before ? `Source: ${before.prompt}` : "";
  sourceImage.hidden = !compared;
  wipe.show(Boolean(compared));
}

/** Return the address of a view's picture after a step, counted from 0; null for the finished. */
function pictureAt(view, step) {
  if (step === null) return view.picture;
  return view.steps?.[Math.min(step, view.steps.length - 1)] ?? view.picture;
}

/** Paint every word's overlay while nothing else is done, so that the first hover is as fast. */
function paintAhead() {
  const { view } = state;
  if (!view?.maps) return;
  view.maps.words.forEach((_, index) => {
    const paint = () => state.view?.maps === view.maps && paintHeat(view.maps.word(index), view.maps.width, view.maps.height);
    (window.requestIdleCallback ?? setTimeout)(paint);
  });
}

/** Draw the heat map that the state asks for; takes a few milliseconds. */
function showHeat() {
  const { view, hovered, pinned, step, mask, placing, busy } = state;
  const selection = mask ? mask.words : (hovered ?? pinned);
  const maps = view?.maps;
  const seen = Boolean(maps?.has(selection) && !placing && !(busy && !busy.quiet));
  canvas.classList.toggle("on", seen);
  if (!seen) return;
  const field = maps.phrase(selection, step);
  if (mask) {
    Object.assign(canvas, { width: frame.clientWidth, height: frame.clientHeight });
    drawMask(canvas, field, maps.width, maps.height, mask.threshold);
  } else drawHeat(canvas, field, maps.width, maps.height);
  overlayDrawn();
}
