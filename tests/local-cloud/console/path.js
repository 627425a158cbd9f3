// Shows the path of one event: device, rules, queues, functions, effects.

import { badge, code, el, payload, pretty, time } from "./dom.js";

const millis = (value) => (value === null || value === undefined ? "" : `${value} ms`);

function step(kind, title, when, ...details) {
  return el("li", { class: `step ${kind}` }, el("div", { class: "head" }, el("strong", {}, title), el("time", {}, when)), details);
}

function more(summary, ...content) {
  return el("details", {}, el("summary", {}, summary), content);
}

function rule(rule) {
  return step("rule", `Rule ${rule.name}`, "", el("p", {}, "matches ", el("code", {}, rule.filter)), more("SQL", code(rule.sql.trim())));
}

function lines(attempt) {
  return attempt.lines.length === 0
    ? el("p", { class: "quiet" }, "It logged nothing about this event.")
    : attempt.lines.map((line) => code(pretty(line), { class: "log" }));
}

function handled(path) {
  const attempts = path.attempts.map((attempt, index) =>
    more(`Attempt ${path.attemptCount - path.attempts.length + index + 1}: from ${millis(attempt.startedMillis)} to ${millis(attempt.endedMillis)} after the publish`,
      el("p", { class: "quiet" }, `Request ${attempt.requestId}`), lines(attempt)));
  const hops = [];
  if (path.queue) hops.push(step("queue", `Queue ${path.queue}`, millis(path.attempts[0]?.startedMillis)));
  hops.push(step("function", `Function ${path.function}`, millis(path.millis),
    el("p", {}, badge(path.kind), " ", path.text && path.kind !== "done" ? path.text : ""), attempts));
  return hops;
}

function notification(found) {
  const about = found.subject ? el("p", {}, "Subject: ", el("b", {}, found.subject)) : null;
  return step("effect", `Notification on ${found.topic}`, millis(found.millis), el("blockquote", {}, found.text), about,
    more("Message and attributes", code(pretty(found.data ? JSON.stringify(found.data) : found.message)), code(JSON.stringify(found.attributes, null, 2))));
}

function forwarded(found) {
  return step("effect", `Forwarded to ${found.queue} of account ${found.account}`, millis(found.millis), more("Body and attributes", code(found.body), code(JSON.stringify(found.attributes, null, 2))));
}

function strike(found) {
  return el("li", { class: "step fault" },
    el("div", { class: "head" }, el("strong", {}, `Fault: ${found.fault}`), el("time", {}, millis(found.millis))),
    el("p", {}, `${found.function} called ${found.service} ${found.operation}`));
}

function items(found) {
  if (!found?.length) return null;
  return el("section", {}, el("h3", {}, "Items in tables"),
    found.map((one) => more(`${one.table}: ${one.what}`, code(JSON.stringify(one.item, null, 2)))));
}

export function pathView(event) {
  const faults = (name) => event.strikes.filter((found) => found.function === name).map(strike);
  const byRule = event.rules.flatMap((one) => [rule(one),
    event.functions.filter((path) => path.rule === one.name).map((path) => [handled(path), faults(path.function)])]);
  const others = event.functions.filter((path) => !event.rules.some((one) => one.name === path.rule));
  const origin = event.system || event.topic.startsWith("$aws/events/") ? "AWS IoT" : `Device ${event.clientId || "without a name"}`;
  return el("article", { class: "path", "data-id": event.id },
    el("h2", {}, event.topic),
    el("p", { class: "facts" }, badge(event.kind), ` ${time(event.at)}, event ${event.id}`),
    el("ol", { class: "steps" },
      step("device", `${origin} published ${event.bytes} bytes`, "0 ms", payload(event.payload)),
      event.rules.length === 0 ? step("rule", "No rule matches this topic", "") : null,
      byRule,
      others.map((path) => [handled(path), faults(path.function)]),
      event.notifications.map(notification),
      event.forwarded.map(forwarded)),
    event.envelopes.length > 0 ? el("section", {}, el("h3", {}, "Envelope"), event.envelopes.map((text) => code(pretty(text)))) : null,
    items(event.items));
}
