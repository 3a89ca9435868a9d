// Controls of the next picture: networks beside the denoiser, the hint that each reads, how strongly,
// at which steps and where it acts.

import { complain, say } from "../app/alerts.js";
import { call, upload } from "../app/api.js";
import { fill, freshId, icon, make } from "../app/dom.js";
import { on, setForm, state } from "../app/store.js";
import { takeControlPicture } from "../keep/restore.js";

const MODES = [
  ["balanced", "Balanced"],
  ["prompt", "The prompt counts more"],
  ["control", "The hint counts more"],
  ["guess", "Guess: the hint alone"],
];
const MAX_CONTROLS = 16; // of one picture

const addresses = new Map(); // id of an upload -> address of the picture, for those of this visit
let networks = [];
let room;
let list;
let shown = ""; // what the cards were built from

/** Build the folded part of the form; it stays hidden where the server has no networks. */
export function buildControls() {
  list = make("div", { class: "control-list" });
  const more = make("button", { type: "button", class: "add-control", onclick: () => change((controls) => [...controls, emptyControl()]) }, "Add a control");
  room = make("details", { class: "more controls", hidden: true }, make("summary", {}, "Controls"), list, make("div", { class: "buttons" }, more));
  on(["form", "view"], () => show(more));
  load().then(() => show(more)).catch(complain);
  return room;
}

async function load() {
  ({ controls: networks } = await call("controls"));
}

const emptyControl = () => ({ name: networks[0], image: null, mask: null, scale: 1, steps: [0, 1], mode: "balanced" });

function change(made) {
  setForm({ controls: made(state.form.controls ?? []) });
}

const patch = (id, values) => change((controls) => controls.map((one) => (one.id === id ? { ...one, ...values } : one)));

function show(more) {
  const controls = state.form.controls ?? [];
  room.hidden = !networks.length && !controls.length;
  more.disabled = controls.length >= MAX_CONTROLS || !networks.length;
  // Sliders keep the pointer: only what adds or takes away fields builds them anew.
  const wanted = JSON.stringify([networks, Boolean(state.view?.picture), controls.map(({ scale, steps, type, blocks, ...rest }) => rest)]);
  if (wanted !== shown) {
    if (controls.length && !list.children.length) room.open = true;
    shown = wanted;
    fill(list, controls.map(card));
  }
  list.querySelectorAll(".control").forEach((element, number) => element.follow(controls[number]));
}

function card(control, number) {
  const element = make("fieldset", { class: "control" },
    make("legend", { class: "title" }, `Control ${number + 1}`),
    make("button", {
      type: "button", class: "quiet small", "aria-label": `Take control ${number + 1} away`, onclick: () => change((controls) => controls.filter((one) => one.id !== control.id)),
    }, icon("close")),
    chooseNetwork(control),
    hint(control),
  );
  const strength = slider("Strength", { min: "0", max: "2", step: "0.05" }, (value) => patch(control.id, { scale: value }));
  const stepsNow = () => state.form.controls.find((one) => one.id === control.id).steps;
  const from = slider("From", { min: "0", max: "0.95", step: "0.05" }, (value) => patch(control.id, { steps: [value, Math.max(stepsNow()[1], rounded(value + 0.05))] }));
  const until = slider("Until", { min: "0.05", max: "1", step: "0.05" }, (value) => patch(control.id, { steps: [Math.min(stepsNow()[0], rounded(value - 0.05)), value] }));
  const id = freshId("mode");
  const mode = make("select", { id, onchange: () => patch(control.id, { mode: mode.value }) }, MODES.map(([value, text]) => make("option", { value }, text)));
  const type = textField("Type of the hint", "for a union network: canny, depth, \u2026", (value) => patch(control.id, { type: value || null }));
  const blocks = textField("Blocks", "all, or as down.2+mid", (value) => patch(control.id, { blocks: value.split("+").map((name) => name.trim()).filter(Boolean) }));
  const further = make("details", { class: "further", open: Boolean(control.mask || control.type || control.blocks?.length) },
    make("summary", {}, "Place and type"), mask(control), blocks.row, type.row);
  element.append(strength.row, from.row, until.row, make("p", { class: "field" }, make("label", { for: id }, "Mode"), mode), further);
  element.follow = ({ scale, steps, mode: chosen, type: kind, blocks: names }) => {
    type.follow(kind ?? "");
    blocks.follow((names ?? []).join("+"));
    strength.follow(scale, String(scale));
    from.follow(steps[0], percent(steps[0]));
    until.follow(steps[1], percent(steps[1]));
    mode.value = chosen;
  };
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault(); // the page takes no picture that a part of it has taken
    bring(control.id, file, file.name).catch(complain);
  });
  return element;
}

