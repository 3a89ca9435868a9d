// How far the latents of source and edit are apart after each step: a curve over the scrubber.

import { makeSvg } from "../app/dom.js";

const HEIGHT = 26;
const PARTED = 0.1; // of the largest distance

/** Return the distances of the picture on screen from its source, a number for each step. */
export function distancesOf(view) {
  const steps = view?.kind === "edit" ? (view.data.distances ?? []) : [];
  return steps.map((targets) => targets.at(-1));
}

/** Return the step (from 0) at which the paths part; null where they never do. */
export function partingStep(distances) {
  const largest = Math.max(0, ...distances);
  const step = distances.findIndex((distance) => distance > PARTED * largest);
  return step < 0 || !largest ? null : step;
}

/** Draw the curve; `step` is the one on screen, null for the finished picture. */
export function drawPaths(distances, step) {
  const count = distances.length;
  const largest = Math.max(...distances, 1e-9);
  const x = (place) => (place * 100) / count; // as the slider: the last place is the finished picture
  const y = (distance) => HEIGHT - 2 - ((HEIGHT - 5) * distance) / largest;
  const points = distances.map((distance, place) => `${x(place)},${y(distance)}`);
  const parted = partingStep(distances);
  const svg = makeSvg("svg", {
    viewBox: `0 0 100 ${HEIGHT}`, preserveAspectRatio: "none", class: "paths", role: "img",
    "aria-label": parted === null ? "Source and edit never part" : `Source and edit part at step ${parted + 1} of ${count}`,
  });
  svg.append(
    makeSvg("polyline", { class: "area", points: `${x(0)},${HEIGHT} ${points.join(" ")} ${x(count - 1)},${HEIGHT}` }),
    makeSvg("polyline", { class: "curve", points: points.join(" ") }),
  );
  if (step !== null) svg.append(makeSvg("line", { class: "now", x1: x(step), x2: x(step), y1: 0, y2: HEIGHT }));
  return svg;
}
