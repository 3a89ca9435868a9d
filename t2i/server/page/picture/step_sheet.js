// The pictures of the steps, cut out of their sheet: steps side by side, pictures under each other.

/** Return an address for each step's picture of one row of a sheet. */
export async function sliceSheet(source, { steps, width, height, row }) {
  const response = await fetch(source, { credentials: "same-origin" });
  if (!response.ok) return null;
  const blob = await response.blob();
  const cut = async (step) => {
    const bitmap = await createImageBitmap(blob, step * width, row * height, width, height);
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    return URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  };
  const addresses = [];
  for (let step = 0; step < steps; step += 1) addresses.push(await cut(step));
  return addresses;
}
