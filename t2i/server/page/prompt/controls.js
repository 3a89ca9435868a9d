// Controls of the next picture: networks beside the denoiser, the hint that each reads, how strongly,
// at which steps and where it acts.

import { complain } from "../app/alerts.js";
import { call } from "../app/api.js";
import { fill, freshId, icon, make } from "../app/dom.js";
import { on, setForm, state } from "../app/store.js";
import { takeFormPicture } from "../keep/restore.js";
import { slider, stepSliders, textField } from "./fields.js";
import { ACCEPTED, picturePlace, storePicture, takeDrops } from "./picture_place.js";

const MODES = [
  ["balanced", "Balanced"],
  ["prompt", "The prompt counts more"],
  ["control", "The hint counts more"],
  ["guess", "Guess: the hint alone"],
];
const MAX_CONTROLS = 16; // of one picture

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
  const take = (blob, name) => bring(control.id, blob, name);
  const element = make("fieldset", { class: "control" },
    make("legend", { class: "title" }, `Control ${number + 1}`),
    make("button", {
      type: "button", class: "quiet small", "aria-label": `Take control ${number + 1} away`, onclick: () => change((controls) => controls.filter((one) => one.id !== control.id)),
    }, icon("close")),
    chooseNetwork(control),
    picturePlace(control.image, { noun: "hint", empty: "Drop the picture that it reads here", bring: take }),
  );
  const strength = slider("Strength", { min: "0", max: "2", step: "0.05" }, (value) => patch(control.id, { scale: value }));
  const shares = stepSliders(() => state.form.controls.find((one) => one.id === control.id).steps, (steps) => patch(control.id, { steps }));
  const id = freshId("mode");
  const mode = make("select", { id, onchange: () => patch(control.id, { mode: mode.value }) }, MODES.map(([value, text]) => make("option", { value }, text)));
  const type = textField("Type of the hint", { placeholder: "for a union network: canny, depth, \u2026", maxlength: 200 }, (value) => patch(control.id, { type: value || null }));
  const blocks = textField("Blocks", { placeholder: "all, or as down.2+mid", maxlength: 200 }, (value) => patch(control.id, { blocks: value.split("+").map((name) => name.trim()).filter(Boolean) }));
  const further = make("details", { class: "further", open: Boolean(control.mask || control.type || control.blocks?.length) },
    make("summary", {}, "Place and type"), mask(control), blocks.row, type.row);
  element.append(strength.row, ...shares.rows, make("p", { class: "field" }, make("label", { for: id }, "Mode"), mode), further);
  element.follow = ({ scale, steps, mode: chosen, type: kind, blocks: names }) => {
    type.follow(kind ?? "");
    blocks.follow((names ?? []).join("+"));
    strength.follow(scale, String(scale));
    shares.follow(steps);
    mode.value = chosen;
  };
  takeDrops(element, take);
  return element;
}

/** Where the control acts: a picture, white at full strength, and the ways to bring one. */
function mask(control) {
  const choose = make("input", { type: "file", class: "mask-file", accept: ACCEPTED, hidden: true, onchange: () => bring(control.id, choose.files[0], choose.files[0].name, "mask").catch(complain) });
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

/** Take a file as the hint ("image") or the mask of a control. */
async function bring(id, blob, name, part = "image") {
  const stored = await storePicture(blob, name, part === "image" ? "hint" : "mask");
  patch(id, { [part]: { id: stored.id, name: stored.name ?? name } });
  await takeFormPicture(id, part, stored, name);
}
