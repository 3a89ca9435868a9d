// Edits of the picture by its words: always of its source, whose run is remembered once, so that a
// slider answers as fast as the target alone is drawn. The last request wins.

import { upload } from "../app/api.js";
import { drawJob, stop } from "../app/draw.js";
import { follow, submit } from "../app/jobs.js";
import { NO_CHANGES, set, setForm, state } from "../app/store.js";
import { show } from "../app/views.js";
import { keepCorrections } from "./corrections.js";
import { blendOf } from "./differences.js";

const remembered = new Map(); // id of a picture's view -> promise of the id of its recorded source

/** Change the picture on screen: `patch` is added to what its edit already changes. */
export async function changeEdit(patch) {
  const { view, before } = state;
  const source = view.kind === "edit" && before ? before : view;
  const changes = { ...state.changes, ...patch };
  if (changes.prompt === source.prompt) changes.prompt = null;
  if (!patch.alignment) changes.alignment = keepCorrections(changes.alignment, state.changes.prompt ?? "", changes.prompt ?? "");
  set({ changes });
  if (state.form.prompt === view.prompt) setForm({ prompt: changes.prompt ?? source.prompt });
  if (isNothing(changes)) {
    stop();
    if (source !== view) await show(source, { before: null, changes });
    return;
  }
  const drawn = await drawJob("edit", null, {
    label: "Changing",
    before: source,
    changes,
    quiet: true,
    prepare: async (_, busy) => requestOf(source, await sourceOf(source, busy), changes),
  });
  // Stopped or refused: the sliders go back to what is on screen, unless something newer is drawn.
  if (drawn || state.changes !== changes || state.busy) return;
  remembered.delete(source.id); // the server may have forgotten it
  set({ changes: state.view.changes ?? NO_CHANGES });
}

/** Whether an edit changes nothing of its source. */
export const isNothing = ({ prompt, weights, regions }) => prompt === null && !Object.keys(weights).length && !regions.length;

function requestOf(source, id, changes) {
  const request = { source: id, words_maps: true, map_steps: true };
  if (changes.prompt !== null && changes.prompt !== source.prompt) request.targets = [changes.prompt];
  if (Object.keys(changes.weights).length) request.weights = changes.weights;
  if (changes.regions.length) request.regions = changes.regions;
  if (request.targets && Object.keys(changes.alignment).length) request.alignment = changes.alignment;
  if (changes.blend) request.blend = blendOf(changes.blend, source.prompt, changes.prompt ?? source.prompt);
  if (changes.cross) request.cross_replace = changes.cross;
  if (changes.self) request.self_replace = changes.self;
  if (changes.fullSize) request.full_size = true;
  return request;
}

/** Return the id of the recorded source of a picture; the first time it is recorded. */
function sourceOf(source, busy) {
  if (source.kind === "remember" || source.kind === "invert") return source.id;
  if (!remembered.has(source.id)) {
    const recording = record(source, busy);
    remembered.set(source.id, recording);
    // One that failed is tried again the next time.
    recording.catch(() => remembered.delete(source.id));
  }
  return remembered.get(source.id);
}

/** Record a picture as a source: one drawn from noise is drawn again, any other is inverted. */
async function record(source, busy) {
  const fromNoise = source.kind === "generate" && !source.request.image && !source.request.upscale && !source.request.reference && !source.request.regions?.length;
  const job = await (fromNoise ? submitRemember(source) : submitInvert(source));
  const label = fromNoise ? "Remembering the source" : "Inverting the source";
  const done = await follow(job, { progress: ({ step, steps }) => busy({ step, steps, label }) });
  return done.id;
}

function submitRemember(source) {
  const request = { ...source.request, seed: source.seed, words_maps: true };
  for (const name of ["num", "map_steps"]) delete request[name];
  return submit("remember", request);
}

async function submitInvert(source) {
  const { grammar, model, loras, embeddings } = source.request;
  const picture = await (await fetch(source.picture)).blob();
  const { id } = await upload(picture, source.file);
  return submit("invert", { image: id, prompt: source.prompt, grammar, model, loras, embeddings });
}
