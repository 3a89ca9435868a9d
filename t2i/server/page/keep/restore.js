// A picture with metadata: what it was made with, the photos that are needed to draw it again, and
// what this page cannot repeat, by name.

import { complain, remark } from "../app/alerts.js";
import { upload } from "../app/api.js";
import { find, fill, make } from "../app/dom.js";
import { keepDropped, readDropped } from "../app/dropped_files.js";
import { formOf } from "../app/draw.js";
import { on, set, setForm, state } from "../app/store.js";
import { drawRestored } from "../change/redraw.js";

const SHOWN_DIGITS = 10; // of a SHA-256
const FIELDS = { image: "photo", mask: "mask", "reference.image": "reference picture" };
const OF_CONTROL = /^controls\.(\d+)\.(image|mask)$/;
const nameOf = (field) => (field.startsWith("controls.") ? (field.endsWith("mask") ? "mask" : "hint") : FIELDS[field]);

let room;

/** Build the card of a restored picture and keep it equal to the state. */
export function buildRestored() {
  room = find("#restored");
  on(["restored", "view"], build);
}

/** Whether a picture of the restored request is still to be brought. */
export const awaitsPicture = () => state.view?.kind === "file" && missing(state.restored).length > 0;

const missing = (restored) => (restored?.pictures ?? []).filter(({ field }) => !restored.brought[field]);

/**
 * Take a file as the picture that the restored request needs: by its digest, else that of
 * `field`, else the next one.
 */
export async function bringPicture(file, field = null) {
  const { id } = state.restored;
  const stored = await upload(file, file.name);
  const { restored } = state; // more may have been brought, or another picture opened
  const wanted = missing(restored);
  if (restored?.id !== id || !wanted.length) return;
  const asked = wanted.find(({ sha256 }) => sha256 === stored.sha256) ?? wanted.find((one) => one.field === field) ?? wanted[0];
  putIntoForm(asked.field, { id: stored.id, name: asked.name });
  await take(asked, stored, file.name);
  room.querySelector(".primary")?.focus();
}

/**
 * Take the picture that a control or the reference of the form was given, if the restored request
 * lacks it. `id`: its own in the form; `part`: "image" or "mask".
 */
export async function takeFormPicture(id, part, stored, name) {
  const { restored, view } = state;
  if (view?.kind !== "file" || view.id !== restored?.id) return;
  const { controls, reference } = restored.formIds;
  const field = `${id === reference ? "reference" : `controls.${controls.indexOf(id)}`}.${part}`;
  const asked = restored.pictures.find((one) => one.field === field && (!restored.brought[field] || one.sha256 === stored.sha256));
  if (asked) await take(asked, stored, name);
}

async function take({ field, name: lacking, sha256 }, stored, name) {
  const { restored } = state;
  if (sha256 && sha256 !== stored.sha256) {
    remark(`${name} is another file than ${lacking}: its SHA-256 begins with ${short(stored.sha256)}, not ${short(sha256)}. Drawn from it, the picture will differ.`);
  }
  const brought = { ...restored.brought, [field]: stored.id };
  set({ restored: { ...restored, brought } });
  await keepDropped(restored.id, { ...(await readDropped(restored.id)), brought });
}

/** Return a restored request with the uploads that were brought for it. */
export function withBrought({ request, brought }) {
  const whole = structuredClone(request);
  for (const [field, id] of Object.entries(brought)) {
    const [, number, name] = OF_CONTROL.exec(field) ?? [];
    if (name) whole.controls[number][name] = id;
    else if (field === "reference.image") whole.reference.image = id;
    else whole[field] = id;
  }
  return whole;
}

/** Put a picture of the restored request into the form, unless its place there was taken away. */
function putIntoForm(field, picture) {
  const { form, restored } = state;
  const [, number, name] = OF_CONTROL.exec(field) ?? [];
  if (name) {
    const id = restored.formIds.controls[number];
    setForm({ controls: form.controls.map((one) => (one.id === id && one[name] ? { ...one, [name]: picture } : one)) });
  } else if (field === "reference.image") {
    if (form.reference?.id === restored.formIds.reference) setForm({ reference: { ...form.reference, image: picture } });
  } else if (form[field]) setForm({ [field]: picture });
}

const short = (sha256) => sha256.slice(0, SHOWN_DIGITS);

function build() {
  const { restored, view } = state;
  room.hidden = !restored || view?.kind !== "file";
  if (room.hidden) return;
  const wanted = missing(restored);
  let chosen = null; // field of the request
  const choose = make("input", { type: "file", accept: "image/png,image/jpeg,image/webp", hidden: true, id: "wanted", onchange: () => bringPicture(choose.files[0], chosen).catch(complain) });
  fill(
    room,
    make("h2", {}, "Restored", make("small", {}, `made with ${restored.tool}`)),
    make("ul", { class: "changes" }, describe(restored).map((line) => make("li", {}, line))),
    wanted.map(({ field, name, sha256 }) => make("p", { class: "needed" },
      `It was made from the ${nameOf(field)} ${name}${sha256 ? `, SHA-256 ${short(sha256)}\u2026` : ""}. `,
      make("button", { type: "button", class: "link", onclick: () => { chosen = field; choose.click(); } }, `Choose the ${nameOf(field)}`))),
    restored.not_restored.length ? make("div", { class: "lost" }, make("p", {}, "Not restored:"), make("ul", {}, restored.not_restored.map((line) => make("li", {}, line)))) : null,
    choose,
    make("div", { class: "buttons" }, make("button", { type: "button", class: "primary", disabled: wanted.length > 0, onclick: () => drawAgain().catch(complain) }, "Draw it again")),
  );
}

/** Say what a request does beside its prompt and settings. */
function describe({ kind, request }) {
  const lines = [];
  if (kind === "edit") lines.push(`\u201c${request.source_prompt}\u201d \u2192 \u201c${request.targets[0]}\u201d`);
  for (const [word, factor] of Object.entries(request.weights ?? {})) lines.push(`${word} \u00d7${factor}`);
  for (const { words } of request.regions ?? []) lines.push(`${words} in its box`);
  for (const [word, origin] of Object.entries(request.alignment ?? {})) lines.push(origin === null ? `${word} is new` : `${word} from ${origin}`);
  if (request.blend && request.blend !== "none") lines.push(`only where ${request.blend.replaceAll("+", ", ").replace(",", " or ")} is`);
  for (const { name, scale = 1, steps = [0, 1], mode = "balanced" } of request.controls ?? []) lines.push(controlLine(name, scale, steps, mode));
  if (request.reference) lines.push(`in the look of a reference picture, at ${request.reference.scale ?? 1}`);
  if (request.method) lines.push(`inverted by ${request.method}`);
  if (request.strength) lines.push(`drawn anew to ${Math.round(100 * request.strength)} %`);
  if (request.upscale) lines.push(`enlarged ${request.upscale.split(":")[0]} times`);
  return lines;
}

function controlLine(name, scale, [first, end], mode) {
  const window = first > 0 || end < 1 ? `, ${Math.round(100 * first)} to ${Math.round(100 * end)} % of the steps` : "";
  return `control ${name} at ${scale}${window}${mode === "balanced" ? "" : `, mode ${mode}`}`;
}

/** Draw the picture as it was drawn, whatever the form says meanwhile. */
function drawAgain() {
  const { restored } = state;
  const { request, kind, pictures, brought } = restored;
  const form = formOf(request, { kind, pictures: pictures.map((one) => ({ ...one, id: brought[one.field] ?? null })) });
  return drawRestored(restored, { ...form, model: form.model ?? state.form.model });
}
