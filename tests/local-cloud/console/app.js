// Panels, keyboard shortcuts, and the stream of events.

import { el, toast } from "./dom.js";
import { devicesPanel } from "./devices.js";
import { eventsPanel } from "./events.js";
import { faultsPanel } from "./faults.js";
import { publishPanel } from "./publish.js";
import { queuesPanel } from "./queues.js";
import { scenariosPanel } from "./scenarios.js";
import { topologyPanel } from "./topology.js";

const stream = {
  listeners: { events: [], messages: [], totals: [] },
  on(kind, listener) { this.listeners[kind].push(listener); },
  emit(kind, value) { for (const listener of this.listeners[kind]) listener(value); },
};

const PANELS = [
  ["events", "Events", eventsPanel],
  ["publish", "Publish", publishPanel],
  ["devices", "Devices", devicesPanel],
  ["queues", "Queues", queuesPanel],
  ["faults", "Faults", faultsPanel],
  ["scenarios", "Scenarios", scenariosPanel],
  ["topology", "Topology", topologyPanel],
];

const main = document.getElementById("main");
const connection = document.getElementById("connection");
const panels = new Map(PANELS.map(([name, , create]) => [name, create(stream)]));
const tabs = new Map(PANELS.map(([name, title], index) => [name,
  el("a", { href: `#${name}`, role: "tab", id: `tab-${name}`, title: `Key ${index + 1}` }, title)]));
document.getElementById("tabs").append(...tabs.values());

function show() {
  const wanted = location.hash.slice(1).split("/")[0];
  const name = panels.has(wanted) ? wanted : "events";
  for (const [other, tab] of tabs) tab.setAttribute("aria-selected", String(other === name));
  const { panel, show: onShow } = panels.get(name);
  panel.id = `panel-${name}`;
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", `tab-${name}`);
  main.replaceChildren(panel);
  onShow?.(location.hash.slice(1).split("/").slice(1).map(decodeURIComponent).join("/"));
}

addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const panel = PANELS[Number(event.key) - 1];
  if (panel) location.hash = panel[0];
  if (event.key === "/") {
    event.preventDefault();
    location.hash = "events";
    setTimeout(() => panels.get("events").focusFilter());
  }
  if (event.key === "p") panels.get("events").pause();
});

function connect() {
  const source = new EventSource("/api/v1/stream");
  source.onopen = () => { connection.textContent = "live"; connection.className = "live"; };
  source.onerror = () => { connection.textContent = "not connected"; connection.className = ""; };
  source.onmessage = (message) => {
    const frame = JSON.parse(message.data);
    stream.emit("events", frame);
    stream.emit("totals", frame.totals);
    if (frame.messages?.length) stream.emit("messages", frame.messages);
  };
}

addEventListener("error", (event) => toast(event.message, "bad"));
show();
connect();
