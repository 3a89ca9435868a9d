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

/** Show as placeholders what the model does where a field is left open. */
function showDefaults() {
  const model = state.models.find(({ name }) => name === state.form.model);
  for (const name of ["steps", "guidance_scale", "width", "height"]) fields[name].placeholder = model?.[name] ?? "the model's";
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
