// Heat maps of a picture's words, decoded once from the atlas, then read and drawn from memory.

/** Maps of all words on one grid: values 0 to 1, each word scaled to its own peak. */
export class HeatMaps {
  /**
   * words: [{text, tokens, negative, peak, share, row, absent_steps}]; steps: their number, or null
   * pixels: the atlas, one byte a value, words under each other, steps beside each other
   */
  constructor({ words, height, width, steps }, pixels, columns) {
    Object.assign(this, { words, height, width, steps, pixels, columns });
    this.fields = new Map();
  }

  /** Return one word's values (height * width, row by row); `step` null for the whole run. */
  word(index, step = null) {
    const key = `${index}/${step}`;
    if (!this.fields.has(key)) this.fields.set(key, this.#read(index, step));
    return this.fields.get(key);
  }

  /** Return the values of several words together: their mean, scaled to its peak. */
  phrase(indices, step = null) {
    if (indices.length === 1) return this.word(indices[0], step);
    const key = `${indices}/${step}`;
    if (!this.fields.has(key)) {
      const sum = new Float32Array(this.height * this.width);
      for (const index of indices) {
        const field = this.word(index, step);
        for (let place = 0; place < sum.length; place += 1) sum[place] += field[place];
      }
      this.fields.set(key, scaled(sum));
    }
    return this.fields.get(key);
  }

  /**
   * Return the words at x, y (0 to 1), the strongest first: [{index, lift}]. lift: how many times the
   * word's mean over the picture its value there is; a word that is everywhere is nowhere strong.
   */
  rank(x, y, step = null) {
    const column = Math.min(this.width - 1, Math.max(0, Math.floor(x * this.width)));
    const row = Math.min(this.height - 1, Math.max(0, Math.floor(y * this.height)));
    return this.words
      .map((_, index) => {
        const field = this.word(index, step);
        const mean = field.reduce((sum, value) => sum + value, 0) / field.length;
        return { index, lift: mean > 0 ? field[row * this.width + column] / mean : 0 };
      })
      .filter(({ index }) => !this.words[index].negative && !isLittle(this.words[index].text))
      .sort((one, other) => other.lift - one.lift);
  }

  /** Return the text of words, as in a phrase. */
  name(indices) {
    return indices.map((index) => this.words[index].text).join(" ");
  }

  /** Whether all of the words have maps here. */
  has(indices) {
    return Boolean(indices?.length) && indices.every((index) => index < this.words.length);
  }

  /** Return where a field is largest: x and y from 0 to 1. */
  peak(field) {
    let best = 0;
    for (let place = 1; place < field.length; place += 1) if (field[place] > field[best]) best = place;
    return { x: ((best % this.width) + 0.5) / this.width, y: (Math.floor(best / this.width) + 0.5) / this.height };
  }

  #read(index, step) {
    const first = (this.words[index].row ?? index) * this.height;
    const read = (column, into) => {
      for (let y = 0; y < this.height; y += 1) {
        const start = (first + y) * this.columns * this.width + column * this.width;
        for (let x = 0; x < this.width; x += 1) into[y * this.width + x] += this.pixels[start + x] / 255;
      }
    };
    const field = new Float32Array(this.height * this.width);
    if (this.columns === 1) read(0, field);
    else if (step !== null) read(Math.min(step, this.columns - 1), field);
    else for (let column = 0; column < this.columns; column += 1) read(column, field);
    return this.columns > 1 && step === null ? scaled(field) : field;
  }
}

const LITTLE = new Set(["a", "an", "the", "of", "to", "on", "in", "at", "and", "with", "is", "by", "for", "its", ",", "."]);

/** Whether a word says little by itself: an article or a preposition. */
export const isLittle = (text) => LITTLE.has(text.toLowerCase());

function scaled(field) {
  const largest = field.reduce((most, value) => Math.max(most, value), 0);
  return largest > 0 ? field.map((value) => value / largest) : field;
}

/** Fetch and decode the maps that a job's data describe; `address` gives that of a file. */
export async function loadMaps(described, address) {
  const response = await fetch(address(described.atlas), { credentials: "same-origin" });
  if (!response.ok) throw new Error("The heat maps of this picture are gone. Draw it again to have them.");
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const pixels = new Uint8Array(bitmap.width * bitmap.height);
  for (let place = 0; place < pixels.length; place += 1) pixels[place] = rgba[place * 4];
  return new HeatMaps(described, pixels, Math.max(1, Math.round(bitmap.width / described.width)));
}
