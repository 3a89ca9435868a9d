// The tab of training runs, read only: loss, validation, sheets as they come, the config.

import { address, call } from "../app/api.js";
import { complain } from "../app/alerts.js";
import { find, fill, make } from "../app/dom.js";
import { drawChart } from "./chart.js";

const AGAIN_MS = 5000;
const MARGIN = 42; // of a card, on both sides together

let list;
let room;
let chosen = null;
let timer = 0;
let shown = "";

/** Build the tab; it asks for the runs when it is opened, and again while it is open. */
export function buildTraining() {
  list = make("nav", { class: "runs", "aria-label": "Training runs" });
  room = make("section", { class: "run", "aria-label": "Run", "aria-live": "off" });
  fill(find("#panel-training"), list, room);
}

/** Show the runs, and keep the chosen one up to date while the tab is open. */
export async function openTraining() {
  clearInterval(timer);
  timer = setInterval(() => {
    if (find("#panel-training").hidden) clearInterval(timer);
    else if (!document.hidden) refresh().catch(() => {});
  }, AGAIN_MS);
  await refresh();
}

async function refresh() {
  const { runs } = await call("runs");
  if (!runs.length) {
    fill(list);
    fill(room, make("div", { class: "card" }, make("h2", {}, "No runs yet"),
      make("p", { class: "hint" }, "A run appears here as soon as it writes its first line: ", make("code", {}, "t2i train configs/train/embedded.toml"))));
    return;
  }
  chosen = runs.some(({ name }) => name === chosen) ? chosen : runs[0].name;
  fill(list, runs.map((run) => make("button", {
    type: "button", "aria-current": String(run.name === chosen),
    onclick: () => {
      chosen = run.name;
      refresh().catch(complain);
    },
  }, run.name, make("small", {}, `${run.steps === null ? "" : `${run.steps.toLocaleString("en")} ${run.steps === 1 ? "step" : "steps"}, `}${ago(run.updated)}`))));
  showRun(await call(`runs/${encodeURI(chosen)}`));
}

function showRun(run) {
  const key = `${run.name}/${run.records.length}/${run.sheets.length}/${room.clientWidth}`;
  if (key === shown) return;
  shown = key;
  const read = (name) => run.records.filter((record) => Number.isFinite(record[name])).map((record) => [record.step, record[name]]);
  const loss = read("loss");
  const validation = read("validation_loss");
  const remarks = run.records.filter(({ remark }) => remark);
  const sheets = [...run.sheets].reverse();
  fill(
    room,
    make("div", { class: "card" },
      make("h2", {}, run.name),
      make("p", { class: "facts" }, facts(run, loss, validation)),
      drawChart([{ kind: "line", values: loss }, { kind: "points", values: validation }], describe(loss, validation), Math.max(280, room.clientWidth - MARGIN)),
      make("p", { class: "legend", "aria-hidden": "true" }, make("span", {}, make("i"), "loss"),
        validation.length ? make("span", {}, make("i", { class: "dot" }), "validation") : null)),
    remarks.length ? make("div", { class: "card" }, make("h2", {}, "Remarks"), make("ul", {}, remarks.slice(-8).map(({ step, remark }) => make("li", {}, `step ${step}: ${remark}`)))) : null,
    sheets.length ? make("div", { class: "card sheets" }, make("h2", {}, "Sheets"), sheets.map((name) =>
      make("figure", {}, make("img", { src: address(`runs/${encodeURI(run.name)}/sheets/${encodeURIComponent(name)}`), alt: `Pictures of the run: ${name}`, loading: "lazy" }), make("figcaption", {}, name)))) : null,
    make("details", { class: "card" }, make("summary", {}, "Config"), make("pre", { class: "config" }, JSON.stringify(run.config, null, 2))),
  );
}

function facts(run, loss, validation) {
  const last = run.records.at(-1) ?? {};
  const entries = [
    ["step", (last.step ?? 0).toLocaleString("en")],
    ["loss", loss.length ? loss.at(-1)[1].toPrecision(3) : "none yet"],
    validation.length ? ["validation", validation.at(-1)[1].toPrecision(3)] : null,
    last.steps_per_s ? ["rate", `${last.steps_per_s.toPrecision(2)} steps/s`] : null,
  ];
  return entries.filter(Boolean).map(([name, value]) => make("span", { class: "fact" }, make("i", {}, name), value));
}

function describe(loss, validation) {
  if (!loss.length) return "No loss is logged yet";
  const text = `Loss from ${loss[0][1].toPrecision(3)} at step ${loss[0][0]} to ${loss.at(-1)[1].toPrecision(3)} at step ${loss.at(-1)[0]}`;
  return validation.length ? `${text}; validation loss ${validation.at(-1)[1].toPrecision(3)}` : text;
}

function ago(seconds) {
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  const [size, name] = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]].find(([unit]) => passed >= unit) ?? [1, "second"];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(passed / size), name);
}
