// The prompt: words and tokens as one types, what falls off struck through, weights by Ctrl+up/down.

import { complain } from "../app/alerts.js";
import { call } from "../app/api.js";
import { debounce, find, fill, icon, make } from "../app/dom.js";
import { stop } from "../app/draw.js";
import { on, setForm, state } from "../app/store.js";
import { drawOnScreen } from "../change/redraw.js";
import { buildAlso } from "./also.js";
import { buildControls } from "./controls.js";
import { buildMore } from "./more.js";
import { buildReference } from "./reference.js";
import { weighSelection } from "./weights.js";

const TYPING_MS = 180;

let field;
let behind;
let counter;
let button;
let asked = 0;
let told = "";

/** Build the form of the prompt and keep it equal to the state. */
export function buildPrompt() {
  field = make("textarea", {
    id: "prompt", rows: 3, spellcheck: false, placeholder: "a rocket above a house on a blue background",
    "aria-describedby": "tokens", oninput: typed, onkeydown: press, onscroll: () => { behind.scrollTop = field.scrollTop; },
  });
  behind = make("div", { class: "behind", "aria-hidden": "true" });
  counter = make("p", { class: "tokens", id: "tokens", "aria-live": "off" });
  button = make("button", { type: "submit", class: "primary draw" }, "Draw");
  const form = find("#prompt-form");
  form.noValidate = true; // the server says it better, and what to do
  fill(
    form,
    make("label", { class: "title", for: "prompt" }, "Prompt"),
    make("div", { class: "typed" }, behind, field),
    counter,
    buildAlso(),
    make("div", { class: "buttons" }, button, seedLine()),
    buildControls(),
    buildReference(),
    buildMore(),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    // The button stops what is drawn; Enter draws something newer in its stead.
    if (state.busy && event.submitter === button) stop();
    else drawOnScreen().catch(complain);
  });
  on(["form"], showForm);
  on(["busy", "view"], showButton);
  showForm();
}

function seedLine() {
  const seed = make("input", {
    type: "text", inputMode: "numeric", class: "seed", id: "seed", placeholder: "random", "aria-label": "Seed",
    oninput: () => {
      const digits = seed.value.replace(/\D/g, "");
      setForm({ seed: digits === "" ? null : Number(digits), locked: digits !== "" });
    },
  });
  const lock = make("button", { type: "button", class: "quiet", id: "lock", "aria-label": "Keep this seed", onclick: () => setForm({ locked: !state.form.locked && state.form.seed !== null }) });
  const dice = make("button", {
    type: "button", class: "quiet", id: "dice", "aria-label": "Another seed", title: "Another seed",
    onclick: () => setForm({ seed: crypto.getRandomValues(new Uint32Array(1))[0], locked: true }),
  }, icon("dice"));
  return make("span", { class: "seeds" }, make("span", { class: "seed-name", "aria-hidden": "true" }, "seed"), seed, lock, dice);
}

function showForm() {
  const { form } = state;
  const asking = `${form.prompt}\n${form.model}\n${form.grammar}`;
  if (field.value !== form.prompt) field.value = form.prompt;
  if (asking !== told) tell();
  told = asking;
  const seed = find("#seed");
  if (document.activeElement !== seed) seed.value = form.seed ?? "";
  const lock = find("#lock");
  lock.setAttribute("aria-pressed", form.locked);
  lock.title = form.locked ? "This seed is kept" : "Each picture gets a seed of its own";
  fill(lock, icon(form.locked ? "lock" : "unlock"));
}

function showButton() {
  const drawing = Boolean(state.busy);
  button.textContent = drawing ? "Stop" : state.view?.kind === "invert" ? "Draw without the photo" : "Draw";
  button.classList.toggle("stop", drawing);
}

function typed() {
  fill(behind, field.value);
  setForm({ prompt: field.value });
}

function press(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey || !event.shiftKey)) {
    event.preventDefault();
    find("#prompt-form").requestSubmit();
  } else if (state.form.grammar !== "plain" && (event.ctrlKey || event.metaKey) && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
    event.preventDefault();
    const changed = weighSelection(field.value, field.selectionStart, field.selectionEnd, event.key === "ArrowUp" ? 0.1 : -0.1);
    field.setRangeText(changed.text, changed.from, changed.to, "preserve");
    field.setSelectionRange(changed.start, changed.end);
    typed();
  }
}

/** Ask which tokens the prompt has; an answer to an older text is not shown. */
const tell = debounce(async () => {
  const number = (asked += 1);
  const prompt = field.value;
  if (!prompt.trim()) {
    fill(behind);
    fill(counter);
    return;
  }
  try {
    const answer = await call("tokens", { method: "POST", json: { prompt, model: state.form.model, grammar: state.form.grammar } });
    if (number === asked) showTokens(prompt, answer);
  } catch (error) {
    if (number === asked) fill(counter, make("span", { class: "wrong" }, error.message.split("\n")[0]));
  }
}, TYPING_MS);

/** Show words, tokens and what falls off. */
function showTokens(prompt, answer) {
  const { tokens, words, windows } = answer;
  const lost = words.filter((word) => word.truncated);
  const several = words.filter((word) => word.tokens.length > 1 && !word.truncated);
  const spell = (word) => word.tokens.map((position) => tokens.find((token) => token.position === position)?.text.trim() ?? "?").join("·");
  fill(
    counter,
    `${count(words.length, "word")}, ${count(tokens.length, "token")}`,
    windows > 1 ? ` in ${windows} windows` : "",
    several.length ? make("span", { class: "split" }, ` (${several.slice(0, 3).map(spell).join(", ")}${several.length > 3 ? ", …" : ""})`) : null,
    lost.length ? make("span", { class: "wrong" }, ` ${lost.length === 1 ? "One word does" : `${lost.length} words do`} not fit and will be ignored.`) : null,
  );
  fill(behind, strike(prompt, lost.filter(({ start }) => start !== null)));
}

const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Return the prompt with the spans that fall off struck through. */
function strike(prompt, lost) {
  const parts = [];
  let at = 0;
  for (const { start, end } of lost) {
    parts.push(prompt.slice(at, start), make("s", {}, prompt.slice(start, end)));
    at = end;
  }
  parts.push(prompt.slice(at));
  return parts;
}
