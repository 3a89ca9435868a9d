// The pictures drawn so far: what the server has, newest first; and undo.

import { complain } from "../app/alerts.js";
import { call } from "../app/api.js";
import { find, fill, icon, make } from "../app/dom.js";
import { formOf } from "../app/draw.js";
import { on, readKept, setForm, state } from "../app/store.js";
import { openJob, rememberPast, travel, viewOf } from "../app/views.js";

const SHOWN = 60;
const LISTED = 200; // with those that have no picture of their own
const KINDS = new Set(["generate", "edit", "invert"]);

let strip;
let undo;
let redo;
let jobs = [];

/** Build the strip, fill it from the server, and keep it equal to the state. */
export function buildHistory() {
  strip = make("ol", { class: "strip" });
  undo = make("button", { type: "button", class: "quiet", "aria-label": "Undo", title: "Undo (Ctrl+Z)", onclick: () => go(false) }, icon("undo"));
  redo = make("button", { type: "button", class: "quiet", "aria-label": "Redo", title: "Redo (Ctrl+Shift+Z)", onclick: () => go(true) }, icon("redo"));
  fill(find("#history"), make("div", { class: "steps-back" }, undo, redo), strip);
  on(["view"], mark);
  document.addEventListener("t2i:drawn", (event) => {
    jobs = [event.detail, ...jobs.filter((job) => job.id !== event.detail.id)];
    build();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("textarea, input[type=text], input[type=number]");
    if (typing || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    go(event.shiftKey);
  });
  build();
  return refresh();
}

/** Ask the server for what it has. */
export async function refresh() {
  const listed = await call(`jobs?limit=${LISTED}`);
  jobs = listed.jobs.filter((job) => job.state === "done" && KINDS.has(job.kind));
  build();
}

function build() {
  const entries = jobs.slice(0, SHOWN).map((job) => thumbnail(viewOf(job), () => openJob(job.id), job));
  const opening = make("li", {}, make("button", {
    type: "button", class: "thumb", "aria-label": "The picture that the page opens with",
    onclick: () => pick(null, () => openJob("opening")),
  }, make("img", { src: new URL("../opening/seed-2.png", import.meta.url).href, alt: "", loading: "lazy" })));
  opening.dataset.id = "opening";
  fill(strip, entries, opening);
  mark();
}

function thumbnail(view, open, job) {
  const label = `${job.kind === "edit" ? "Edit: " : ""}${view.prompt || "photo"}`;
  const item = make("li", {}, make("button", { type: "button", class: `thumb ${job.kind}`, "aria-label": label, title: label, onclick: () => pick(job, open) },
    make("img", { src: view.picture ?? "", alt: "", loading: "lazy" })));
  item.dataset.id = view.id;
  return item;
}

async function pick(job, open) {
  rememberPast();
  try {
    await open();
    setForm(formOfView());
  } catch (error) {
    complain(error);
  }
  mark();
}

/** Return the form that draws the picture on screen again; its seed is kept where it was given. */
function formOfView() {
  const { view, before } = state;
  const request = view.kind === "edit" && before ? { ...before.request, prompt: view.prompt } : view.request;
  const kind = view.kind === "edit" && before?.kind === "generate" ? "generate" : view.kind;
  return { ...formOf(request, { kind, seed: view.seed }), locked: (request.seed ?? null) !== null };
}

async function go(forward) {
  try {
    await travel(forward);
  } catch (error) {
    complain(error);
  }
  mark();
}

function mark() {
  const kept = readKept();
  undo.disabled = !kept.past?.length;
  redo.disabled = !kept.future?.length;
  for (const item of strip.children) {
    const current = item.dataset.id === state.view?.id;
    item.firstChild.setAttribute("aria-current", String(current));
    if (current) bringIntoStrip(item);
  }
}

/** Scroll the strip, and nothing around it, until a picture of it is seen. */
function bringIntoStrip(item) {
  const [room, place] = [strip.getBoundingClientRect(), item.getBoundingClientRect()];
  if (place.left < room.left) strip.scrollLeft += place.left - room.left - 5;
  else if (place.right > room.right) strip.scrollLeft += place.right - room.right + 5;
}
