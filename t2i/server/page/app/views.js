// Pictures on screen: made from a job, or from the files that the page opens with.

import { call, fileAddress } from "./api.js";
import { complain } from "./alerts.js";
import { isDropped, readDropped } from "./dropped_files.js";
import { NO_CHANGES, keep, readKept, set, setForm, state } from "./store.js";
import { loadMaps } from "../picture/heat_maps.js";
import { sliceSheet } from "../picture/step_sheet.js";

const OPENING = new URL("../opening/", import.meta.url);
const MAX_PAST = 50;
const OPENING_ID = "opening";
let asked = 0; // how often something was to be shown: the last one is
const sources = new Map(); // id of an edit's job -> its source's view

/**
 * A view: {id, kind, request, seed, prompt, negative, picture, file, width, height, data, files,
 * address, described, sheet, maps, steps}.
 *
 * id: the job's, "opening" for that of the page itself, that of app/dropped_files.js for a picture
 * that was dropped in, null for a photo; address(name): of a file
 * described: of its heat maps, of mapsFrom's job if not its own; maps: HeatMaps once they are loaded
 * sheet: of the pictures of its steps, or null, then that of mapsFrom; steps: their addresses once
 * they are loaded
 */
export function viewOf(job, before = null) {
  const files = job.result?.files ?? [];
  const data = job.result?.data ?? {};
  const request = job.request ?? {};
  const { file, number } = shownFile(job.kind, files);
  const address = (name) => (job.id === OPENING_ID ? new URL(name, OPENING).href : fileAddress(job.id, name));
  const maps = data.maps ?? {};
  return {
    id: job.id,
    kind: job.kind,
    request,
    seed: file?.seed ?? job.seeds?.[0] ?? request.seed ?? null,
    prompt: request.targets?.at(-1) ?? request.prompt ?? request.source_prompt ?? before?.prompt ?? "",
    negative: request.negative_prompt ?? before?.negative ?? "",
    picture: file ? address(file.name) : null,
    file: file?.name ?? null,
    width: file?.width ?? 1,
    height: file?.height ?? 1,
    data,
    files,
    address,
    described: maps[String(number)] ?? maps["0"] ?? null,
    mapsFrom: null,
    sheet: data.steps ? { ...data.steps, row: rowOf(job, number, data.steps, files) } : null,
    maps: null,
    steps: null,
  };
}

/** Return the file of a job that is looked at, and its number among the job's pictures. */
function shownFile(kind, files) {
  const named = (pattern) => files.filter((file) => pattern.test(file.name));
  if (kind === "edit") {
    const targets = named(/^target-\d+\./);
    return { file: targets.at(-1) ?? named(/^source\./)[0], number: targets.length };
  }
  if (kind === "invert") return { file: named(/^reconstruction\./)[0], number: 0 };
  return { file: named(/^(seed-|photo\.)/)[0], number: 0 };
}

/** Return the row of a picture in the sheet of steps: a recorded source has none there. */
function rowOf(job, number, steps, files) {
  const sheet = files.find((file) => file.name === steps.file);
  const rows = sheet?.height ? Math.round(sheet.height / steps.height) : 1;
  return Math.min(rows - 1, job.kind === "edit" && job.request.source ? number - 1 : number);
}

/** Whether the heat maps of a view are on their way. */
export const awaitsMaps = (view) => Boolean(view && !view.maps && !view.loaded && (view.mapsFrom ?? view).described);

/** Load the heat maps of a view, and the pictures of its steps. */
async function load(view) {
  const from = view.mapsFrom ?? view;
  if (!view.maps && from.described) view.maps = await loadMaps(from.described, from.address);
  const { sheet } = view.sheet ? view : from;
  if (!view.steps && sheet) view.steps = await sliceSheet((view.sheet ? view : from).address(sheet.file), sheet);
  return view;
}

/** Show a view at once, and its maps and steps as soon as they are there. */
export async function show(view, { before = null, changes = NO_CHANGES } = {}) {
  asked += 1;
  if (before && view.id) sources.set(view.id, before);
  const sameWords = state.view?.prompt === view.prompt;
  view.changes = changes;
  set({ view, before, changes, step: null, mask: null, placing: null, hovered: null, pinned: sameWords ? state.pinned : null });
  keep({ viewId: view.id });
  try {
    await load(view);
  } catch (error) {
    complain(error);
  }
  view.loaded = true; // or failed to
  if (state.view === view) set({ view: { ...view } });
}

