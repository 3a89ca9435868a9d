// The words that two prompts differ by.

import { isLittle } from "../picture/heat_maps.js";

/** Return the spans of words that two prompts differ by: [[from, to]], by their longest common words. */
export function differences(one, other) {
  const left = one.split(/\s+/);
  const right = other.split(/\s+/);
  const common = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      common[i][j] = left[i] === right[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const spans = [];
  let open = null;
  for (let i = 0, j = 0; i < left.length || j < right.length; ) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      open = null;
      i += 1;
      j += 1;
      continue;
    }
    if (!open) spans.push((open = [[], []]));
    if (j >= right.length || (i < left.length && common[i + 1][j] >= common[i][j + 1])) open[0].push(left[i++]);
    else open[1].push(right[j++]);
  }
  return spans.map(([from, to]) => [from.join(" "), to.join(" ")]);
}

/**
 * Return the words that a local blend names for a word of the source: itself, and what the edit has
 * put in its place.
 */
export function blendOf(word, source, target) {
  if (word === "none" || word.includes(",") || target.toLowerCase().split(/[^\p{L}\p{N}\p{M}_'-]+/u).includes(word)) return word;
  const swapped = differences(source.toLowerCase(), target.toLowerCase()).find(([from]) => from.split(" ").includes(word));
  const now = swapped?.[1].split(" ").filter((one) => one && !isLittle(one)) ?? [];
  return now.length ? `${word},${now.join("+")}` : word;
}
