// A heat map as light over the picture: dark where the word is not, a warm rim where it begins.

const SIDE = 192; // pixels of the enlarged map; the browser smooths the rest
const ACCENT = [236, 94, 52];
const NIGHT = [12, 14, 20];
const RIM = 2; // pixels of a mask's outline, on each side

const ramp = buildRamp();

/** RGBA for each of 256 values: a dark veil, through the accent, to the bare picture. */
function buildRamp() {
  const colours = new Uint8ClampedArray(256 * 4);
  for (let place = 0; place < 256; place += 1) {
    const value = place / 255;
    const glow = Math.exp(-(((value - 0.5) / 0.13) ** 2));
    const veil = 0.74 * (1 - smoothstep(0.28, 0.78, value));
    const alpha = Math.max(veil, 0.5 * glow);
    const share = alpha > 0 ? (0.5 * glow) / (0.5 * glow + veil + 1e-6) : 0;
    for (let channel = 0; channel < 3; channel += 1) {
      colours[place * 4 + channel] = NIGHT[channel] + (ACCENT[channel] - NIGHT[channel]) * share;
    }
    colours[place * 4 + 3] = 255 * alpha;
  }
  return new Uint32Array(colours.buffer);
}

function smoothstep(low, high, value) {
  const part = Math.min(1, Math.max(0, (value - low) / (high - low)));
  return part * part * (3 - 2 * part);
}

/** Catmull-Rom weights of four neighbours at a position between the middle two. */
function weights(t) {
  return [
    ((-0.5 * t + 1) * t - 0.5) * t,
    (1.5 * t - 2.5) * t * t + 1,
    ((-1.5 * t + 2) * t + 0.5) * t,
    (0.5 * t - 0.5) * t * t,
  ];
}

/** Enlarge one axis of a field: (rows, from) to (rows, to), written with axes swapped. */
function enlarge(field, rows, from, to) {
  const result = new Float32Array(rows * to);
  for (let place = 0; place < to; place += 1) {
    const at = ((place + 0.5) * from) / to - 0.5;
    const left = Math.floor(at);
    const parts = weights(at - left);
    for (let row = 0; row < rows; row += 1) {
      let sum = 0;
      for (let k = 0; k < 4; k += 1) {
        const column = Math.min(from - 1, Math.max(0, left - 1 + k));
        sum += parts[k] * field[row * from + column];
      }
      result[place * rows + row] = sum;
    }
  }
  return result;
}

/** Return a field enlarged to `width` x `height`, bicubic. */
export function resize(field, fieldWidth, fieldHeight, width, height) {
  return enlarge(enlarge(field, fieldHeight, fieldWidth, width), width, fieldHeight, height);
}

const drawn = new WeakMap(); // field -> ImageData: each is computed once

/** Return the overlay of a field; computed ahead for every word, so that hovering only copies it. */
export function paintHeat(field, width, height) {
  if (!drawn.has(field)) {
    const enlarged = resize(field, width, height, SIDE, SIDE);
    const image = new ImageData(SIDE, SIDE);
    const pixels = new Uint32Array(image.data.buffer);
    for (let place = 0; place < enlarged.length; place += 1) {
      pixels[place] = ramp[Math.min(255, Math.max(0, Math.round(enlarged[place] * 255)))];
    }
    drawn.set(field, image);
  }
  return drawn.get(field);
}

/** Draw a field over the canvas, which the page enlarges smoothly. */
export function drawHeat(canvas, field, width, height) {
  if (canvas.width !== SIDE || canvas.height !== SIDE) Object.assign(canvas, { width: SIDE, height: SIDE });
  canvas.getContext("2d").putImageData(paintHeat(field, width, height), 0, 0);
}

/** Draw a mask over the whole canvas: outside it the picture is hatched away. */
export function drawMask(canvas, field, width, height, threshold) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const [columns, rows] = [canvas.width, canvas.height];
  const inside = resize(field, width, height, columns, rows).map((value) => (value >= threshold ? 1 : 0));
  const image = context.createImageData(columns, rows);
  const differs = (place, x, y, own) =>
    (x >= RIM && inside[place - RIM] !== own) || (x < columns - RIM && inside[place + RIM] !== own) ||
    (y >= RIM && inside[place - RIM * columns] !== own) || (y < rows - RIM && inside[place + RIM * columns] !== own);
  for (let place = 0; place < inside.length; place += 1) {
    const x = place % columns;
    const y = Math.floor(place / columns);
    const rim = differs(place, x, y, inside[place]);
    const alpha = rim ? 255 : inside[place] ? 0 : (x + y) % 12 < 2 ? 200 : 150;
    image.data.set([...(rim ? ACCENT : NIGHT), alpha], place * 4);
  }
  context.putImageData(image, 0, 0);
}

/** Return a mask as a PNG of the picture's size: white where the word is. */
export async function maskPng(field, fieldWidth, fieldHeight, threshold, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const enlarged = resize(field, fieldWidth, fieldHeight, width, height);
  for (let place = 0; place < enlarged.length; place += 1) {
    const value = enlarged[place] >= threshold ? 255 : 0;
    image.data.set([value, value, value, 255], place * 4);
  }
  context.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
