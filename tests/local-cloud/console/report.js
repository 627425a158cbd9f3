// The report of a replay: shows `data` with the console's own views.

import { histogram, lineChart } from "./chart.js";
import { badge, code, el } from "./dom.js";
import { pathView } from "./path.js";

const data = JSON.parse(document.getElementById("data").textContent);

function tile(value, label) {
  return el("div", { class: "card tile" }, el("strong", {}, value), el("span", { class: "quiet" }, label));
}

function chart(scenario) {
  const wanted = scenario.chart;
  if (!wanted) return null;
  const points = [], states = [];
  for (const { path } of scenario.results) {
    if (!path || path.thing !== wanted.thing) continue;
    let value;
    try {
      value = wanted.field.split("/").slice(1).reduce((inner, name) => inner?.[name], JSON.parse(path.payload.text));
    } catch {
      continue;
    }
    if (typeof value === "number") points.push({ at: path.at, value });
    for (const found of path.notifications) {
      if (found.data?.to && found.attributes.threshold === wanted.threshold) states.push({ at: path.at, state: found.data.to });
    }
  }
  points.sort((a, b) => a.at - b.at);
  states.sort((a, b) => a.at - b.at);
  return lineChart({ points, states, limits: [{ name: wanted.threshold, value: wanted.limit }], label: `${wanted.field} of ${wanted.thing}` });
}

function result(found) {
  return el("details", { class: "result", open: !found.ok },
    el("summary", {}, badge(found.ok ? "passed" : "differs", found.ok ? "✓" : "✗"), ` ${found.what} `, badge(found.effect.kind), el("span", { class: "quiet" }, found.millis === null ? "" : ` ${found.millis} ms`)),
    found.problem ? el("p", { class: "problem" }, `Expected ${JSON.stringify(found.expected)}, but ${found.problem}`) : null,
    found.path ? pathView(found.path) : code(JSON.stringify(found.effect, null, 2)));
}

const all = data.scenarios.flatMap((scenario) => scenario.results);
const latencies = all.map((found) => found.millis).filter((value) => value !== null).sort((a, b) => a - b);
const failed = all.filter((found) => !found.ok).length;
document.getElementById("main").append(
  el("h1", {}, "Replay ", badge(failed === 0 ? "passed" : "differs", failed === 0 ? "all outcomes as expected" : `${failed} outcomes differ`)),
  el("div", { class: "cards" }, tile(all.length, "events"), tile(failed, "differ"), tile(`${latencies[Math.floor(latencies.length / 2)] ?? "–"} ms`, "median latency"), tile(`${Math.round(data.seconds)} s`, "in all")),
  el("div", { class: "card" }, el("h2", {}, "Latency"), histogram(latencies, "Latency of all events")),
  ...data.scenarios.map((scenario) => el("section", { class: "card", id: scenario.name }, el("h2", {}, scenario.name), el("p", { class: "quiet" }, scenario.about), chart(scenario), el("div", {}, scenario.results.map(result)))));
