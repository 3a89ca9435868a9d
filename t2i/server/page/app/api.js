// The server's API (/docs): JSON in and out, errors with the words of the command line.

const ROOT = new URL("api/v1/", document.baseURI);

/** An answer that is no success. `message` says what was given, what was expected and what to do. */
export class ApiError extends Error {
  constructor(message, { status = 0, type = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, type, retryAfter });
  }
}

/** Return the address of a path of the API. */
export const address = (path) => new URL(path, ROOT).href;

/** Call the API and return its JSON. Raises ApiError. */
export async function call(path, { method = "GET", json, body, signal } = {}) {
  const options = { method, body, signal, headers: {}, credentials: "same-origin" };
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Start it again with t2i serve; nothing on this page is lost.");
  }
  const text = await response.text();
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    // Not JSON: a proxy between us and the server answered.
  }
  if (response.ok) return answer;
  throw new ApiError(answer?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`, {
    status: response.status,
    type: answer?.error?.type ?? "",
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

/** Upload a picture and return {id, width, height}. */
export function upload(blob, name = "picture.png") {
  const body = new FormData();
  body.append("file", blob, name);
  return call("uploads", { method: "POST", body });
}

/** Return what the metadata of a picture file say: a request. */
export function readMetadata(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  return call("metadata", { method: "POST", body });
}

export const fileAddress = (id, name) => address(`jobs/${id}/files/${encodeURIComponent(name)}`);
