// Draws readings with the limits and states of their rules.

import { el, svg, time } from "./dom.js";

const WIDTH = 640, HEIGHT = 200, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 36;

// `points`: {at, value}; `limits`: {name, value}; `states`: {at, state}, where `at` is when the state starts.
export function lineChart({ points, limits = [], states = [], label }) {
  if (points.length === 0) return el("p", { class: "empty" }, "No readings with this field yet.");
  const values = [...points.map((point) => point.value), ...limits.map((limit) => limit.value)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - 1, high + 1];
  const pad = (high - low) * 0.08;
  [low, high] = [low - pad, high + pad];
  const [first, last] = [points[0].at, points.at(-1).at];
  const x = (at) => LEFT + (last > first ? (at - first) / (last - first) : 0.5) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const number = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-US") : String(+value.toFixed(2)));
  const grid = [0, 0.5, 1].map((share) => low + pad + (high - low - 2 * pad) * share);
  const line = points.map((point) => `${x(point.at).toFixed(1)},${y(point.value).toFixed(1)}`).join(" ");
  const band = states.map((state, index) => {
    const [from, to] = [x(Math.max(state.at, first)), index + 1 < states.length ? x(states[index + 1].at) : WIDTH - RIGHT];
    return svg("rect", { class: `state ${state.state}`, x: from, y: HEIGHT - 28, width: Math.max(to - from, 2), height: 6 },
      svg("title", {}, state.state));
  });
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    grid.map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    ]),
    limits.map((limit) => [
      svg("line", { class: "limit", x1: LEFT, x2: WIDTH - RIGHT, y1: y(limit.value), y2: y(limit.value) }),
      svg("text", { class: "limit", x: LEFT + 6, y: y(limit.value) - 5 }, `${limit.name} ${number(limit.value)}`),
    ]),
    svg("polyline", { class: "line", points: line }),
    points.map((point) => svg("circle", { class: "point", cx: x(point.at), cy: y(point.value), r: points.length > 60 ? 1.5 : 3 },
      svg("title", {}, `${number(point.value)} at ${time(point.at)}`))),
    band,
    svg("text", { x: LEFT, y: HEIGHT - 6 }, time(first)),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, time(last)));
}

// Draws counts of latencies, in milliseconds, in bins whose size doubles.
export function histogram(values, label) {
  if (values.length === 0) return el("p", { class: "empty" }, "Nothing was measured.");
  const steps = [];
  for (let limit = 8; steps.length === 0 || steps.at(-1) < Math.max(...values); limit *= 2) steps.push(limit);
  const counts = steps.map((limit, index) => values.filter((value) => value <= limit && (index === 0 || value > steps[index - 1])).length);
  const most = Math.max(...counts), width = (WIDTH - LEFT - RIGHT) / steps.length;
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    counts.map((count, index) => {
      const height = (count / most) * (HEIGHT - TOP - BOTTOM - 14);
      const left = LEFT + index * width;
      return [
        svg("rect", { class: "bar", x: left + 2, y: HEIGHT - BOTTOM - height, width: width - 4, height }),
        count > 0 && svg("text", { x: left + width / 2, y: HEIGHT - BOTTOM - height - 4, "text-anchor": "middle" }, count),
        svg("text", { x: left + width / 2, y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, `≤ ${steps[index]}`),
      ];
    }),
    svg("text", { x: LEFT, y: HEIGHT - 4 }, "milliseconds from publish to outcome"));
}
