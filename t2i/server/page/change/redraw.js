// Draw: the form's picture; where an edit is on screen and its prompt still stands in the form, its
// changes too, so that another seed loses nothing of what was restored or changed.

import { drawForm, drawJob, requestOf } from "../app/draw.js";
import { setForm, state } from "../app/store.js";
import { changesOf } from "../app/views.js";
import { changeEdit, isNothing } from "./edit.js";

const OF_GENERATE = ["words_maps", "map_steps", "image", "mask", "strength", "upscale", "regions", "reference"];

/** Draw what is on screen with the settings of the form. */
export async function drawOnScreen() {
  const { view, before, changes, restored, form } = state;
  if (view?.kind === "file" && restored && restored.kind !== "generate" && form.prompt === promptOf(restored.request)) {
    return drawRestored(restored, form);
  }
  const { image, mask } = view?.request ?? {};
  if (view?.kind === "edit" && !before && [view.prompt, promptOf(view.request)].includes(form.prompt)) {
    return drawRestored({ request: view.request, kind: "edit", brought: image ? { image, mask } : {} }, form);
  }
  // While an edit is drawn, what is on screen may still be its source.
  const source = view?.kind === "edit" ? before : view;
  if (!source || isNothing(changes) || form.prompt !== (changes.prompt ?? source.prompt)) return drawForm();
  if (source.kind !== "invert" && !(await drawForm({ ...form, prompt: source.prompt }))) return null;
  return changeEdit(changes);
}

const promptOf = (request) => request.source_prompt ?? request.prompt;

/** Draw a picture as its metadata say, with the settings of a form. */
export async function drawRestored({ request, kind, brought }, form) {
  if (kind === "generate") return drawForm(form);
  const prompt = promptOf(request);
  const { image, mask } = brought;
  if (image) {
    const sampling = Object.fromEntries(Object.entries(requestOf(form)).filter(([name]) => !OF_GENERATE.includes(name)));
    const { method, fit } = request;
    const photo = await drawJob("invert", { ...sampling, image, ...(mask ? { mask } : {}), prompt, method, fit }, { label: "Inverting your photo", lookInto: (job) => ({ source: job.id, map_steps: true }) });
    if (!photo) return null;
  } else if (!(await drawForm({ ...form, prompt }))) return null;
  if (kind !== "edit") return null;
  setForm({ prompt });
  return changeEdit(changesOf(request, { prompt }));
}
