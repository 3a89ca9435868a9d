// Another word typed over one: it is swapped in the picture, everything else stays.

import { complain } from "../app/alerts.js";
import { make } from "../app/dom.js";
import { state } from "../app/store.js";
import { changeEdit } from "./edit.js";

/** Put a field in the place of a word's name; Enter swaps, Escape leaves it. */
export function buildSwap(element) {
  const name = element.querySelector(".word-name");
  const word = name.textContent;
  const field = make("input", { type: "text", class: "swap", value: word, size: Math.max(4, word.length + 2), spellcheck: false, "aria-label": `Word instead of ${word}` });
  let ended = false;
  const end = (commit) => {
    if (ended) return;
    ended = true;
    const wanted = field.value.trim();
    field.replaceWith(name);
    if (commit && wanted !== word) swap(element.dataset, word, wanted).catch(complain);
    else name.focus();
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") end(true);
    else if (event.key === "Escape") end(false);
    else return;
    event.preventDefault();
  });
  field.addEventListener("input", () => {
    field.size = Math.max(4, field.value.length + 2);
  });
  field.addEventListener("blur", () => end(true));
  name.replaceWith(field);
  field.focus();
  field.select();
}

/** Swap a word of the picture's prompt; no word at all takes it out. */
async function swap({ start, text }, old, wanted) {
  const { view, changes } = state;
  const from = Number(start);
  const prompt = `${view.prompt.slice(0, from)}${wanted}${view.prompt.slice(from + old.length)}`.replace(/ {2,}/g, " ").trim();
  const weights = { ...changes.weights };
  delete weights[text];
  await changeEdit({ prompt, weights });
}
