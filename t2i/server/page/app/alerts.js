// Errors that stay until they are read, and the quiet line that says what goes on.

import { find, icon, make } from "./dom.js";

/** Show an error: what was given, what was expected, what to do. The same one is shown once. */
export function complain(error) {
  if (error?.name === "AbortError") return;
  show(error?.message ?? String(error), "alert");
}

function show(text, role) {
  const room = find("#alerts");
  for (const shown of room.children) if (shown.dataset.text === text) shown.remove();
  const alert = make(
    "div",
    { class: "alert", role },
    make("p", {}, text),
    make("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => alert.remove() }, icon("close")),
  );
  alert.dataset.text = text;
  room.append(alert);
  while (room.children.length > 3) room.firstChild.remove();
}

/** Show a remark that is no error, such as what may differ. */
export const remark = (text) => show(text, "status");

/** Take away the errors: something worked since. */
export function clearAlerts() {
  for (const alert of find("#alerts").querySelectorAll("[role=alert]")) alert.remove();
}

/** Say what goes on, for eyes and screen readers. */
export function say(text) {
  find("#status").textContent = text;
}
