// What the next picture is drawn from beside the fields of the form: a start picture, a mask, boxes,
// learned words, a guidance formula. Each can be taken out.

import { fill, icon, make } from "../app/dom.js";
import { on, setForm, state } from "../app/store.js";

/** Build the list and keep it equal to the form. */
export function buildAlso() {
  const list = make("ul", { class: "changes also", "aria-label": "Also drawn from" });
  const show = () => {
    const entries = alsoOf(state.form);
    list.hidden = !entries.length;
    fill(list, entries.map(([text, less]) => make("li", {}, text, make("button", {
      type: "button", class: "quiet small", "aria-label": `Leave out: ${text}`, onclick: () => setForm(less),
    }, icon("close")))));
  };
  on(["form"], show);
  show();
  return list;
}

/** Return what a form has beside its fields: [text, the change of the form that takes it out]. */
function alsoOf({ image, mask, strength, regions, embeddings, guidance_method: method }) {
  const entries = [];
  const share = strength === null || strength === undefined ? "" : `, changed to ${Math.round(100 * strength)} %`;
  if (image) entries.push([`from ${image.name ?? "a picture"}${share}`, { image: null, mask: null, strength: null }]);
  if (mask) entries.push([`only within ${mask.name ?? "a mask"}`, { mask: null }]);
  for (const region of regions ?? []) entries.push([`${region.words} in its box`, { regions: regions.filter((one) => one !== region) }]);
  for (const word of embeddings ?? []) entries.push([`learned word ${word.token ?? word.name}`, { embeddings: embeddings.filter((one) => one !== word) }]);
  if (method) entries.push([`guidance ${method}`, { guidance_method: null }]);
  return entries;
}
