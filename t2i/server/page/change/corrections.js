// Corrections of an alignment by hand: word of the edit -> word of the source that it comes from, or null.

/** Keep of corrections those whose words a prompt still has, under the same names. */
export function keepCorrections(corrections, before, now) {
  const [old, left] = [before, now].map((prompt) => prompt.toLowerCase().match(/[\p{L}\p{N}\p{M}_'-]+/gu) ?? []);
  const count = (words, name) => words.filter((word) => word === plain(name)).length;
  return Object.fromEntries(Object.entries(corrections).filter(([word]) => count(left, word) && count(left, word) === count(old, word)));
}

/** The word that an alignment names, without the number of one that stands there several times. */
export const plain = (name) => name.replace(/#\d+$/, "");
