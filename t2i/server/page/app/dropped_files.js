// Pictures that were dropped in, kept by the browser, so that a reload and undo find them again.

const DATABASE = "t2i";
const FILES = "files";
const PREFIX = "file:";
const MAX_KEPT = 8;
const UPLOADS_LAST_MS = 23 * 3600 * 1000; // the server keeps an upload for a day
const inMemory = new Map(); // id -> record, where the browser keeps nothing

/** Whether an id is that of a picture that was dropped in. */
export const isDropped = (id) => id?.startsWith(PREFIX) ?? false;

/** Return the id of a picture that is dropped in now; they sort by their age. */
export const newDroppedId = () => `${PREFIX}${Date.now().toString().padStart(16, "0")}`;

/**
 * Keep a record {file, found, brought, formIds} under its id, and forget the oldest of too many.
 * brought: field of the request -> identifier of an upload, which expires
 * formIds: of the form's parts that are the request's, as app/store.js returns them
 */
export async function keepDropped(id, values) {
  const record = { ...values, keptAt: Date.now() };
  inMemory.set(id, record);
  try {
    await inStore("readwrite", async (store) => {
      store.put(record, id);
      const ids = await result(store.getAllKeys());
      ids.slice(0, -MAX_KEPT).forEach((old) => store.delete(old));
    });
  } catch {
    // Private windows and full disks: it is there until the page is closed.
  }
}

/** Return the record of an id; undefined for one that was forgotten. */
export async function readDropped(id) {
  const record = (await inStore("readonly", (store) => result(store.get(id))).catch(() => undefined)) ?? inMemory.get(id);
  if (!record || Date.now() - record.keptAt < UPLOADS_LAST_MS) return record;
  return { ...record, brought: {} };
}

async function inStore(mode, action) {
  const opening = indexedDB.open(DATABASE, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(FILES);
  const database = await result(opening);
  try {
    const transaction = database.transaction(FILES, mode);
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const answer = await action(transaction.objectStore(FILES));
    await done;
    return answer;
  } finally {
    database.close();
  }
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
