// The place of a picture in the form, such as a hint: it, its name, and the ways to bring one.

import { complain, say } from "../app/alerts.js";
import { upload } from "../app/api.js";
import { icon, make } from "../app/dom.js";
import { state } from "../app/store.js";

export const ACCEPTED = "image/png,image/jpeg,image/webp";

const addresses = new Map(); // id of an upload -> address of the picture, for those of this visit

/**
 * Return the place of a picture {id, name} of the form, null while there is none.
 * noun: what it is, such as "hint"; empty: what the place says without one
 * bring(blob, name): takes a file that was chosen, or the picture on screen
 */
export function picturePlace(image, { noun, empty, bring }) {
  const choose = make("input", { type: "file", class: "picture-file", accept: ACCEPTED, hidden: true, onchange: () => bring(choose.files[0], choose.files[0].name).catch(complain) });
  const name = image?.name ?? (image ? "a picture of an earlier visit" : empty);
  const drawn = state.view?.picture ? make("button", { type: "button", class: "link", onclick: () => takeDrawn(bring).catch(complain) }, "Take the one on screen") : null;
  return make("div", { class: "picture-place" },
    image && addresses.has(image.id) ? make("img", { src: addresses.get(image.id), alt: `${capital(noun)} ${name}` }) : make("span", { class: "no-picture" }, icon("photo")),
    make("div", {},
      make("p", { class: "picture-name" }, image && !image.id ? `${name}, still to be brought` : name),
      make("button", { type: "button", class: "link", onclick: () => choose.click() }, image?.id ? "Choose another" : `Choose a ${noun}`), drawn),
    choose);
}

const capital = (noun) => noun[0].toUpperCase() + noun.slice(1);

async function takeDrawn(bring) {
  const { picture, file } = state.view;
  await bring(await (await fetch(picture)).blob(), file ?? "picture.png");
}

/** Let a file that is dropped on an element be brought there, and nowhere else on the page. */
export function takeDrops(element, bring) {
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault(); // the page takes no picture that a part of it has taken
    bring(file, file.name).catch(complain);
  });
}

/** Upload a picture for a place of the form, and return the upload. `noun`: what it is. */
export async function storePicture(blob, name, noun) {
  say(`Reading the ${noun}\u2026`);
  try {
    const stored = await upload(blob, name);
    addresses.set(stored.id, URL.createObjectURL(blob));
    return stored;
  } finally {
    say("");
  }
}
