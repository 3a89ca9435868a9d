// The page's state in one place, and what of it survives a reload.

const KEY = "t2i.page.1";

export const EMPTY_FORM = Object.freeze({
  prompt: "",
  negative_prompt: "",
  model: null,
  preset: null,
  steps: null,
  guidance_scale: null,
  sampler: null,
  width: null,
  height: null,
  seed: null,
  locked: false,
  grammar: "a1111",
  guidance_method: null,
  loras: [],
  embeddings: [],
  controls: [],
  upscale: null,
  regions: [],
  reference: null,
  image: null,
  mask: null,
  strength: null,
});

export const NO_CHANGES = Object.freeze({ prompt: null, weights: {}, regions: [], alignment: {}, blend: null, cross: null, self: null, fullSize: false });

/**
 * form: what the next picture is drawn from; image, mask: {id, name} of an upload, the id null while
 *   the picture is still to be brought; controls: {id, name, image, mask, scale, steps, mode, type, blocks}, their
 *   pictures like those, the id a control's own in the form; reference: {id, image, prompt, scale, steps}, as those
 * view: the picture on screen (app/views.js); before: its source, which the wipe compares it with
 * hovered, pinned: indices in view.maps.words, or null; step: null for the finished picture
 * busy: {step, steps, seconds_left, label} while something is drawn
 * changes: what the edit on screen changes of its source
 * photo: one that is about to be inverted; restored: what the metadata of the picture on screen say
 * mask: {words, threshold} while a mask is made; placing: {words, box} while a box is drawn
 */
export const state = {
  form: { ...EMPTY_FORM },
  view: null,
  before: null,
  hovered: null,
  pinned: null,
  step: null,
  busy: null,
  changes: NO_CHANGES,
  mask: null,
  placing: null,
  photo: null,
  restored: null,
  models: [],
};

const listeners = [];

/** Call `action` after any of the named parts of the state changed. */
export function on(names, action) {
  listeners.push({ names, action });
}

/** Change parts of the state and tell those who asked. */
export function set(patch) {
  const changed = Object.keys(patch).filter((name) => state[name] !== patch[name]);
  if (!changed.length) return;
  Object.assign(state, patch);
  for (const { names, action } of listeners) {
    if (names.some((name) => changed.includes(name))) action(state);
  }
}

/** Change fields of the form; a control or reference without an id gets one. */
export function setForm(patch) {
  const form = { ...state.form, ...patch };
  if (patch.controls) form.controls = patch.controls.map(withId);
  if (patch.reference) form.reference = withId(patch.reference);
  set({ form });
}

/** Return the ids of the form's controls, in their order, and that of its reference: {controls, reference}. */
export const formIds = () => ({ controls: state.form.controls.map(({ id }) => id), reference: state.form.reference?.id ?? null });

const withId = (part) => (part.id ? part : { ...part, id: newId() });

// Forms outlive the page, so that numbers counted from its start would come twice.
const newId = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

/** Return what an earlier visit left: {form, viewId, past, future}; empty without one. */
export function readKept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

/** Keep values for the next visit; where the browser keeps nothing, the page still works. */
export function keep(patch) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...readKept(), ...patch }));
  } catch {
    // Private windows and full disks.
  }
}
