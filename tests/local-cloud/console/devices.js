// The registry, and one device: certificates, presence, shadows, readings and alarms.

import { attempt, get, poll, post, put } from "./api.js";
import { lineChart } from "./chart.js";
import { badge, code, el, field, option, time, toast } from "./dom.js";

const SAMPLE = {
  thresholds: [{
    name: "too-bright", things: "greenhouse-*", field: "/lux",
    raise: { above: 35000, for: "0 s" }, clear: { below: 35000, for: "0 s" },
  }],
};

export function devicesPanel() {
  let chosen = null;
  const list = el("ul", { class: "menu", id: "devices" });
  const detail = el("div", { id: "device" }, el("p", { class: "empty" }, "Choose a device."));
  const rules = el("textarea", { id: "rules", rows: 12, spellcheck: "false", value: JSON.stringify(SAMPLE, null, 2) });
  const upload = el("details", { class: "card" }, el("summary", {}, "Alarm rules"),
    el("form", { onsubmit: uploadRules }, field("Document for the function alarm", rules, "as infra/thresholds.json"), el("div", { class: "actions" }, el("button", { type: "submit", id: "upload-rules" }, "Upload"))));
  const panel = el("section", { class: "panel sidebar" }, el("div", {}, el("h2", {}, "Devices"), list, upload), detail);

  async function uploadRules(event) {
    event.preventDefault();
    const response = await attempt(async () => post("/commands", { function: "alarm", input: JSON.parse(rules.value) }), event.submitter);
    if (response) toast(response.outcome === "done" ? "The rules apply from now on." : `Refused: ${response.why}`, response.outcome === "done" ? "good" : "bad");
  }

  async function listDevices() {
    const listed = await get("/devices");
    list.replaceChildren(...listed.devices.map((device) => el("li", {}, el("a", { href: `#devices/${encodeURIComponent(device.thing)}`, "aria-current": device.thing === chosen ? "true" : null },
      device.thing, device.connected === undefined || device.connected === null ? null : badge(device.connected ? "connected" : "quiet", device.connected ? "connected" : "offline")))));
  }

  function editable() {
    return detail.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
  }

  async function showDevice() {
    if (!chosen || editable()) return;
    const device = await get(`/devices/${encodeURIComponent(chosen)}`);
    if (device.thing !== chosen || editable()) return;
    const opened = [...detail.querySelectorAll("details")].map((one) => one.open);
    const field = detail.querySelector("#field")?.value;
    detail.replaceChildren(...view(device, field));
    detail.querySelectorAll("details").forEach((one, index) => { one.open = opened[index] ?? one.open; });
  }

  function view(device, wanted) {
    const presence = device.presence;
    return [
      el("h2", {}, device.thing),
      el("div", { class: "cards" },
        el("div", { class: "card" }, el("h3", {}, "Certificates"),
          device.certificates.length === 0 ? el("p", { class: "quiet" }, "None is attached.") : el("ul", {}, device.certificates.map((one) => el("li", {}, badge((one.status ?? "unknown").toLowerCase()), " ", el("code", { title: one.id }, `${one.id.slice(0, 16)}…`))))),
        el("div", { class: "card" }, el("h3", {}, "Presence"),
          presence ? [el("p", {}, badge(presence.connected ? "connected" : "quiet", presence.connected ? "connected" : "offline")), el("details", {}, el("summary", {}, "Record"), code(JSON.stringify(presence, null, 2)))] : el("p", { class: "quiet" }, "It has not connected yet."),
          device.canPublish ? el("p", {}, el("a", { href: `#publish/${encodeURIComponent(device.thing)}` }, "Publish as this device")) : null)),
      readings(device, wanted),
      alarms(device),
      shadows(device),
    ];
  }

  function readings(device, wanted) {
    const numbers = new Map();
    for (const reading of device.readings) collect("", reading.item.reading ?? reading.item, reading.at, numbers);
    const limits = device.alarms.flatMap(limitsOf);
    const fields = [...numbers.keys()].sort((a, b) => limits.some((one) => one.field === b) - limits.some((one) => one.field === a) || a.localeCompare(b));
    const selected = fields.includes(wanted) ? wanted : fields[0];
    const select = el("select", { id: "field", "aria-label": "Field", onchange: () => draw(select.value) }, fields.map((name) => option(name, name, name === selected)));
    const place = el("div", {});
    function draw(name) {
      const points = numbers.get(name) ?? [];
      const ofField = device.alarms.filter((alarm) => limitsOf(alarm).some((one) => one.field === name));
      const states = ofField.filter((alarm) => alarm.since).map((alarm) => ({ at: Number(alarm.since), state: alarm.state }));
      place.replaceChildren(lineChart({ points, limits: limits.filter((one) => one.field === name), states, label: `${name} of ${device.thing} over time` }));
    }
    draw(selected);
    return el("div", { class: "card", id: "readings" }, el("div", { class: "head" }, el("h3", {}, `Last ${device.readings.length} readings`), fields.length > 0 ? select : null), place,
      el("details", {}, el("summary", {}, "Newest reading"), code(JSON.stringify(device.readings.at(-1)?.item ?? null, null, 2))));
  }

  function alarms(device) {
    if (device.alarms.length === 0) return null;
    return el("div", { class: "card", id: "alarms" }, el("h3", {}, "Alarms"), device.alarms.map((alarm) => el("article", { class: "alarm", "data-rule": alarm.rule },
      el("p", {}, el("strong", {}, alarm.rule), " ", badge(alarm.state), " ", alarm.alarmState ? badge(alarm.alarmState, alarm.alarmState.toLowerCase().replace("_", " ")) : null, alarm.severity ? ` ${alarm.severity}` : "",
        alarm.value === undefined ? "" : ` value ${alarm.value}`, alarm.since ? ` since ${time(Number(alarm.since))}` : "", alarm.by ? `, by ${alarm.by}` : "", alarm.note ? `: ${alarm.note}` : ""),
      alarm.alarmState ? actions(device.thing, alarm) : null)));
  }

  function actions(thing, alarm) {
    const by = el("input", { required: true, placeholder: "your name", "aria-label": "By", value: sessionStorage.getItem("by") ?? "" });
    const note = el("input", { placeholder: "note", "aria-label": "Note" });
    const length = el("select", { "aria-label": "Snooze for" }, ["10 min", "30 min", "1 h", "8 h", "1 d"].map((text) => option(text)));
    const act = (action) => async (event) => {
      if (!by.reportValidity()) return;
      sessionStorage.setItem("by", by.value);
      const body = { action, by: by.value, ...(note.value ? { note: note.value } : {}), ...(action === "snooze" ? { for: length.value } : {}) };
      const response = await attempt(() => post(`/devices/${encodeURIComponent(thing)}/alarms/${encodeURIComponent(alarm.rule)}`, body), event.target);
      if (response && response.outcome !== "done") toast(`Refused: ${response.why}`, "bad");
      document.activeElement.blur();
      await attempt(showDevice);
    };
    const button = (action) => el("button", { type: "button", "data-action": action, onclick: act(action) }, action);
    return el("div", { class: "inline" }, by, note, button("acknowledge"), button("reset"), button("disable"), button("enable"), button("snooze"), length);
  }

  function shadows(device) {
    const all = device.shadows.some((shadow) => shadow.name === null) ? device.shadows : [{ name: null, document: null }, ...device.shadows];
    return el("div", { class: "card", id: "shadows" }, el("h3", {}, "Shadows"), all.map((shadow) => {
      const state = shadow.document?.state ?? {};
      const text = el("textarea", { rows: 4, spellcheck: "false", "aria-label": "Desired state", value: JSON.stringify(state.desired ?? {}, null, 2) });
      const save = async (event) => {
        event.preventDefault();
        const updated = await attempt(async () => put(`/devices/${encodeURIComponent(device.thing)}/shadow`, { name: shadow.name, desired: JSON.parse(text.value) }), event.submitter);
        if (!updated) return;
        toast(`Desired state set, version ${updated.version}.`, "good");
        document.activeElement.blur();
        await attempt(showDevice);
      };
      const part = (name) => el("div", {}, el("h4", {}, name), code(JSON.stringify(state[name] ?? null, null, 2), { "data-state": name }));
      return el("form", { class: "shadow", onsubmit: save }, el("p", {}, el("strong", {}, shadow.name ?? "Classic shadow"), shadow.document ? ` version ${shadow.document.version}` : " does not exist yet"),
        el("div", { class: "grid three" }, part("reported"), part("delta"), el("div", {}, el("h4", {}, "desired"), text)), el("div", { class: "actions" }, el("button", { type: "submit", class: "save-shadow" }, "Set desired state")));
    }));
  }

  function show(wanted) {
    if (wanted && wanted !== chosen) {
      chosen = wanted;
      detail.replaceChildren();
    }
    poll(panel, 3000, async () => {
      await listDevices();
      await showDevice();
    });
  }

  return { panel, show };
}

