// Builds elements. Data from devices enters the page as text only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function el(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

export function option(value, text = value, selected = false) {
  return el("option", { value, selected }, text);
}

export function field(label, control, hint) {
  return el("label", { class: "field" }, el("span", {}, label), control, hint && el("small", {}, hint));
}

export function badge(kind, text = word(kind), title) {
  return el("span", { class: `badge ${tone(kind)}`, title }, text);
}

const WORDS = {
  notification: "notified",
  quarantine: "quarantined",
  nothing: "no rule",
};

const TONES = {
  notification: "good", done: "good", stored: "good", admitted: "good", forwarded: "good", connected: "good", recorded: "good",
  passed: "good", active: "good", ACTIVE: "bad", OK: "good", ALARM: "bad", STALE: "warn", NORMAL: "good", ACKNOWLEDGED: "warn", LATCHED: "warn",
  quarantine: "bad", rejected: "bad", denied: "bad", failed: "bad", differs: "bad", revoked: "bad", inactive: "warn",
  retried: "warn", suppressed: "quiet", duplicate: "quiet", nothing: "quiet",
};

export function word(kind) {
  return WORDS[kind] ?? kind;
}

export function tone(kind) {
  return TONES[kind] ?? "plain";
}

export function time(millis) {
  const at = new Date(millis);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

// Indents JSON without changing its numbers or strings, as JSON.parse would.
export function pretty(text) {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  let out = "", depth = 0, quoted = false;
  const line = () => `\n${"  ".repeat(depth)}`;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (quoted) {
      out += character;
      if (character === "\\") out += text[(at += 1)] ?? "";
      else if (character === '"') quoted = false;
    } else if (character === '"') {
      quoted = true;
      out += character;
    } else if (/\s/.test(character)) {
      continue;
    } else if ("{[".includes(character)) {
      const rest = text.slice(at + 1).match(/^\s*([}\]])/);
      if (rest) {
        out += character + rest[1];
        at += rest[0].length;
      } else {
        depth += 1;
        out += character + line();
      }
    } else if ("}]".includes(character)) {
      depth -= 1;
      out += line() + character;
    } else if (character === ",") {
      out += character + line();
    } else {
      out += character === ":" ? ": " : character;
    }
  }
  return out;
}

export function code(text, properties) {
  return el("pre", { tabindex: "0", ...properties }, text);
}

export function payload(value) {
  return value.text === undefined ? code(value.base64, { class: "base64", "data-form": "base64" }) : code(pretty(value.text));
}

export function toast(text, kind = "plain") {
  const shown = el("p", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(shown);
  setTimeout(() => shown.remove(), 6000);
}
