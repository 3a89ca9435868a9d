// What is on screen, to keep: as command, Python or request to copy; picture, maps, steps to save.

import { complain, say } from "../app/alerts.js";
import { call } from "../app/api.js";
import { find, fill, icon, make } from "../app/dom.js";
import { requestOf } from "../app/draw.js";
import { on, state } from "../app/store.js";
import { isOpening } from "../app/views.js";
import { animate } from "./animation.js";
import { awaitsPicture, withBrought } from "./restore.js";
import { save } from "./save.js";

const FORMS = [["command", "Command"], ["python", "Python"], ["request", "Request"]];
const MIN_SIDE = 256;

let room;

/** Build the panel and keep it equal to the state. */
export function buildKeep() {
  room = find("#keep");
  fill(
    room,
    make("div", { class: "keep-row" },
      make("span", { class: "title" }, "Open"),
      make("button", { type: "button", class: "link", id: "open", title: "Or drop it anywhere, or paste it" }, "A photo, or a picture with metadata")),
    make("div", { class: "keep-row", role: "group", "aria-label": "Copy what is on screen" },
      make("span", { class: "title" }, "Copy as"),
      FORMS.map(([name, text]) => make("button", { type: "button", class: "link", onclick: () => copyAs(name, text) }, text))),
    make("div", { class: "keep-row", role: "group", "aria-label": "Download" },
      make("span", { class: "title" }, "Download"),
      make("button", { type: "button", class: "link", id: "save-picture", onclick: savePicture }, "Picture"),
      make("button", { type: "button", class: "link", id: "save-maps", onclick: saveMaps }, "Maps"),
      make("button", { type: "button", class: "link", id: "save-steps", onclick: () => saveSteps().catch(complain) }, "Steps")),
  );
  on(["view"], enable);
  enable();
}

function enable() {
  const { view } = state;
  find("#save-picture").disabled = !view?.picture;
  find("#save-maps").disabled = isOpening(view) || !view?.maps;
  find("#save-steps").disabled = !view?.steps;
}

/** Return what is on screen as a job: that of the picture, or that of the form before the first. */
function jobOnScreen() {
  const { view, before, form, restored } = state;
  if (view?.kind === "file" && restored?.id === view.id && !awaitsPicture()) {
    return { kind: restored.kind, request: withBrought(restored) };
  }
  if (!view || view.kind === "file") return { kind: "generate", request: requestOf(form) };
  const { source, ...request } = view.request;
  for (const name of ["words_maps", "map_steps"]) delete request[name];
  if (view.kind !== "edit") return { kind: view.kind, request: { ...request, seed: view.seed } };
  if (!source || !before) return { kind: "edit", request };
  // A recorded source is the server's own: for others the edit says what it was recorded from.
  const { prompt, words_maps, map_steps, num, ...sampling } = before.request;
  return { kind: "edit", request: { ...sampling, ...request, source_prompt: prompt, seed: view.seed } };
}

async function copyAs(name, text) {
  try {
    const answer = await call("export", { method: "POST", json: jobOnScreen() });
    openDialog(text, typeof answer[name] === "string" ? answer[name] : JSON.stringify(answer[name], null, 2));
  } catch (error) {
    complain(error);
  }
}

function openDialog(title, text) {
  const dialog = find("#dialog");
  const code = make("pre", { tabIndex: 0 }, text);
  const copy = make("button", {
    type: "button", class: "primary",
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        // Without permission (or over http): selected, so that the keyboard copies it.
        getSelection().selectAllChildren(code);
        say("Selected: Ctrl+C copies it.");
        return;
      }
      copy.textContent = "Copied";
    },
  }, icon("copy"), "Copy");
  fill(dialog, make("h2", { id: "dialog-title" }, `As ${title === "Python" ? title : title.toLowerCase()}`), code,
    make("div", { class: "buttons" }, copy, make("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  dialog.showModal();
}

function savePicture() {
  const { view } = state;
  save(view.picture, view.file ?? "picture.png");
}

function saveMaps() {
  const { view } = state;
  const from = view.mapsFrom ?? view;
  save(from.address(from.described.exact), from.described.exact);
}

async function saveSteps() {
  const { view } = state;
  const scale = Math.max(1, Math.ceil(MIN_SIDE / Math.max(view.width, view.height)));
  const addresses = [...view.steps, view.picture];
  const blob = await animate(addresses, view.width * scale, view.height * scale);
  save(URL.createObjectURL(blob), "steps.png");
}