// Collects the numbers in an item by their JSON pointers. DynamoDB's numbers are strings.
function collect(path, value, at, into) {
  if (value !== null && typeof value === "object") {
    for (const [name, inner] of Object.entries(value)) collect(`${path}/${name}`, inner, at, into);
  } else if (typeof value === "string" && /^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$/.test(value)) {
    if (/^\/(at|expiration|receivedAt|thing|eventId|time)$/.test(path)) return;
    if (!into.has(path)) into.set(path, []);
    into.get(path).push({ at, value: Number(value) });
  }
}

// Returns the limits in an alarm's definition: those of a threshold, or of a rule's conditions.
function limitsOf(alarm) {
  const found = [];
  const definition = alarm.definition ?? {};
  if (definition.field) {
    for (const condition of [definition.raise, definition.clear]) {
      for (const side of ["above", "below"]) {
        if (condition?.[side] !== undefined) found.push({ field: definition.field, name: alarm.rule, value: Number(condition[side]) });
      }
    }
  }
  const visit = (condition) => {
    if (condition === null || typeof condition !== "object") return;
    if (typeof condition.field === "string" && Number.isFinite(Number(condition.value)) && condition.op) found.push({ field: condition.field, name: alarm.rule, value: Number(condition.value) });
    for (const inner of Object.values(condition)) visit(inner);
  };
  for (const severity of definition.severities ?? []) visit(severity.raise);
  return found.filter((one, index) => found.findIndex((other) => other.field === one.field && other.value === one.value) === index);
}
