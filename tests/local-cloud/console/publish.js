// Publishes as a device, and shows the messages that a test client receives.

import { attempt, get, post, remove } from "./api.js";
import { el, field, option, payload, time, toast } from "./dom.js";

const KEPT = 200;

export function publishPanel(stream) {
  let samples = [];
  const thing = el("select", { id: "thing", required: true });
  const sample = el("select", { id: "sample" }, option("", "write your own"));
  const topic = el("input", { id: "topic", required: true, maxlength: 256, autocomplete: "off" });
  const text = el("textarea", { id: "payload", rows: 7, spellcheck: "false" });
  const qos = el("select", { id: "qos" }, option("1", "1: at least once"), option("0", "0: at most once"));
  const repeat = el("input", { id: "repeat", type: "number", min: 1, max: 10000, value: "1" });
  const rate = el("input", { id: "rate", type: "number", min: 1, max: 200, value: "10" });
  const send = el("button", { type: "submit", class: "primary", id: "send" }, "Publish");
  const result = el("p", { id: "published", role: "status" });
  const form = el("form", { class: "card", onsubmit: publish },
    el("h2", {}, "Publish as a device"),
    el("div", { class: "grid" }, field("Device", thing), field("Sample", sample, "from events/")),
    field("Topic", topic), field("Payload", text),
    el("div", { class: "grid three" }, field("QoS", qos), field("Copies", repeat), field("Copies a second", rate)),
    el("div", { class: "actions" }, send, result));

  const name = el("input", { id: "new-thing", required: true, maxlength: 128, pattern: "[a-zA-Z0-9:_\\-]+", placeholder: "my-button", autocomplete: "off" });
  const how = el("select", { id: "new-how" }, option("direct", "directly: a certificate that AWS IoT makes"), option("jitr", "by jitr: its own certificate, at its first connection"));
  const create = el("form", { class: "card", onsubmit: register },
    el("h2", {}, "New device"),
    el("div", { class: "grid" }, field("Thing name", name), field("Registration", how)),
    el("div", { class: "actions" }, el("button", { type: "submit", id: "register" }, "Register")));

  const filter = el("input", { id: "topic-filter", required: true, value: "#", autocomplete: "off" });
  const active = el("ul", { class: "chips", id: "subscriptions" });
  const received = el("ol", { class: "messages", id: "messages" });
  const subscriptions = el("div", { class: "card" },
    el("h2", {}, "Test client"),
    el("form", { class: "inline", onsubmit: subscribe }, field("Topic filter", filter), el("button", { type: "submit", id: "subscribe" }, "Subscribe")),
    active, received, el("p", { class: "empty" }, "Messages appear here. A filter with # at its start does not match topics that start with $."));
  const panel = el("section", { class: "panel columns" }, el("div", {}, form, create), subscriptions);

  sample.addEventListener("change", apply);
  thing.addEventListener("change", apply);
  stream.on("messages", (messages) => {
    for (const message of messages) {
      received.prepend(el("li", {}, el("div", { class: "head" }, el("strong", {}, message.topic), el("time", {}, time(message.at))), payload(message.payload)));
    }
    while (received.children.length > KEPT) received.lastChild.remove();
  });

  function apply() {
    const chosen = samples[Number(sample.value)];
    if (sample.value === "" || !chosen) return;
    const fill = (pattern) => pattern.replaceAll("{thing}", thing.value);
    topic.value = fill(chosen.topic);
    text.value = chosen.payload.text === undefined ? chosen.payload.base64 : fill(chosen.payload.text);
    text.dataset.form = chosen.payload.text === undefined ? "base64" : "text";
  }

  text.addEventListener("input", () => { text.dataset.form = "text"; });

  async function publish(event) {
    event.preventDefault();
    const body = { thing: thing.value, topic: topic.value, qos: Number(qos.value), repeat: Number(repeat.value), rate: Number(rate.value) };
    body[text.dataset.form === "base64" ? "payloadBase64" : "payload"] = text.value;
    result.textContent = "";
    const published = await attempt(() => post("/publish", body), send);
    if (!published) return;
    if (published.denied) result.textContent = published.why;
    else result.replaceChildren(published.started ? `Publishing ${published.started} copies. ` : "Published. ", el("a", { href: "#events" }, "See the events"));
  }

  async function register(event) {
    event.preventDefault();
    const made = await attempt(() => post("/devices", { thing: name.value, byJitr: how.value === "jitr" }), event.submitter);
    if (!made) return;
    toast(`${made.thing}: ${made.state}`, made.state === "rejected" ? "bad" : "good");
    name.value = "";
    await devices();
    if ([...thing.options].some((known) => known.value === made.thing)) thing.value = made.thing;
    apply();
  }

  async function subscribe(event) {
    event.preventDefault();
    if (await attempt(() => post("/subscriptions", { filter: filter.value }), event.submitter)) await listSubscriptions();
  }

  async function listSubscriptions() {
    const listed = await attempt(() => get("/subscriptions"));
    active.replaceChildren(...(listed?.subscriptions ?? []).map((one) => el("li", { class: one.connected ? "" : "quiet" }, el("code", {}, one.filter),
      el("button", { type: "button", "aria-label": `Unsubscribe from ${one.filter}`, onclick: async () => { await attempt(() => remove(`/subscriptions/${one.id}`)); await listSubscriptions(); } }, "×"))));
  }

  async function devices() {
    const listed = await attempt(() => get("/devices"));
    const own = (listed?.devices ?? []).filter((device) => device.canPublish);
    const before = thing.value;
    thing.replaceChildren(...own.map((device) => option(device.thing)));
    if (own.some((device) => device.thing === before)) thing.value = before;
  }

  async function show(wanted) {
    await devices();
    if (wanted) thing.value = wanted;
    if (samples.length === 0) {
      samples = (await attempt(() => get("/samples")))?.samples ?? [];
      const groups = Map.groupBy(samples.map((one, index) => ({ ...one, index })), (one) => one.function);
      for (const [name, members] of groups) {
        sample.append(el("optgroup", { label: name }, members.map((one) => option(String(one.index), one.name))));
      }
      sample.value = "0";
    }
    apply();
    await listSubscriptions();
  }

  return { panel, show };
}
