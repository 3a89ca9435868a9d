// Drawing: one job at a time from the page, the last request wins.

import { clearAlerts, complain, say } from "./alerts.js";
import { run } from "./jobs.js";
import { set, setForm, state } from "./store.js";
import { photoOf, rememberPast, show, viewOf } from "./views.js";

let current = null; // AbortController of what is being drawn

/** Stop what is being drawn: the server stops between two steps. */
export function stop() {
  current?.abort();
}

/**
 * Run a job whose picture comes on screen, and return its view; null if it was stopped or failed.
 * A newer call stops this one. `quiet`: keep the picture on screen while it is drawn; `prepare`
 * makes the request; `lookInto` makes that of a second job, which reads the heat maps.
 */
export async function drawJob(kind, request, { label = "Drawing", before, changes, quiet = false, prepare, lookInto } = {}) {
  current?.abort();
  const controller = new AbortController();
  current = controller;
  const { signal } = controller;
  const busy = { step: 0, steps: null, seconds_left: null, preview: null, label, quiet };
  const mine = () => current === controller;
  const showBusy = (patch) => {
    Object.assign(busy, patch);
    if (mine()) set({ busy: { ...busy } });
  };
  showBusy({});
  say(`${label}…`);
  try {
    const complete = prepare ? await prepare(signal, showBusy) : request;
    if (signal.aborted) throw new DOMException("cancelled", "AbortError");
    const job = await run(kind, complete, {
      signal,
      waiting: () => mine() && say("The queue is full; asking again…"),
      progress: ({ step, steps, seconds_left }) => {
        showBusy({ step, steps, seconds_left });
        if (mine()) say(describe(label, step, steps, seconds_left));
      },
      preview: ({ step, png }) => {
        showBusy({ preview: `data:image/png;base64,${png}`, step });
      },
    });
    if (!mine()) return null;
    const looked = lookInto ? await run("inspect", lookInto(job), { signal }) : null;
    if (!mine()) return null;
    clearAlerts();
    rememberPast();
    const view = viewOf(job, before);
    if (looked) view.mapsFrom = viewOf(looked);
    set({ busy: null });
    say("");
    current = null;
    show(view, { before: job.kind === "invert" ? photoOf(view) : before, changes });
    document.dispatchEvent(new CustomEvent("t2i:drawn", { detail: job }));
    return view;
  } catch (error) {
    if (mine()) {
      current = null;
      set({ busy: null });
      say(error.name === "AbortError" ? "Stopped." : "");
    }
    complain(error);
    return null;
  }
}

/** Say how far a job is. */
function describe(label, step, steps, left) {
  const seconds = left ? `, ${left < 1 ? "under a second" : `${Math.round(left)} s`} left` : "";
  return steps ? `${label}: step ${step} of ${steps}${seconds}` : `${label}…`;
}

/** Return the request of a form; fields that are not set are left to the model. */
export function requestOf(form, seed = form.locked ? form.seed : null) {
  const request = { prompt: form.prompt, grammar: form.grammar, words_maps: true, map_steps: true };
  const names = ["model", "preset", "steps", "guidance_scale", "sampler", "width", "height", "guidance_method", "upscale", "strength"];
  for (const name of names) if (form[name] !== null && form[name] !== "") request[name] = form[name];
  if (form.negative_prompt) request.negative_prompt = form.negative_prompt;
  for (const name of ["loras", "embeddings", "regions"]) if (form[name]?.length) request[name] = form[name];
  for (const name of ["image", "mask"]) if (form[name]?.id) request[name] = form[name].id;
  const controls = (form.controls ?? []).map(({ id, image, mask, ...rest }) => ({ ...rest, image: image?.id, ...(mask?.id ? { mask: mask.id } : {}) }));
  if (controls.length) request.controls = controls;
  if (form.reference) {
    const { id, image, ...rest } = form.reference;
    request.reference = { ...rest, image: image?.id };
  }
  if (seed !== null) request.seed = seed;
  return request;
}

/** Draw a form's picture. */
export async function drawForm(form = state.form) {
  if (!form.prompt.trim()) {
    complain(new Error('Got an empty prompt: write what the picture shows, such as "a rocket above a house".'));
    return null;
  }
  for (const name of ["image", "mask"]) {
    if (!form[name] || form[name].id) continue;
    complain(new Error(`Missing ${form[name].name}, from which the picture is drawn: choose it, or take it out of the form.`));
    return null;
  }
  if (form.reference && !form.reference.image?.id) {
    complain(new Error("Missing the reference picture: choose it, or take it out of the form."));
    return null;
  }
  for (const { name, image, mask } of form.controls ?? []) {
    if (image?.id && (!mask || mask.id)) continue;
    complain(new Error(`Missing ${image?.id ? "the mask" : "the hint"} of the control ${name}: choose it, or take the control away.`));
    return null;
  }
  const view = await drawJob("generate", requestOf(form));
  if (view && !state.form.locked) setForm({ seed: view.seed });
  return view;
}

/**
 * Return the form that draws a request again: a job's, or what a picture's metadata say. An edit has
 * its source's form, an inversion that of a picture of its prompt: their photos and boxes are not
 * the form's. `pictures`: {field, name, id} of uploads, the id null for one that is still to be brought
 */
export function formOf(request, { kind = "generate", seed = request.seed ?? null, pictures = [] } = {}) {
  const pick = (name) => request[name] ?? null;
  const generates = kind === "generate";
  const picture = (field, given = request[field]) => {
    const asked = pictures.find((one) => one.field === field);
    if (asked) return { id: asked.id, name: asked.name };
    return given ? { id: given, name: null } : null;
  };
  const controls = (request.controls ?? []).map((control, number) => ({
    scale: 1, steps: [0, 1], mode: "balanced", ...control,
    image: picture(`controls.${number}.image`, control.image),
    mask: picture(`controls.${number}.mask`, control.mask),
  }));
  return {
    ...state.form,
    prompt: request.prompt ?? request.source_prompt ?? "",
    negative_prompt: request.negative_prompt ?? "",
    model: pick("model"),
    preset: pick("preset"),
    steps: pick("steps") ?? pick("num_inference_steps"),
    guidance_scale: pick("guidance_scale"),
    sampler: pick("sampler"),
    width: pick("width"),
    height: pick("height"),
    grammar: request.grammar ?? "a1111",
    guidance_method: pick("guidance_method"),
    loras: request.loras ?? [],
    embeddings: request.embeddings ?? [],
    upscale: pick("upscale"),
    regions: generates ? (request.regions ?? []) : [],
    controls,
    reference: generates && request.reference ? { prompt: "", scale: 1, steps: [0, 1], ...request.reference, image: picture("reference.image", request.reference.image) } : null,
    image: generates ? picture("image") : null,
    mask: generates ? picture("mask") : null,
    strength: generates ? pick("strength") : null,
    seed,
    locked: seed !== null,
  };
}
