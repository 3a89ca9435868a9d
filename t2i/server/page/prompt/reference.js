// The reference picture of the next picture, whose look it takes over: how strongly, at which steps,
// and under which words the model reads it.

import { fill, make } from "../app/dom.js";
import { on, setForm, state } from "../app/store.js";
import { takeFormPicture } from "../keep/restore.js";
import { slider, stepSliders, textField } from "./fields.js";
import { picturePlace, storePicture, takeDrops } from "./picture_place.js";

const NOUN = "reference picture";
const AS_GIVEN = Object.freeze({ prompt: "", scale: 1, steps: [0, 1] });

let room;
let card;
let shown = ""; // what the card was built from

/** Build the folded part of the form. */
export function buildReference() {
  card = make("div", { class: "reference" });
  takeDrops(card, bring);
  room = make("details", { class: "more" }, make("summary", {}, "Reference picture"), card);
  on(["form", "view"], show);
  show();
  return room;
}

const patch = (values) => setForm({ reference: { ...AS_GIVEN, ...state.form.reference, ...values } });

function show() {
  const { reference } = state.form;
  // Sliders keep the pointer: only another picture builds the card anew.
  const wanted = JSON.stringify([Boolean(state.view?.picture), reference?.id, reference?.image]);
  if (wanted !== shown) {
    if (reference && !card.querySelector(".row")) room.open = true;
    shown = wanted;
    build(reference);
  }
  if (reference) card.follow(reference);
}

function build(reference) {
  const place = picturePlace(reference?.image ?? null, { noun: NOUN, empty: "Drop a picture here, and the next one takes over its look", bring });
  if (!reference) {
    fill(card, place);
    return;
  }
  const strength = slider("Strength", { min: "0", max: "4", step: "0.1" }, (scale) => patch({ scale }));
  const shares = stepSliders(() => state.form.reference.steps, (steps) => patch({ steps }));
  const prompt = textField("Read under the words", { placeholder: "none; or what it shows" }, (text) => patch({ prompt: text }));
  const less = make("button", { type: "button", class: "link", onclick: () => setForm({ reference: null }) }, "Leave it out");
  fill(card, place, strength.row, shares.rows, prompt.row, make("div", { class: "buttons" }, less));
  card.follow = ({ scale, steps, prompt: words }) => {
    strength.follow(scale, String(scale));
    shares.follow(steps);
    prompt.follow(words);
  };
}

/** Take a file as the reference picture, unless that for which it was chosen was left out meanwhile. */
async function bring(blob, name) {
  const asked = state.form.reference?.id;
  const stored = await storePicture(blob, name, NOUN);
  if (asked && state.form.reference?.id !== asked) return;
  patch({ image: { id: stored.id, name: stored.name ?? name } });
  await takeFormPicture(state.form.reference.id, "image", stored, name);
}
