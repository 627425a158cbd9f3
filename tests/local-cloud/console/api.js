// Calls the API of the console, which docs/console-api.md describes.

import { toast } from "./dom.js";

export async function call(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(`/api/v1${path}`, options);
  const text = await response.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    value = { error: text };
  }
  if (!response.ok) throw new Error(value?.error ?? `${response.status} ${response.statusText}`);
  return value;
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
export const remove = (path) => call("DELETE", path);

// Runs a person's action, and shows its error, if any.
export async function attempt(work, button) {
  if (button) button.disabled = true;
  try {
    return await work();
  } catch (error) {
    toast(error.message, "bad");
    return undefined;
  } finally {
    if (button) button.disabled = false;
  }
}

const polls = new WeakMap();

// Calls `work` now and at intervals while an element is in the page, or until `poll` is called for it again.
export function poll(element, millis, work) {
  const current = Symbol("poll");
  polls.set(element, current);
  const run = async () => {
    if (polls.get(element) !== current || !element.isConnected) return;
    try {
      if (!document.hidden) await work();
    } catch {
      // The connection's state shows the error.
    }
    setTimeout(run, millis);
  };
  queueMicrotask(run);
}
