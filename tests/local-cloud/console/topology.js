// Draws the deployed resources and their connections, with live counts.

import { attempt, get } from "./api.js";
import { el, svg } from "./dom.js";

const COLUMNS = ["rule", "queue", "function", "topic", "table"];
const TITLES = { rule: "Rules", queue: "Queues", function: "Functions", topic: "Topics", table: "Tables" };
const WIDTH = 208, GAP = 62, HEIGHT = 44, SPACE = 12, TOP = 40;

export function topologyPanel(stream) {
  let totals = {};
  const counts = new Map();
  const place = el("div", { class: "scroll topology", id: "topology" });
  const dead = el("input", { type: "checkbox", onchange: () => attempt(draw) });
  const panel = el("section", { class: "panel" }, el("div", { class: "bar" }, el("h2", {}, "Topology"), el("label", { class: "check" }, dead, "dead-letter queues")), place);
  stream.on("totals", (found) => { totals = found; if (panel.isConnected) update(); });

  const short = (name) => name.replace(/^gatehouse[-_]/, "");
  const sum = (counts) => Object.values(counts ?? {}).reduce((all, one) => all + one, 0);

  function count(node) {
    if (node.kind === "rule") return totals.rules?.[node.name] ?? 0;
    if (node.kind === "function") return sum(totals.outcomes?.[node.name]);
    if (node.kind === "topic") return totals.notifications?.[node.name] ?? 0;
    return null;
  }

  async function draw() {
    const found = await get("/topology");
    const nodes = found.nodes.filter((node) => dead.checked || node.kind !== "queue" || !node.name.endsWith("-dlq"));
    const key = (node) => `${node.kind} ${node.name}`;
    const columns = COLUMNS.map((kind) => nodes.filter((node) => node.kind === kind).sort((a, b) => a.name.localeCompare(b.name)));
    const at = new Map();
    const total = Math.max(...columns.map((column) => column.length));
    const arrange = (column, index) => column.forEach((node, row) => at.set(key(node), { node, x: index * (WIDTH + GAP) + 8, y: TOP + row * (HEIGHT + SPACE) }));
    columns.forEach(arrange);
    // Sort each column by the positions of its neighbors, so that few lines cross.
    for (const index of [2, 1, 0, 3, 4, 2]) {
      const middle = (node) => {
        const neighbors = found.edges.flatMap(({ from, to }) => (to === key(node) ? [from] : from === key(node) ? [to] : [])).map((other) => at.get(other)?.y).filter((y) => y !== undefined);
        return neighbors.length === 0 ? at.get(key(node)).y : neighbors.reduce((all, y) => all + y, 0) / neighbors.length;
      };
      const order = new Map(columns[index].map((node) => [node, middle(node)]));
      columns[index].sort((a, b) => order.get(a) - order.get(b) || a.name.localeCompare(b.name));
      arrange(columns[index], index);
    }
    const edges = found.edges.map(({ from, to }) => [at.get(from), at.get(to)]).filter(([from, to]) => from && to);
    counts.clear();
    const height = TOP + total * (HEIGHT + SPACE);
    place.replaceChildren(svg("svg", { class: "topology", width: COLUMNS.length * (WIDTH + GAP) - GAP + 16, height, role: "img", "aria-label": "Rules, queues, functions, topics and tables" },
      COLUMNS.map((kind, index) => svg("text", { class: "title", x: index * (WIDTH + GAP) + 8, y: 22 }, TITLES[kind])),
      edges.map(([from, to]) => line(from, to)),
      [...at.values()].map(box)));
    update();
  }

  function line(from, to) {
    const isForward = to.x > from.x;
    const [x1, x2] = [isForward ? from.x + WIDTH : from.x, isForward ? to.x : to.x + WIDTH];
    const [y1, y2] = [from.y + HEIGHT / 2, to.y + HEIGHT / 2];
    const bend = isForward ? (x2 - x1) / 2 : -(x1 - x2) / 2;
    return svg("path", { class: `edge ${isForward ? "" : "back"}`, d: `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
  }

  function box({ node, x, y }) {
    const number = svg("text", { class: "count", x: x + WIDTH - 10, y: y + 18, "text-anchor": "end" });
    if (count(node) !== null) counts.set(node, number);
    const about = node.filter ?? (node.template || "");
    const fit = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
    return svg("g", { class: `node ${node.kind}`, "data-name": node.name }, svg("title", {}, `${node.name}\n${about}`),
      svg("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 8 }), svg("text", { class: "name", x: x + 10, y: y + 18 }, fit(short(node.name), 22)), svg("text", { class: "about", x: x + 10, y: y + 34 }, fit(about, 32)), number);
  }

  function update() {
    for (const [node, element] of counts) {
      const value = String(count(node) || "");
      if (element.textContent !== value) element.textContent = value;
    }
  }

  return { panel, show: () => attempt(draw) };
}
