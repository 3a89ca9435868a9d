// Which words light up, and how long it takes from the event to the drawn overlay.

import { set } from "../app/store.js";

let since = null;

/** Light words (their indices in the maps), or none for null; `event` is where the time is counted from. */
export function hover(selection, event) {
  if (selection && event) since = event.timeStamp;
  set({ hovered: selection });
}

/** Note that the overlay is drawn: a measure that the browser's performance tools show. */
export function overlayDrawn() {
  if (since === null) return;
  const start = since;
  since = null;
  // The message comes after the frame that shows the overlay.
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => performance.measure("t2i:hover-to-overlay", { start, end: performance.now() });
    port2.postMessage(null);
  });
}