/** Show a picture that was dropped in, and what its metadata say; null if it was forgotten. */
async function openDropped(id) {
  const record = await readDropped(id);
  if (!record) return null;
  const { file, found, brought, formIds } = record;
  const { request, kind, not_restored: lost, pictures } = found;
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  bitmap.close();
  const whole = kind === "generate" && !pictures.length && !lost.length;
  set({ restored: whole ? null : { ...found, id, brought, formIds } });
  await show({
    id,
    kind: "file",
    request,
    seed: request.seed ?? null,
    prompt: request.targets?.at(-1) ?? request.prompt ?? request.source_prompt ?? "",
    negative: request.negative_prompt ?? "",
    picture: URL.createObjectURL(file),
    file: file.name,
    width,
    height,
    data: {},
    files: [],
    described: null,
    sheet: null,
    maps: null,
    steps: null,
  });
  return state.view;
}

/**
 * Fetch a job and show its picture; an edit brings its source along. Null if there is none. What was
 * asked for meanwhile stays on screen.
 */
export async function openJob(id) {
  const number = (asked += 1);
  if (isDropped(id)) return openDropped(id);
  if (id === OPENING_ID) {
    const opening = await openingView();
    if (number === asked) await show(opening);
    return state.view;
  }
  const job = await call(`jobs/${id}`);
  if (job.state !== "done") return null;
  const source = job.kind === "edit" ? job.request.source : null;
  let before = sources.get(id) ?? null;
  if (source && !before) before = await openSource(source);
  const view = viewOf(job, before);
  if (job.kind === "invert") {
    view.mapsFrom = await findInspection(id);
    before = photoOf(view);
  }
  if (!view.picture) return null;
  if (number !== asked) return state.view;
  await show(view, { before, changes: job.kind === "edit" ? changesOf(job.request, before) : NO_CHANGES });
  return view;
}

/** Return the view of the photo that an inversion was given: what the wipe compares it with. */
export function photoOf(view) {
  return { ...view, id: null, kind: "file", picture: view.address("photo.png"), file: "photo.png", maps: null, steps: null };
}

async function openSource(id) {
  try {
    const source = viewOf(await call(`jobs/${id}`));
    if (source.kind === "invert") source.mapsFrom = await findInspection(id);
    return source.picture ? await load(source) : null;
  } catch {
    return null; // It was forgotten since: the edit is shown alone.
  }
}

/** Return the view of the job that looked into an inverted photo: inversion itself keeps no maps. */
async function findInspection(id) {
  const { jobs } = await call("jobs?limit=200");
  const found = jobs.find((job) => job.kind === "inspect" && job.state === "done" && job.request.source === id);
  return found ? viewOf(found) : null;
}

/** Return what an edit's request changes of its source. */
export function changesOf(request, before) {
  const prompt = request.targets?.at(-1) ?? null;
  return {
    prompt: prompt === before?.prompt ? null : prompt,
    weights: request.weights ?? {},
    regions: request.regions ?? [],
    alignment: request.alignment ?? {},
    blend: request.blend ?? null,
    cross: request.cross_replace ?? null,
    self: request.self_replace ?? null,
    fullSize: request.full_size ?? false,
  };
}

/** Return the picture that the page opens with, its words alive: files of the page itself. */
export async function openingView() {
  const job = await (await fetch(new URL("opening.json", OPENING))).json();
  return load(viewOf({ ...job, id: OPENING_ID }));
}

export const isOpening = (view) => view?.id === OPENING_ID;

const now = () => ({ id: state.view?.id ?? OPENING_ID, form: state.form });

/** Remember what is on screen, so that undo returns to it. */
export function rememberPast() {
  keep({ past: [...(readKept().past ?? []), now()].slice(-MAX_PAST), future: [] });
}

/** Go back (or forward) to what was on screen. Returns whether there was something. */
export async function travel(forward = false) {
  const kept = readKept();
  const [from, to] = forward ? ["future", "past"] : ["past", "future"];
  const target = kept[from]?.at(-1);
  if (!target) return false;
  keep({ [from]: kept[from].slice(0, -1), [to]: [...(kept[to] ?? []), now()] });
  setForm(target.form);
  if (!(await openJob(target.id))) complain(new Error("The picture was forgotten since: its settings are in the form."));
  return true;
}
