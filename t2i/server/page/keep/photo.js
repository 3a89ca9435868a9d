// A picture dropped in: one with metadata restores everything; a photo is described and inverted.

import { complain, remark, say } from "../app/alerts.js";
import { readMetadata, upload } from "../app/api.js";
import { find, fill, freshId, make } from "../app/dom.js";
import { drawJob, formOf } from "../app/draw.js";
import { formIds, on, set, setForm, state } from "../app/store.js";
import { keepDropped, newDroppedId } from "../app/dropped_files.js";
import { openJob, rememberPast } from "../app/views.js";
import { awaitsPicture, bringPicture } from "./restore.js";

const UNDESCRIBED_DB = 6; // so far below its autoencoder, a photo's words name little of it

let room;
let chooser;

/** Let pictures be dropped, pasted and chosen. */
export function buildPhoto() {
  room = find("#photo");
  chooser = make("input", { type: "file", accept: "image/png,image/jpeg,image/webp", hidden: true, id: "file", onchange: () => take(chooser.files[0]) });
  find("#open").addEventListener("click", () => chooser.click());
  find("#keep").append(chooser);
  const stage = find("#stage");
  const within = (event) => event.dataTransfer?.types.includes("Files");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (!within(event)) return;
      event.preventDefault();
      stage.classList.add("dropping");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && stage.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    if (!within(event)) return;
    const taken = event.defaultPrevented; // by a control, as its hint
    event.preventDefault();
    stage.classList.remove("dropping");
    if (!taken) take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) take(file);
  });
  on(["photo", "view"], build);
}

async function take(file) {
  if (!file) return;
  chooser.value = "";
  say("Reading the picture…");
  try {
    if (awaitsPicture()) {
      await bringPicture(file);
      say("");
      return;
    }
    const found = await readMetadata(file).catch((error) => {
      if (error.status >= 400 && error.status < 500 && error.status !== 401) return { error };
      throw error;
    });
    if (found.request) await restore(file, found);
    else await bring(file);
    say("");
  } catch (error) {
    say("");
    complain(error);
  }
}

/** Show a picture of ours or another program's, with everything its metadata say in the form. */
async function restore(file, found) {
  const { request, kind, pictures, tool, differences } = found;
  rememberPast();
  const form = formOf(request, { kind, pictures: pictures.map((one) => ({ ...one, id: null })) });
  form.model ??= state.form.model;
  setForm(form);
  const id = newDroppedId();
  await keepDropped(id, { file, found, brought: {}, formIds: formIds() });
  if (differences.length) remark(`This picture was made with ${tool}. Drawn here it may differ:\n${differences.join("\n")}`);
  set({ photo: null });
  await openJob(id);
}

/** Bring a photo: its description is asked for, then it is inverted. */
async function bring(file) {
  const stored = await upload(file, file.name);
  set({ photo: { ...stored, url: URL.createObjectURL(file), name: file.name } });
  room.querySelector("input")?.focus();
}

function build() {
  const { photo, view } = state;
  const inverted = view?.kind === "invert";
  room.hidden = !photo && !inverted;
  if (photo) {
    if (room.dataset.id === photo.id) return;
    room.dataset.id = photo.id;
    const id = freshId("shows");
    const field = make("input", { id, type: "text", required: true, placeholder: "a dog on a white background" });
    fill(
      room,
      make("h2", {}, "Your photo"),
      make("form", { class: "bring-form", onsubmit: (event) => { event.preventDefault(); invert(field.value); } },
        make("img", { src: photo.url, alt: "Your photo" }),
        make("p", { class: "field" }, make("label", { for: id }, "What does it show?"), field),
        make("div", { class: "buttons" },
          make("button", { type: "submit", class: "primary" }, "Look into it"),
          make("button", { type: "button", onclick: () => set({ photo: null }) }, "Cancel"))),
    );
    return;
  }
  delete room.dataset.id;
  if (!inverted) return;
  const { method, replay, autoencoder } = view.data.inversion ?? {};
  const undescribed = autoencoder - replay > UNDESCRIBED_DB;
  const decibels = (name, value) => (Number.isFinite(value) ? make("span", { class: "fact" }, make("i", {}, name), `${value.toFixed(1)} dB`) : null);
  fill(room, make("h2", {}, "Your photo"), make("p", { class: "facts" },
    make("span", { class: "fact" }, make("i", {}, "inverted by"), String(method ?? view.request.method)),
    decibels("from its noise", replay),
    decibels("autoencoder", autoencoder)),
    undescribed ? make("p", { class: "hint" }, "Its words say little of it: edits hold better where they name all that it shows.") : null,
    make("p", { class: "hint" }, "Swap or weigh its words now: what they do not name stays."));
}

async function invert(prompt) {
  const { photo, form } = state;
  const { grammar, model, loras, embeddings } = form;
  const request = { image: photo.id, prompt: prompt.trim(), grammar, loras, embeddings };
  if (model) request.model = model;
  const view = await drawJob("invert", request, {
    label: "Inverting your photo",
    lookInto: (job) => ({ source: job.id, map_steps: true }),
  });
  if (!view) return;
  setForm({ prompt: view.prompt });
  set({ photo: null });
}
