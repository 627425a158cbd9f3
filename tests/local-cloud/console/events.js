// The live events, one row each. Only the rows in view are in the page.

import { attempt, get } from "./api.js";
import { badge, el, option, time, word } from "./dom.js";
import { pathView } from "./path.js";

const KEPT = 5000;

export function eventsPanel(stream) {
  const events = new Map();
  let shown = [], selected = null, selectedVersion = 0, paused = false, waiting = [], totals = {};
  const filter = el("input", { type: "search", id: "filter", placeholder: "Thing, topic, function or outcome", "aria-label": "Filter events" });
  const outcome = el("select", { "aria-label": "Outcome" }, option("", "any outcome"),
    ["notification", "done", "pending", "retried", "quarantine", "suppressed", "duplicate", "forwarded", "nothing"].map((kind) => option(kind, word(kind))));
  const chosen = el("select", { "aria-label": "Function" }, option("", "any function"));
  const system = el("input", { type: "checkbox", id: "system" });
  const faulty = el("input", { type: "checkbox", id: "faulty" });
  const pause = el("button", { type: "button", id: "pause", "aria-pressed": "false", onclick: () => setPaused(!paused) }, "Pause");
  const counts = el("p", { id: "counts", class: "counts" });
  const spacer = el("div", { class: "spacer" });
  const rows = el("div", { class: "rows" }, spacer);
  const list = el("div", { class: "list", id: "events", tabindex: "0", role: "listbox", "aria-label": "Events, newest first", onscroll: draw, onkeydown: key }, rows);
  const detail = el("aside", { id: "path", "aria-label": "Path of the selected event" }, el("p", { class: "empty" }, "Select an event to see its path."));
  const panel = el("section", { class: "panel events" },
    el("div", { class: "bar" }, filter, chosen, outcome, el("label", { class: "check" }, system, "AWS IoT’s own"), el("label", { class: "check" }, faulty, "with faults"), pause, counts),
    el("div", { class: "split" },
      el("div", { class: "table" }, el("div", { class: "row heading", "aria-hidden": "true" }, ["Time", "Thing", "Topic", "Outcome", "Latency"].map((name) => el("span", {}, name))), list),
      detail));

  filter.addEventListener("input", refresh);
  for (const control of [outcome, chosen, system, faulty]) control.addEventListener("change", refresh);
  stream.on("events", (frame) => {
    totals = frame.totals;
    if (paused) waiting.push(...frame.events);
    else add(frame.events);
    if (waiting.length > 2 * KEPT) waiting = waiting.slice(-KEPT);
    count();
  });

  function setPaused(value) {
    paused = value;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    if (!paused) add(waiting.splice(0));
    count();
  }

  function add(changed) {
    for (const event of changed) {
      events.set(event.number, event);
      for (const path of event.functions) {
        if (![...chosen.options].some((known) => known.value === path.function)) chosen.append(option(path.function));
      }
      if (event.id === selected && event.version > selectedVersion) open(event, false);
    }
    if (events.size > KEPT) {
      const numbers = [...events.keys()].sort((a, b) => a - b);
      for (const number of numbers.slice(0, events.size - KEPT)) events.delete(number);
    }
    if (changed.length > 0) refresh();
  }

  function matches(event) {
    if (event.system && !system.checked) return false;
    if (faulty.checked && event.faults === 0) return false;
    if (chosen.value && !event.functions.some((path) => path.function === chosen.value)) return false;
    if (outcome.value && event.kind !== outcome.value && !event.functions.some((path) => path.kind === outcome.value)) return false;
    const text = [event.thing, event.topic, event.id, word(event.kind), ...event.functions.flatMap((path) => [path.function, word(path.kind)])].join(" ").toLowerCase();
    return filter.value.toLowerCase().split(/\s+/).every((part) => text.includes(part));
  }

  function refresh() {
    shown = [...events.values()].filter(matches).sort((a, b) => b.number - a.number);
    draw();
    count();
  }

  function count() {
    const total = (totals.messages ?? 0) + (totals.systemMessages ?? 0);
    const held = waiting.length > 0 ? `, ${waiting.length} waiting` : "";
    counts.textContent = `${shown.length} shown, ${total} in all${held}`;
    counts.dataset.total = total;
    counts.dataset.messages = totals.messages ?? 0;
  }

  function draw() {
    const height = parseFloat(getComputedStyle(list).getPropertyValue("--row"));
    const first = Math.max(0, Math.floor(list.scrollTop / height) - 10);
    const visible = shown.slice(first, first + Math.ceil(list.clientHeight / height) + 20);
    spacer.style.height = `${shown.length * height}px`;
    rows.replaceChildren(spacer, ...visible.map((event, index) => row(event, (first + index) * height)));
    if (shown.length === 0) {
      rows.append(el("p", { class: "empty" }, events.size === 0
        ? "Nothing has happened yet. Publish a message: press 2."
        : "No event matches the filter."));
    }
  }

  function row(event, top) {
    const outcomes = event.functions.length === 0 ? [badge("nothing")] : event.functions.map((path) =>
      badge(path.kind, event.functions.length > 1 ? `${path.function.replace(/^gatehouse-/, "")}: ${word(path.kind)}` : word(path.kind), path.text ?? path.function));
    const retries = event.functions.some((path) => path.attempts > 1) ? badge("retried", `${Math.max(...event.functions.map((path) => path.attempts))} attempts`) : null;
    const element = el("div", { class: "row", role: "option", "data-id": event.id, "data-kind": event.kind, "aria-selected": String(event.id === selected), onclick: () => open(event) },
      el("span", { class: "time" }, time(event.at)),
      el("span", { class: "thing", title: event.thing }, event.thing),
      el("span", { class: "topic", title: event.topic }, event.topic),
      el("span", { class: "outcome" }, outcomes, retries, event.faults > 0 ? badge("failed", `${event.faults} faults`) : null),
      el("span", { class: "latency" }, event.millis === null ? "" : `${event.millis} ms`));
    element.style.transform = `translateY(${top}px)`;
    return element;
  }

  function open(event, isNew = true) {
    selected = event.id;
    selectedVersion = event.version;
    if (isNew) draw();
    panel.classList.add("opened");
    attempt(async () => {
      const path = await get(`/events/${encodeURIComponent(event.id)}`);
      if (selected !== event.id) return;
      const opened = isNew ? [] : [...detail.querySelectorAll("details")].map((one) => one.open);
      detail.replaceChildren(el("button", { type: "button", class: "close", onclick: close }, "Close"), pathView(path));
      detail.querySelectorAll("details").forEach((one, index) => { one.open = opened[index] ?? false; });
    });
  }

  function close() {
    selected = null;
    panel.classList.remove("opened");
    detail.replaceChildren(el("p", { class: "empty" }, "Select an event to see its path."));
    draw();
    list.focus();
  }

  function key(event) {
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (event.key === "Escape") close();
    if (!step) return;
    event.preventDefault();
    const at = shown.findIndex((one) => one.id === selected);
    const next = shown[Math.min(Math.max(at + step, 0), shown.length - 1)];
    if (!next) return;
    const height = parseFloat(getComputedStyle(list).getPropertyValue("--row"));
    const top = shown.indexOf(next) * height;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
    open(next);
  }

  new ResizeObserver(draw).observe(list);
  return { panel, show: draw, pause: () => setPaused(!paused), focusFilter: () => filter.focus() };
}
