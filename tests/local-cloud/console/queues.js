// Depths of queues, refused events and dead letters, through the operator tool.

import { attempt, get, poll, post } from "./api.js";
import { badge, code, el, payload, pretty, time, toast } from "./dom.js";

const short = (name) => name.replace(/^gatehouse-/, "");

export function queuesPanel() {
  const depths = el("div", { id: "depths" });
  const quarantine = el("div", { id: "quarantine" });
  const letters = el("div", { id: "dead-letters" });
  const refresh = el("button", { type: "button", id: "refresh-queues", onclick: () => attempt(update, refresh) }, "Refresh");
  const panel = el("section", { class: "panel" },
    el("div", { class: "bar" }, el("h2", {}, "Queues and quarantine"), refresh),
    el("div", { class: "columns wide" },
      el("div", {}, el("div", { class: "card" }, el("h3", {}, "Quarantine: events that a function refused"), quarantine),
        el("div", { class: "card" }, el("h3", {}, "Dead letters"), letters)),
      el("div", { class: "card" }, el("h3", {}, "Depths"), depths)));

  function table(names, rows, none) {
    if (rows.length === 0) return el("p", { class: "empty" }, none);
    return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, names.map((name) => el("th", {}, name)))), el("tbody", {}, rows)));
  }

  async function showDepths() {
    const { queues } = await get("/queues");
    const rows = queues.map((queue) => el("tr", { class: queue.visible + queue.inFlight + queue.delayed > 0 ? (queue.deadLetters ? "bad" : "busy") : "quiet" },
      el("td", {}, queue.name), el("td", {}, queue.visible), el("td", {}, queue.inFlight), el("td", {}, queue.delayed)));
    depths.replaceChildren(table(["Queue", "Waiting", "In flight", "Delayed"], rows, "There is no queue."));
  }

  function actions(subject, id, showEvent) {
    const act = (action) => async (event) => {
      if (action === "discard" && event.target.dataset.sure !== "yes") {
        event.target.dataset.sure = "yes";
        event.target.textContent = "Discard permanently?";
        return;
      }
      const report = await attempt(() => post(`/${subject}/${action}`, { ids: [id] }), event.target);
      if (!report) return;
      const failed = (report.refusedAgain ?? 0) + (report.refused ?? 0) + (Array.isArray(report.failed) ? report.failed.length : report.failed ?? 0) + (report.leftAlone ?? 0);
      const first = report.results?.[0];
      toast(failed > 0 ? `Not accepted: ${first?.why ?? first?.reason ?? first?.error ?? "see the list"}` : action === "resend" ? "Accepted." : "Discarded.", failed > 0 ? "bad" : "good");
      if (failed === 0) event.target.closest("tr").remove();
      await attempt(update);
    };
    return el("td", { class: "actions" }, el("button", { type: "button", class: "show", onclick: showEvent }, "Show"),
      el("button", { type: "button", class: "resend", onclick: act("resend") }, "Resend"), el("button", { type: "button", class: "discard", onclick: act("discard") }, "Discard"));
  }

  function expand(event, content) {
    const row = event.target.closest("tr");
    if (row.nextElementSibling?.classList.contains("detail")) row.nextElementSibling.remove();
    else row.after(el("tr", { class: "detail" }, el("td", { colspan: "6" }, el("div", { class: "stack" }, content))));
  }

  async function showQuarantine() {
    const { events } = await get("/quarantine");
    const rows = events.toReversed().map((one) => el("tr", { "data-id": one.eventId },
      el("td", {}, time(one.refusedAt)), el("td", {}, short(one.function)), el("td", {}, badge("quarantine", one.reason)), el("td", {}, one.thing ?? ""),
      actions("quarantine", one.eventId, (event) => attempt(async () => {
        const found = await get(`/quarantine/${encodeURIComponent(one.function)}/${encodeURIComponent(one.eventId)}`);
        expand(event, [el("p", {}, found.why), el("h4", {}, "Payload"), found.payload === null ? el("p", { class: "quiet" }, "It is not text.") : payload({ text: found.payload }), el("h4", {}, "Event"), code(pretty(found.event))]);
      }))));
    quarantine.replaceChildren(table(["Refused", "Function", "Reason", "Thing", ""], rows, "Nothing is in quarantine. Publish a malformed message to see one."));
  }

  async function showLetters() {
    const { queues } = await get("/dead-letters");
    const rows = queues.flatMap((queue) => queue.letters.map((letter) => el("tr", { "data-id": letter.messageId },
      el("td", {}, time(letter.sentAt)), el("td", {}, short(queue.queue)), el("td", {}, letter.kind), el("td", {}, letter.thing ?? ""), el("td", {}, letter.problem ?? letter.error ?? ""),
      actions("dead-letters", letter.messageId, (event) => expand(event, code(JSON.stringify(letter, null, 2)))))));
    letters.replaceChildren(table(["Sent", "Queue", "Kind", "Thing", "Error", ""], rows, "No dead-letter queue has a message."));
  }

  async function update() {
    await Promise.all([showDepths(), showQuarantine(), showLetters()]);
  }

  return { panel, show: () => {
    attempt(update, refresh);
    poll(panel, 3000, showDepths);
  } };
}
