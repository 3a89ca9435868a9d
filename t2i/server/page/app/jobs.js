// A job from its submission to its end: events of the server as callbacks.

import { ApiError, address, call } from "./api.js";

const FINAL = new Set(["done", "failed", "cancelled"]);
const PATIENCE_MS = 60_000;
const MAX_TRIES = 20;

/** Submit a job; a full queue is asked again after the time it names, for a minute. */
export async function submit(kind, request, { signal, waiting } = {}) {
  const begun = performance.now();
  for (;;) {
    try {
      return await call("jobs", { method: "POST", json: { kind, request }, signal });
    } catch (error) {
      const retry = error instanceof ApiError && error.status === 429;
      if (!retry || performance.now() - begun > PATIENCE_MS) throw error;
      waiting?.();
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 1)));
      if (signal?.aborted) throw new DOMException("cancelled", "AbortError");
    }
  }
}

/**
 * Follow a job to its end and return it. Raises ApiError if it failed, AbortError if it was
 * cancelled. `signal` cancels it on the server too.
 */
export function follow(job, { progress, preview, signal } = {}) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(address(`jobs/${job.id}/events`));
    const cancel = () => {
      call(`jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
      end(new DOMException("cancelled", "AbortError"));
    };
    const end = (error, value) => {
      events.close();
      signal?.removeEventListener("abort", cancel);
      error ? reject(error) : resolve(value);
    };
    let tries = 0;
    const finish = async () => {
      try {
        const last = await call(`jobs/${job.id}`);
        if (last.state === "done") end(null, last);
        else if (last.state === "failed") end(new ApiError(last.error?.message ?? "The job failed.", { type: last.error?.type }));
        else if (last.state === "cancelled") end(new DOMException("cancelled", "AbortError"));
        tries = 0;
      } catch (error) {
        // A server that starts again goes on with its jobs.
        if (error.status === 0 && (tries += 1) < MAX_TRIES) setTimeout(finish, 1500);
        else end(error);
      }
    };
    events.addEventListener("state", (event) => {
      if (FINAL.has(JSON.parse(event.data).state)) finish();
    });
    events.addEventListener("progress", (event) => progress?.(JSON.parse(event.data)));
    events.addEventListener("preview", (event) => preview?.(JSON.parse(event.data)));
    // A stream that the server ended is not tried for ever: what the job became is asked.
    events.addEventListener("error", () => {
      if (events.readyState === EventSource.CLOSED) finish();
      else setTimeout(finish, 1500);
    });
    if (signal?.aborted) cancel();
    signal?.addEventListener("abort", cancel);
  });
}

/** Submit a job and follow it to its end. */
export async function run(kind, request, options = {}) {
  const job = await submit(kind, request, options);
  options.submitted?.(job);
  return follow(job, options);
}
