// The numbers of a word under the sentence, and what can be done with it.

import { find, fill, make } from "../app/dom.js";
import { on, set, state } from "../app/store.js";
import { awaitsMaps } from "../app/views.js";
import { place } from "../change/regions.js";
import { startSwap, wordElement } from "./sentence.js";

const PLACES = [
  ["upper left", "top", "upper right"],
  ["left", "middle", "right"],
  ["lower left", "bottom", "lower right"],
];

/** What can be done with words: its name, whether it is offered for them, what it does. */
const ACTIONS = [
  ["Swap", (words) => words.length === 1 && !words[0].negative, ([index]) => startSwap(wordElement(index))],
  ["Place", (words) => !words[0].negative, (selection) => place(selection)],
  ["Mask", () => true, (selection) => set({ mask: { words: selection, threshold: 0.5 } })],
  ["Unpin", () => true, () => set({ pinned: null, mask: null })],
];

let facts;
let actions;

/** Build the line and keep it equal to the state. */
export function buildReading() {
  facts = make("p");
  // The buttons stay the same elements: one that Tab goes to while the numbers change keeps the focus.
  actions = make("p", { class: "actions" }, ACTIONS.map(([text, , act]) => make("button", { type: "button", class: "link", onclick: () => act(selected()) }, text)));
  fill(find("#reading"), facts, actions);
  on(["view", "hovered", "pinned", "step", "busy"], build);
  build();
}

function build() {
  const { view, hovered, pinned, step } = state;
  const selection = selected();
  const maps = view?.maps;
  const known = Boolean(maps?.has(selection));
  facts.className = known ? "facts" : "hint";
  actions.hidden = !known || Boolean(hovered && !pinned);
  if (!known) {
    fill(facts, maps ? hint() : waiting(view));
    return;
  }
  const words = selection.map((index) => maps.words[index]);
  const field = maps.phrase(selection, step);
  const { x, y } = maps.peak(field);
  const place = PLACES[Math.min(2, Math.floor(y * 3))][Math.min(2, Math.floor(x * 3))];
  const covered = field.reduce((count, value) => count + (value >= 0.5), 0) / field.length;
  const share = words.reduce((sum, word) => sum + (word.share ?? 0), 0);
  fill(facts, [
    make("b", {}, maps.name(selection)),
    fact("peak", place, "Where the word is strongest"),
    fact("area", percent(covered), "Part of the picture with at least half of the peak"),
    fact("share", percent(share), "Of the attention that all words get"),
    found(words),
    step === null ? absent(words) : fact("at step", String(step + 1)),
  ]);
  ACTIONS.forEach(([, offered], place) => {
    actions.children[place].hidden = !offered(words);
  });
}

const selected = () => state.hovered ?? state.pinned;

/** Return the fact that the prompt had a word at a part of the steps only (a scheduled prompt). */
function absent(words) {
  const count = Math.max(0, ...words.map((word) => word.absent_steps?.length ?? 0));
  return count ? fact("no map at", count === 1 ? "1 step" : `${count} steps`) : null;
}

/** Return the fact how probable it is that one word's thing is in the picture, where it is known. */
function found(words) {
  const [word] = words;
  if (words.length !== 1 || typeof word.found !== "number") return null;
  const missing = word.is_missing ? ", missing" : "";
  return fact("found", percent(word.found) + missing, "Probability that the thing is in the picture");
}

const fact = (name, value, title) => make("span", { class: "fact", title }, make("i", {}, name), value);
const percent = (share) => `${share < 0.1 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

function hint() {
  if (matchMedia("(hover: none)").matches) return "Tap a word to see where it lands, slide to weigh it. Tap the picture to ask the other way round.";
  return "Rest on a word to see where it lands. Click to pin, double-click to swap, slide to weigh. Point at the picture to ask the other way round.";
}

function waiting(view) {
  if (!view) return "";
  if (awaitsMaps(view)) return "Reading its heat maps\u2026";
  return state.busy ? "" : "This picture has no heat maps. Draw it again to look inside.";
}
