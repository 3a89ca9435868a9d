// Files to the user's disk.

import { make } from "../app/dom.js";

/** Let the browser save an address under a name. */
export function save(href, name) {
  const link = make("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
