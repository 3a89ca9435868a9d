// Everything that a picture needs but its prompt, behind one "More".

import { call } from "../app/api.js";
import { complain } from "../app/alerts.js";
import { fill, freshId, make } from "../app/dom.js";
import { on, set, setForm, state } from "../app/store.js";

const GRAMMARS = [["a1111", "A1111"], ["comfy", "ComfyUI"], ["plain", "none: every letter counts"]];

const fields = {};

/** Build the folded part of the form. */
export function buildMore() {
  const details = make("details", { class: "more" }, make("summary", {}, "More"));
  details.append(
    labelled("negative_prompt", "Negative prompt", make("input", { type: "text", placeholder: "what the picture must not show" })),
    labelled("preset", "Preset", make("select")),
    make("div", { class: "grid" },
      labelled("steps", "Steps", make("input", { type: "number", min: "1", max: "1000", step: "1" })),
      labelled("guidance_scale", "Guidance", make("input", { type: "number", step: "0.5", min: "0", max: "100" })),
      labelled("sampler", "Sampler", make("select")),
      labelled("model", "Model", make("select")),
      labelled("width", "Width", make("input", { type: "number", min: "8", step: "8" })),
      labelled("height", "Height", make("input", { type: "number", min: "8", step: "8" })),
      labelled("upscale", "Enlarge", make("input", { type: "text", placeholder: "no; 2 or 2:0.3" })),
      labelled("grammar", "Grammar", make("select", {}, GRAMMARS.map(([value, text]) => make("option", { value }, text))))),
    make("div", { id: "loras", class: "loras" }),
  );
  on(["form"], showForm);
  on(["models"], showModels);
  load().catch(complain);
  return details;
}

function labelled(name, text, field) {
  const id = freshId(name);
  field.id = id;
  field.name = name;
  field.addEventListener("input", () => {
    const number = field.type === "number";
    setForm({ [name]: field.value === "" ? (name === "negative_prompt" ? "" : null) : number ? Number(field.value) : field.value });
  });
  fields[name] = field;
  return make("p", { class: "field" }, make("label", { for: id }, text), field);
}

function showForm() {
  for (const [name, field] of Object.entries(fields)) {
    const value = String(state.form[name] ?? "");
    if (document.activeElement !== field && field.value !== value) field.value = value;
  }
  showDefaults();
}

async function load() {
  const [{ models }, { samplers }, { loras }] = await Promise.all([call("models"), call("samplers"), call("loras")]);
  set({ models });
  fill(fields.sampler, make("option", { value: "" }, "the model's"), samplers.map((name) => make("option", { value: name }, name)));
  showForm();
  showLoras(loras);
}

function showModels() {
  const { models, form } = state;
  fill(fields.model, models.map(({ name }) => make("option", { value: name }, name)));
  if (form.model === null && models.length) setForm({ model: (models.find((model) => model.default) ?? models[0]).name });
  showForm();
}

/** Show as placeholders what the model, or its preset, does where a field is left open. */
function showDefaults() {
  const model = state.models.find(({ name }) => name === state.form.model);
  const preset = showPresets(model);
  const defaults = { ...model, ...preset };
  for (const name of ["steps", "guidance_scale", "width", "height"]) fields[name].placeholder = defaults[name] ?? "the model's";
  const own = fields.sampler.options[0];
  if (own) own.textContent = preset ? (preset.sampler ?? "the model's") : "the model's";
}

/** Offer the presets of a model, where it has any, and return the one that the form names. */
function showPresets(model) {
  const presets = model?.presets ?? [];
  const field = fields.preset;
  field.parentElement.hidden = !presets.length;
  const offered = presets.map(({ name }) => name).join();
  if (field.dataset.offered !== offered || field.dataset.model !== model?.name) {
    Object.assign(field.dataset, { offered, model: model?.name ?? "" });
    fill(field, make("option", { value: "" }, "none: the model's defaults"),
      presets.filter(({ name }) => name !== "exact").map((preset) => make("option", { value: preset.name }, describePreset(preset))));
  }
  const { preset } = state.form;
  // Another model, or a reload: "exact" is what is drawn without any.
  if (model && preset !== null && (preset === "exact" || !presets.some(({ name }) => name === preset))) setForm({ preset: null });
  field.value = state.form.preset ?? "";
  return presets.find(({ name }) => name === state.form.preset) ?? null;
}

/** Say what a preset costs, where that was measured: "fast: 0.45 of the time, 0.4 points worse". */
function describePreset({ name, cost }) {
  if (!cost) return name;
  const points = cost.said === null ? "" : `, ${Math.abs(cost.said).toFixed(1)} points ${cost.said < 0 ? "worse" : "better"}`;
  return `${name}: ${cost.time.toFixed(2)} of the time${points}`;
}

function showLoras(names) {
  const room = document.getElementById("loras");
  if (!names.length) return;
  const rows = names.map((name) => {
    const id = freshId("lora");
    const scale = make("input", {
      id, type: "range", min: "0", max: "1.5", step: "0.05", value: "0",
      oninput: () => {
        const others = state.form.loras.filter((lora) => lora.name !== name);
        const value = Number(scale.value);
        setForm({ loras: value ? [...others, { name, scale: value }] : others });
      },
    });
    const output = make("output", {}, "off");
    const follow = () => {
      const value = state.form.loras.find((lora) => lora.name === name)?.scale ?? 0;
      if (Number(scale.value) !== value) scale.value = String(value);
      output.textContent = value || "off";
    };
    on(["form"], follow);
    follow();
    return make("p", { class: "row" }, make("label", { for: id }, name), scale, output);
  });
  fill(room, make("p", { class: "title" }, "LoRAs"), rows);
}
