// An animated PNG of the steps. https://www.w3.org/TR/png-3/#apng-frame-based-animation

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const FRAME_MS = 150;
const LAST_MS = 1600;

/** Return an animated PNG of pictures (addresses), each drawn at `width` x `height`. */
export async function animate(addresses, width, height) {
  const frames = [];
  for (const href of addresses) frames.push(await chunksOf(await drawn(href, width, height)));
  const parts = [new Uint8Array(SIGNATURE)];
  let sequence = 0;
  const header = frames[0].find((chunk) => chunk.type === "IHDR");
  parts.push(chunk("IHDR", header.data), chunk("acTL", numbers(frames.length, 0)));
  frames.forEach((chunks, place) => {
    const control = new Uint8Array(26);
    const view = new DataView(control.buffer);
    view.setUint32(0, sequence++);
    view.setUint32(4, width);
    view.setUint32(8, height);
    view.setUint16(20, place === frames.length - 1 ? LAST_MS : FRAME_MS);
    view.setUint16(22, 1000);
    parts.push(chunk("fcTL", control));
    for (const { data } of chunks.filter(({ type }) => type === "IDAT")) {
      if (place === 0) parts.push(chunk("IDAT", data));
      else parts.push(chunk("fdAT", joined(numbers(sequence++), data)));
    }
  });
  parts.push(chunk("IEND", new Uint8Array()));
  return new Blob(parts, { type: "image/png" });
}

async function drawn(href, width, height) {
  const image = new Image();
  image.src = href;
  await image.decode();
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
}

function chunksOf(png) {
  const view = new DataView(png.buffer);
  const chunks = [];
  for (let at = SIGNATURE.length; at < png.length; ) {
    const length = view.getUint32(at);
    chunks.push({ type: String.fromCharCode(...png.subarray(at + 4, at + 8)), data: png.subarray(at + 8, at + 8 + length) });
    at += 12 + length;
  }
  return chunks;
}

function numbers(...values) {
  const bytes = new Uint8Array(4 * values.length);
  values.forEach((value, place) => new DataView(bytes.buffer).setUint32(4 * place, value));
  return bytes;
}

function joined(one, other) {
  const bytes = new Uint8Array(one.length + other.length);
  bytes.set(one);
  bytes.set(other, one.length);
  return bytes;
}

function chunk(type, data) {
  const named = joined(new TextEncoder().encode(type), data);
  return joined(joined(numbers(data.length), named), numbers(crc32(named)));
}

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = table[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
