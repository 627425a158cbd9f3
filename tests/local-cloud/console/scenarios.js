// Records events as a scenario, and plays scenarios.

import { attempt, get, poll, post } from "./api.js";
import { histogram } from "./chart.js";
import { badge, code, el, field, option, toast } from "./dom.js";
import { pathView } from "./path.js";

export function scenariosPanel() {
  const opened = Date.now();
  let marked = opened;
  const name = el("input", { id: "recording", required: true, pattern: "[a-zA-Z0-9_\\-]{1,64}", value: "my-recording" });
  const about = el("input", { id: "about", placeholder: "one sentence" });
  const since = el("select", { id: "since" });
  const saved = el("div", { id: "saved" });
  const list = el("ul", { class: "menu", id: "scenarios" });
  const runs = el("div", { id: "runs" });
  const panel = el("section", { class: "panel columns" },
    el("div", {},
      el("form", { class: "card", onsubmit: record }, el("h2", {}, "Record"),
        el("p", { class: "quiet" }, "Saves what devices published since a moment, with the outcomes that were seen as the expected ones."),
        el("div", { class: "grid" }, field("Name", name), field("Since", since)), field("About", about),
        el("div", { class: "actions" }, el("button", { type: "submit", class: "primary", id: "record" }, "Save"), el("button", { type: "button", onclick: () => { marked = Date.now(); moments(); toast("Recordings now start here."); } }, "Mark this moment")), saved),
      el("div", { class: "card" }, el("h2", {}, "Scenarios"), list)),
    el("div", { class: "card" }, el("h2", {}, "Runs"), runs));

  function moments() {
    const clock = (at) => new Date(at).toLocaleTimeString();
    since.replaceChildren(...(marked === opened ? [] : [option(String(marked), `the mark (${clock(marked)})`)]), option("0", "the start of the local cloud"), option(String(Date.now() - 60000), "a minute ago"), option(String(Date.now() - 600000), "ten minutes ago"));
  }

  async function record(event) {
    event.preventDefault();
    const made = await attempt(() => post("/scenarios", { name: name.value, about: about.value, since: Number(since.value) }), event.submitter);
    if (!made) return;
    const text = JSON.stringify(made.scenario, null, 2);
    saved.replaceChildren(el("p", {}, `Saved ${made.scenario.steps.length} steps in `, el("code", {}, made.file), made.leftOut > 0 ? `; ${made.leftOut} events have outcomes that no scenario can expect.` : "."), el("details", {}, el("summary", {}, "File"), code(text)));
    await attempt(showList);
  }

  async function showList() {
    const found = await get("/scenarios");
    list.replaceChildren(...found.scenarios.map((one) => el("li", { "data-name": one.name }, el("div", { class: "head" }, el("strong", {}, one.name), one.recording ? badge("plain", "recorded") : null,
      one.error ? badge("failed", "invalid") : el("button", { type: "button", class: "play", onclick: (event) => play(one.name, event.target) }, "Play")), el("p", { class: "quiet" }, one.error ?? `${one.about} (${one.steps} steps)`))));
  }

  async function play(scenario, button) {
    await attempt(() => post("/runs", { scenario }), button);
    await attempt(showRuns);
  }

  let last = "";
  async function showRuns() {
    const found = await get("/runs");
    const text = JSON.stringify(found.runs.map((run) => [run.id, run.state, run.played]));
    if (text === last) return;
    last = text;
    runs.replaceChildren(...found.runs.map((run, index) => el("article", { class: "run", "data-state": run.state, "data-scenario": run.scenario },
      el("div", { class: "head" }, el("strong", {}, run.scenario), badge(run.state), ` ${run.played} of ${run.total}`), el("progress", { max: run.total, value: run.played }),
      run.error ? code(run.error) : null, index === 0 ? results(run) : null)));
    if (found.runs.length === 0) runs.append(el("p", { class: "empty" }, "Play a scenario: it runs in an account of its own, so its events are listed here."));
  }

  function results(run) {
    if (run.results.length === 0) return null;
    return [histogram(run.results.map((result) => result.millis).filter((value) => value !== null), "Latency"), run.results.map((result) => el("details", { class: "result" },
      el("summary", {}, badge(result.ok ? "passed" : "differs", result.ok ? "✓" : "✗"), ` ${result.what} `, el("span", { class: "quiet" }, result.millis === null ? "" : `${result.millis} ms`)),
      result.problem ? el("p", { class: "problem" }, `Expected ${JSON.stringify(result.expected)}, but ${result.problem}`) : null,
      result.path ? pathView(result.path) : code(JSON.stringify(result.effect, null, 2))))];
  }

  return { panel, show: () => {
    moments();
    attempt(showList);
    poll(panel, 1000, showRuns);
  } };
}
