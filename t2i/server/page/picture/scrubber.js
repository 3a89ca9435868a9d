// A scrubber over the steps: picture and heat maps as they were after each.

import { find, fill, icon, make } from "../app/dom.js";
import { on, set, state } from "../app/store.js";
import { awaitsMaps } from "../app/views.js";
import { distancesOf, drawPaths, partingStep } from "./paths.js";

const FRAME_MS = 180;

let slider;
let label;
let paths;
let button;
let timer = 0;

/** Build the scrubber and keep it equal to the state. */
export function buildScrubber() {
  slider = make("input", { type: "range", min: "1", step: "1", "aria-label": "Step of the picture", oninput: () => go(Number(slider.value) - 1) });
  label = make("output", { class: "step" });
  button = make("button", { type: "button", class: "quiet", "aria-label": "Play the steps", onclick: toggle }, icon("play"));
  paths = make("div", { class: "apart" });
  fill(find("#scrubber"), button, make("div", { class: "track" }, paths, slider), label);
  on(["view", "step", "busy"], showSteps);
  showSteps();
}

/** Number of steps of a view that can be shown: of its pictures or of its maps. */
const stepsOf = (view) => view?.steps?.length ?? view?.maps?.steps ?? (awaitsMaps(view) ? stepsAwaited(view) : 0);
const stepsAwaited = (view) => view.sheet?.steps ?? (view.mapsFrom ?? view).described.steps ?? 0;

function showSteps() {
  const { view, step, busy } = state;
  const steps = stepsOf(view);
  const room = find("#scrubber");
  room.hidden = !steps;
  if (room.hidden) return;
  slider.max = String(steps + 1);
  slider.disabled = awaitsMaps(view) || Boolean(busy && !busy.quiet);
  button.disabled = slider.disabled;
  slider.value = String(step === null ? steps + 1 : step + 1);
  slider.style.setProperty("--part", `${(100 * (Number(slider.value) - 1)) / steps}%`);
  const text = busy && !busy.quiet && busy.steps ? `${busy.step} / ${busy.steps}` : step === null ? "finished" : `step ${step + 1} / ${steps}`;
  const distances = distancesOf(view);
  const apart = distances.length ? describePaths(distances, step) : "";
  fill(paths, distances.length ? drawPaths(distances, step) : null, apart ? make("p", {}, apart) : null);
  label.textContent = text;
  slider.setAttribute("aria-valuetext", `${text}${apart ? `, ${apart}` : ""}`);
}

/** Say how far source and edit are apart, and where their paths part. */
function describePaths(distances, step) {
  const parted = partingStep(distances);
  if (parted === null) return "the paths never part";
  if (step === null) return `the paths part at step ${parted + 1}`;
  return `${distances[Math.min(step, distances.length - 1)].toFixed(2)} apart`;
}

function go(step) {
  set({ step: step >= stepsOf(state.view) ? null : step });
}

function toggle() {
  if (timer) return pause();
  fill(button, icon("pause"));
  button.setAttribute("aria-label", "Stop playing");
  const steps = stepsOf(state.view);
  let step = state.step ?? -1;
  const advance = () => {
    step += 1;
    if (step >= steps || state.busy) {
      pause();
      set({ step: null });
    } else go(step);
  };
  advance();
  timer = setInterval(advance, FRAME_MS);
  return undefined;
}

function pause() {
  clearInterval(timer);
  timer = 0;
  fill(button, icon("play"));
  button.setAttribute("aria-label", "Play the steps");
}
