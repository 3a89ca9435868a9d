// The page's start: every component builds itself, then the last visit or the opening is shown.

import { complain } from "./alerts.js";
import { find, fill, icon } from "./dom.js";
import { formOf } from "./draw.js";
import { keep, on, readKept, setForm, state } from "./store.js";
import { openJob, openingView, show } from "./views.js";
import { buildStage } from "../picture/stage.js";
import { buildScrubber } from "../picture/scrubber.js";
import { buildSentence } from "../picture/sentence.js";
import { buildReading } from "../picture/reading.js";
import { buildMask } from "../picture/mask.js";
import { buildPrompt } from "../prompt/prompt_box.js";
import { buildChange } from "../change/panel.js";
import { buildRegions } from "../change/regions.js";
import { buildKeep } from "../keep/keep.js";
import { buildHistory } from "../keep/history.js";
import { buildPhoto } from "../keep/photo.js";
import { buildRestored } from "../keep/restore.js";
import { buildTraining, openTraining } from "../training/training.js";

function buildTheme() {
  const button = find("#theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (readKept().theme ?? (system.matches ? "dark" : "light")) === "dark";
  const apply = () => {
    document.documentElement.dataset.theme = dark() ? "dark" : "light";
    fill(button, icon(dark() ? "sun" : "moon"));
  };
  button.addEventListener("click", () => {
    keep({ theme: dark() ? "light" : "dark" });
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

function buildTabs() {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const choose = (tab, focus) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", chosen);
      other.tabIndex = chosen ? 0 : -1;
      find(`#${other.getAttribute("aria-controls")}`).hidden = !chosen;
    }
    if (focus) tab.focus();
    if (tab.id === "tab-training") openTraining().catch(complain);
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose(tabs[(place + step + tabs.length) % tabs.length], true);
    });
  });
}

async function restore() {
  const kept = readKept();
  if (kept.form) setForm(kept.form);
  on(["form"], () => keep({ form: state.form }));
  if (kept.viewId) {
    try {
      if (await openJob(kept.viewId)) return;
    } catch (error) {
      // Forgotten by the server since: the page opens as the first time.
      if (error.status !== 404) complain(error);
    }
  }
  const opening = await openingView();
  if (!kept.form) setForm({ ...formOf(opening.request, { seed: opening.seed }), locked: false });
  if (!state.view) await show(opening);
}

buildTheme();
buildTabs();
buildStage();
buildScrubber();
buildSentence();
buildReading();
buildPrompt();
buildMask();
buildChange();
buildRegions();
buildKeep();
buildPhoto();
buildRestored();
buildTraining();
restore().catch(complain);
buildHistory().catch(complain);
