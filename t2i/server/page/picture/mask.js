// A mask made from a word's heat map: to draw anew there, to keep an edit there, to download.

import { complain, say } from "../app/alerts.js";
import { upload } from "../app/api.js";
import { find, fill, freshId, make } from "../app/dom.js";
import { drawJob, formOf, requestOf } from "../app/draw.js";
import { on, set, setForm, state } from "../app/store.js";
import { save } from "../keep/save.js";
import { maskPng } from "./overlay.js";
import { changeEdit } from "../change/edit.js";

let room;
let shown = null;

/** Build the panel of the mask and keep it equal to the state. */
export function buildMask() {
  room = find("#mask");
  on(["mask", "view"], build);
}

function build() {
  const { mask } = state;
  room.hidden = !mask;
  if (!mask) {
    shown = null;
    return;
  }
  const key = String(mask.words);
  if (shown === key) return;
  shown = key;
  const text = state.view.maps.name(mask.words);
  const threshold = freshId("threshold");
  const prompt = freshId("inpaint");
  const wanted = make("input", { id: prompt, type: "text", value: state.view.prompt });
  fill(
    room,
    make("h2", {}, "Mask of ", make("b", {}, text)),
    make("label", { for: threshold }, "Threshold"),
    make("input", {
      id: threshold, type: "range", min: "0.1", max: "0.9", step: "0.01", value: String(mask.threshold),
      oninput: (event) => set({ mask: { ...state.mask, threshold: Number(event.target.value) } }),
    }),
    make("label", { for: prompt }, "Draw there instead"),
    wanted,
    make(
      "div",
      { class: "buttons" },
      make("button", { type: "button", class: "primary", onclick: () => inpaint(wanted.value) }, "Redraw this part"),
      make("button", { type: "button", onclick: () => keepTo(text) }, "Edit only here"),
      make("button", { type: "button", onclick: download }, "PNG"),
      make("button", { type: "button", class: "quiet", onclick: () => set({ mask: null }) }, "Close"),
    ),
  );
}

function png() {
  const { mask, view } = state;
  const { maps } = view;
  return maskPng(maps.phrase(mask.words), maps.width, maps.height, mask.threshold, view.width, view.height);
}

async function download() {
  save(URL.createObjectURL(await png()), "mask.png");
}

async function inpaint(prompt) {
  const { view } = state;
  const blob = await png();
  const form = { ...state.form, prompt, model: view.request.model ?? state.form.model, regions: [] };
  const prepare = async () => {
    const picture = await (await fetch(view.picture)).blob();
    const [image, mask] = await Promise.all([upload(picture, "picture.png"), upload(blob, "mask.png")]);
    return { ...requestOf(form), width: undefined, height: undefined, image: image.id, mask: mask.id, strength: 1 };
  };
  set({ mask: null });
  const drawn = await drawJob("generate", null, { label: "Redrawing a part", before: view, prepare });
  if (drawn) setForm({ ...formOf(drawn.request, { seed: drawn.seed, pictures: taken(drawn.request) }), locked: form.locked });
}

/** The pictures that a part was redrawn from, with names for the form. */
const taken = ({ image, mask }) => [
  { field: "image", id: image, name: "the picture before" },
  { field: "mask", id: mask, name: "the mask" },
];

/** Limit the edits of this picture to the word's place (LocalBlend). */
function keepTo(text) {
  set({ mask: null });
  say(`Edits change the picture only where “${text}” is.`);
  changeEdit({ blend: text }).catch(complain);
}
