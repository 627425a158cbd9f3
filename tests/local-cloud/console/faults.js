// Sets and removes faults between functions and services.

import { attempt, get, poll, post, remove } from "./api.js";
import { badge, el, field, option } from "./dom.js";

export function faultsPanel(stream) {
  let kinds = [];
  const fault = el("select", { id: "fault" });
  const target = el("select", { id: "fault-function" });
  const service = el("select", { id: "fault-service" }, option("", "every service"));
  const probability = el("input", { id: "probability", type: "range", min: 5, max: 100, step: 5, value: "100" });
  const share = el("output", {}, "100 %");
  const seconds = el("input", { id: "seconds", type: "number", min: 1, max: 3600, value: "60" });
  const about = el("p", { class: "quiet" });
  const list = el("ul", { class: "faults", id: "active-faults" });
  const strikes = el("strong", { id: "strikes" }, "0");
  const panel = el("section", { class: "panel columns" },
    el("form", { class: "card", onsubmit: add }, el("h2", {}, "Inject a fault"),
      field("Fault", fault), about, el("div", { class: "grid" }, field("Function", target), field("Calls to", service)),
      el("div", { class: "grid" }, field("Probability", el("span", { class: "range" }, probability, share)), field("Seconds", seconds)),
      el("div", { class: "actions" }, el("button", { type: "submit", class: "primary", id: "add-fault" }, "Switch on"))),
    el("div", { class: "card" }, el("div", { class: "head" }, el("h2", {}, "Active faults"), el("button", { type: "button", id: "no-faults", onclick: clear }, "Switch all off")),
      list, el("p", {}, strikes, " calls have met a fault so far. ", el("a", { href: "#events" }, "The events are marked."))));

  probability.addEventListener("input", () => { share.textContent = `${probability.value} %`; });
  fault.addEventListener("change", describe);
  stream.on("totals", (totals) => { strikes.textContent = totals.strikes ?? 0; });

  function describe() {
    about.textContent = kinds.find((kind) => kind.name === fault.value)?.about ?? "";
  }

  async function add(event) {
    event.preventDefault();
    const body = { function: target.value, service: service.value || null, fault: fault.value, probability: Number(probability.value) / 100, seconds: Number(seconds.value) };
    await attempt(() => post("/faults", body), event.submitter);
    await attempt(update);
  }

  async function clear(event) {
    await attempt(() => remove("/faults"), event.target);
    await attempt(update);
  }

  async function update() {
    const found = await get("/faults");
    if (kinds.length === 0) {
      kinds = found.kinds;
      fault.append(...kinds.map((kind) => option(kind.name)));
      target.append(...found.functions.map((name) => option(name, name, name === "button")));
      service.append(...found.services.map((name) => option(name)));
      describe();
    }
    list.replaceChildren(...found.active.map((one) => el("li", {}, badge("failed", one.fault), ` ${one.function} to ${one.service ?? "every service"}, ${Math.round(one.probability * 100)} %, ${one.secondsLeft} s left `,
      el("button", { type: "button", onclick: async () => { await attempt(() => remove(`/faults/${one.id}`)); await attempt(update); } }, "Switch off"))));
    if (found.active.length === 0) list.append(el("li", { class: "empty" }, "None: every call reaches its service."));
  }

  return { panel, show: () => poll(panel, 1000, update) };
}