const rounded = (value) => Math.round(100 * value) / 100;
const percent = (share) => `${Math.round(100 * share)} % of the steps`;

function slider(text, limits, act) {
  const id = freshId("control");
  const output = make("output", {});
  const field = make("input", { id, type: "range", ...limits, oninput: () => act(Number(field.value)) });
  const follow = (value, words) => {
    if (Number(field.value) !== value) field.value = String(value);
    output.textContent = words;
  };
  return { row: make("p", { class: "row" }, make("label", { for: id }, text), field, output), follow };
}

function textField(text, placeholder, act) {
  const id = freshId("control");
  const field = make("input", { id, type: "text", placeholder, maxlength: 200, onchange: () => act(field.value.trim()) });
  const follow = (value) => {
    if (document.activeElement !== field) field.value = String(value);
  };
  return { row: make("p", { class: "field" }, make("label", { for: id }, text), field), follow };
}

/** Where the control acts: a picture, white at full strength, and the ways to bring one. */
function mask(control) {
  const choose = make("input", { type: "file", class: "mask-file", accept: "image/png,image/jpeg,image/webp", hidden: true, onchange: () => bring(control.id, choose.files[0], choose.files[0].name, "mask").catch(complain) });
  const given = control.mask;
  const name = given ? (given.name ?? "a mask of an earlier visit") : "Everywhere";
  const less = given ? make("button", { type: "button", class: "link", onclick: () => patch(control.id, { mask: null }) }, "Act everywhere") : null;
  return make("div", { class: "mask-place" },
    make("p", { class: "mask-name" }, given && !given.id ? `${name}, still to be brought` : name),
    make("button", { type: "button", class: "link", onclick: () => choose.click() }, given?.id ? "Choose another mask" : "Choose a mask"), less,
    choose);
}

function chooseNetwork(control) {
  const id = freshId("network");
  const names = networks.includes(control.name) ? networks : [control.name, ...networks];
  const field = make("select", { id, onchange: () => patch(control.id, { name: field.value }) }, names.map((name) => make("option", { value: name }, name)));
  field.value = control.name;
  return make("p", { class: "field" }, make("label", { for: id }, "Network"), field);
}

/** The hint: its picture, and the ways to bring one. */
function hint(control) {
  const { image } = control;
  const choose = make("input", { type: "file", class: "hint-file", accept: "image/png,image/jpeg,image/webp", hidden: true, onchange: () => bring(control.id, choose.files[0], choose.files[0].name).catch(complain) });
  const name = image?.name ?? (image ? "a picture of an earlier visit" : "Drop the picture that it reads here");
  const drawn = state.view?.picture ? make("button", { type: "button", class: "link", onclick: () => takeDrawn(control.id).catch(complain) }, "Take the one on screen") : null;
  return make("div", { class: "hint-place" },
    image && addresses.has(image.id) ? make("img", { src: addresses.get(image.id), alt: `Hint ${name}` }) : make("span", { class: "no-hint" }, icon("photo")),
    make("div", {},
      make("p", { class: "hint-name" }, image && !image.id ? `${name}, still to be brought` : name),
      make("button", { type: "button", class: "link", onclick: () => choose.click() }, image?.id ? "Choose another" : "Choose a hint"), drawn),
    choose);
}

/** Take the picture on screen as the hint of a control. */
async function takeDrawn(id) {
  const { picture, file } = state.view;
  const blob = await (await fetch(picture)).blob();
  await bring(id, blob, file ?? "picture.png");
}

/** Take a file as the hint ("image") or the mask of a control. */
async function bring(id, blob, name, part = "image") {
  say(part === "image" ? "Reading the hint\u2026" : "Reading the mask\u2026");
  try {
    const stored = await upload(blob, name);
    addresses.set(stored.id, URL.createObjectURL(blob));
    patch(id, { [part]: { id: stored.id, name: stored.name ?? name } });
    await takeControlPicture(id, part, stored, name);
  } finally {
    say("");
  }
}
