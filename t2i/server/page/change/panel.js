// What the edit on screen changes of its source, how, and the way back.

import { complain } from "../app/alerts.js";
import { find, fill, freshId, icon, make } from "../app/dom.js";
import { on, setForm, state } from "../app/store.js";
import { rememberPast, show } from "../app/views.js";
import { buildAlignment } from "./alignment.js";
import { differences } from "./differences.js";
import { changeEdit } from "./edit.js";
import { removeRegion } from "./regions.js";

const KINDS = {
  recolour: "another colour",
  swap: "a word swapped",
  addition: "words added",
  "stronger word": "words weighed",
  other: "other words",
};

let room;
let open = false; // whether How is unfolded

/** Build the panel and keep it equal to the state. */
export function buildChange() {
  room = find("#change");
  on(["changes", "view", "before"], build);
  build();
}

function build() {
  const { view, before, changes } = state;
  const edited = Boolean(before && view?.kind === "edit");
  room.hidden = !edited;
  if (!edited) return;
  const chosen = view.data.chosen?.at(-1);
  const alignment = view.data.alignments?.at(-1);
  const rows = [];
  for (const [from, to] of differences(before.prompt, view.prompt)) {
    rows.push(make("li", {}, make("del", {}, from || "nothing"), " → ", make("ins", {}, to || "nothing")));
  }
  for (const [word, factor] of Object.entries(changes.weights)) {
    rows.push(
      make("li", {}, word, ` ×${factor} `, make("button", {
        type: "button", class: "quiet small", "aria-label": `Reset ${word}`,
        onclick: () => {
          const weights = { ...changes.weights };
          delete weights[word];
          changeEdit({ weights }).catch(complain);
        },
      }, icon("reset"))),
    );
  }
  for (const { words } of changes.regions) {
    rows.push(
      make("li", {}, `${words} in its box `, make("button", {
        type: "button", class: "quiet small", "aria-label": `Take the box of ${words} away`, onclick: () => removeRegion(words),
      }, icon("reset"))),
    );
  }
  fill(
    room,
    make("h2", {}, "Changed", chosen?.change && chosen.change.kind in KINDS && rows.length > changes.regions.length ? make("small", {}, KINDS[chosen.change.kind]) : null),
    make("ul", { class: "changes" }, rows),
    alignment && changes.prompt !== null ? buildAlignment(alignment, changes.alignment) : null,
    make("details", { class: "how", open, ontoggle: (event) => (open = event.target.open) }, make("summary", {}, "How"),
      blend(before, changes, chosen),
      share("cross", "Words look as in the source", changes.cross, chosen?.cross_replace),
      share("self", "Layout kept from the source", changes.self, chosen?.self_replace)),
    make("div", { class: "buttons" },
      make("button", { type: "button", onclick: back }, "Back to the source"),
    ),
  );
}

function back() {
  const { view, before, form } = state;
  rememberPast();
  if (form.prompt === view.prompt) setForm({ prompt: before.prompt });
  show(before).catch(complain);
}

/** The list of places that the edit may change. */
function blend(before, changes, chosen) {
  const id = freshId("blend");
  const words = (before.maps?.words ?? []).map((word) => word.text).filter((text) => text.length > 2);
  const own = (chosen?.blend ?? []).flat().map((word) => `“${word}”`);
  const automatic = changes.blend ? "by the kind of edit" : own.length ? `where ${[...new Set(own)].join(" or ")} is` : "everywhere";
  const options = [["", `Automatic: ${automatic}`], ["none", "Everywhere"], ...new Set(words)].map((entry) =>
    Array.isArray(entry) ? make("option", { value: entry[0] }, entry[1]) : make("option", { value: entry }, `Only where “${entry}” is`),
  );
  const field = make("select", { id, onchange: () => changeEdit({ blend: field.value || null }).catch(complain) }, options);
  const chosenWords = changes.blend ?? "";
  if (![...field.options].some(({ value }) => value === chosenWords)) {
    const names = chosenWords.split(/[,+]/).map((word) => `“${word}”`);
    field.append(make("option", { value: chosenWords }, `Only where ${[...new Set(names)].join(" or ")} is`));
  }
  field.value = chosenWords;
  return make("p", { class: "row" }, make("label", { for: id }, "Changes"), field);
}

/** A slider of a window: the share of the steps up to which the source's maps are kept. */
function share(name, text, value, window) {
  const id = freshId(name);
  const own = Array.isArray(value) ? value[1] : value;
  const percent = (part) => `${Math.round(100 * part)} % of the steps`;
  const field = make("input", {
    id, type: "range", min: "0", max: "1", step: "0.05", value: String(own ?? window?.[1] ?? 0),
    onchange: () => changeEdit({ [name]: [0, Number(field.value)] }).catch(complain),
    oninput: () => {
      output.textContent = percent(field.value);
    },
  });
  const output = make("output", {}, `${percent(own ?? window?.[1] ?? 0)}${own === null ? ", automatic" : ""}`);
  return make("p", { class: "row" }, make("label", { for: id }, text), field, output);
}
