// Which word of the source each word of the edit comes from, and its correction: choose a word of the
// edit, then the word of the source that it comes from, or "new".

import { complain } from "../app/alerts.js";
import { fill, make } from "../app/dom.js";
import { plain } from "./corrections.js";
import { changeEdit } from "./edit.js";

const NEW = "new";
let open = false;
let chosen = null; // the word of the edit that is being corrected

/** Build the alignment of an edit: {source, target, origins}, words as alignments name them. */
export function buildAlignment({ source, target, origins }, corrections) {
  if (!target.includes(chosen)) chosen = null;
  const room = make("div", { class: "alignment" });
  const show = (focus) => {
    fill(
      room,
      make("p", { class: "hint" }, chosen ? `Where does \u201c${plain(chosen)}\u201d come from?` : "Each word with the word of the source that it comes from. Click one to correct it."),
      make("ol", { class: "aligned", "aria-label": "Words of the edit" }, target.map((word, place) => targetWord(word, source[origins[place]], word in corrections, choose))),
      chosen ? make("div", { class: "origins", role: "group", "aria-label": `Where ${plain(chosen)} comes from` }, originButtons(source, target, origins, corrections)) : null,
      Object.keys(corrections).length ? make("button", { type: "button", class: "link", onclick: () => correct({}) }, "Automatic again") : null,
    );
    if (focus) room.querySelector(focus)?.focus();
  };
  const choose = (word) => {
    chosen = chosen === word ? null : word;
    show(chosen ? ".origins [aria-pressed='true']" : `[data-word="${CSS.escape(word)}"]`);
  };
  room.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !chosen) return;
    event.preventDefault();
    choose(chosen);
  });
  show();
  return make("details", { class: "how words-from", open, ontoggle: (event) => (open = event.target.open) }, make("summary", {}, "Alignment of the words"), room);
}

function targetWord(word, origin, corrected, choose) {
  const from = origin === undefined ? NEW : plain(origin);
  return make("li", {}, make("button", {
    type: "button", class: corrected ? "corrected" : "", "aria-pressed": String(word === chosen),
    "aria-label": `${plain(word)}: ${from === NEW ? "new" : `from ${from}`}${corrected ? ", by hand" : ""}`,
    "data-word": word, onclick: () => choose(word),
  }, make("b", {}, plain(word)), make("small", { class: origin === undefined ? "none" : "" }, from)));
}

function originButtons(source, target, origins, corrections) {
  const now = origins[target.indexOf(chosen)];
  const button = (text, origin, current) => make("button", {
    type: "button", "aria-pressed": String(current),
    onclick: () => correct({ ...corrections, [chosen]: origin }),
  }, text);
  return [...source.map((word, place) => button(plain(word), word, place === now)), button(NEW, null, now === null)];
}

function correct(alignment) {
  chosen = null;
  changeEdit({ alignment }).catch(complain);
}
