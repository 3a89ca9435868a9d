// Weights in the grammar of A1111, "(word:1.2)", raised and lowered as one types.

/**
 * Change the weight of the selected words, or of the word at the cursor.
 * Returns {text, from, to, start, end}: what replaces from..to, and the selection afterwards.
 */
export function weighSelection(prompt, start, end, difference) {
  let [from, to] = start === end ? wordAt(prompt, start) : trimmed(prompt, start, end);
  if (from === to) return { text: "", from: start, to: start, start, end };
  const around = enclosing(prompt, from, to);
  let weight = 1;
  let inner = prompt.slice(from, to);
  if (around) {
    ({ from, to, weight, inner } = around);
  }
  weight = Math.round(10 * Math.max(0, weight + difference)) / 10;
  const text = weight === 1 ? inner : `(${inner}:${weight.toFixed(1)})`;
  const shift = weight === 1 ? 0 : 1;
  return { text, from, to, start: from + shift, end: from + shift + inner.length };
}

function wordAt(prompt, place) {
  let from = place;
  let to = place;
  while (from > 0 && /[\p{L}\p{N}'-]/u.test(prompt[from - 1])) from -= 1;
  while (to < prompt.length && /[\p{L}\p{N}'-]/u.test(prompt[to])) to += 1;
  return [from, to];
}

function trimmed(prompt, start, end) {
  const text = prompt.slice(start, end);
  return [start + (text.length - text.trimStart().length), end - (text.length - text.trimEnd().length)];
}

/** Return the "(...:1.2)" whose inside is exactly from..to, or that holds the cursor's word alone. */
function enclosing(prompt, from, to) {
  if (prompt[from - 1] !== "(") return null;
  const closing = /^:(\d+(?:\.\d+)?)\)/.exec(prompt.slice(to));
  if (!closing) return null;
  return { from: from - 1, to: to + closing[0].length, weight: Number(closing[1]), inner: prompt.slice(from, to) };
}
