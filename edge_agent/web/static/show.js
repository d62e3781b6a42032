// Pieces that several screens share.

import { h } from "./dom.js";
import { ageOf, isOld, live, may, now } from "./live.js";
import { duration, has, moment, number, t, UNKNOWN } from "./words.js";

export const isWall = new URLSearchParams(location.search).has("wall");
export const LEVELS = ["missing", "offline", "stale", "critical", "degraded", "unknown", "starting", "draining", "stopped", "ok"];
export const URGENT = ["missing", "offline", "stale", "critical"];
const SHAPES = {
  missing: "■",
  critical: "■",
  offline: "■",
  stale: "▲",
  degraded: "▲",
  unknown: "?",
  starting: "○",
  draining: "○",
  stopped: "○",
};

// Shape and word together: a colour alone says nothing.
export function levelMark(level) {
  return h("span", { class: `level ${level}` },
    shape(SHAPES[level] ?? ""),
    " ",
    h("span", { class: "word" }, t(`level.${level}`)));
}

export function severityMark(severity) {
  const level = severity === "warning" ? "degraded" : "critical";
  return h("span", { class: `level ${level}` },
    shape(SHAPES[level]),
    " ",
    t(`severity.${severity === "warning" ? "warning" : "critical"}`));
}

function shape(mark) {
  return h("span", { class: "shape", "aria-hidden": "true" }, mark);
}

export function link(address, props, ...words) {
  return h("a", { href: `#/${address}`, ...props }, ...words);
}

export function boardAddress(device) {
  return `board/${encodeURIComponent(device)}`;
}

export function button(props, ...words) {
  return h("button", { type: "button", ...props }, ...words);
}

// A button that writes: it cannot be pressed while nothing is known to be current.
export function writeButton(props, ...words) {
  const isOff = props.isOff || isOld();
  const { isOff: _, ...rest } = props;
  return button({ ...rest, "aria-disabled": isOff ? "true" : null, onclick: isOff ? null : props.onclick }, ...words);
}

export function note(key, values) {
  return h("p", { class: "note" }, t(key, values));
}

export function roleNote(role) {
  const name = live.session?.user;
  return note(name ? `missing.role.${role}` : `missing.login.${role}`, { name });
}

export function lacks(role) {
  return !may(role);
}

// "since 12:01 (4 min)"; a beginning that this process did not see is said so.
export function since(at) {
  if (at == null) return t("since.unknown");
  return t("since", { time: moment(at, now()), length: duration(ageOf(at)) });
}

export function figure(name, value, unit = "", digits = 0) {
  const text = typeof value === "number" ? number(value, digits) : (value ?? UNKNOWN);
  return h("div", { class: "figure", key: name },
    h("dt", null, name),
    h("dd", null, text, value == null || !unit ? null : h("span", { class: "unit" }, ` ${unit}`)));
}

export function alarmAdvice(name) {
  return has(`todo.${name}`) ? t(`todo.${name}`) : t("todo.other");
}

// An input as it was asked: its fields, or its text.
export function inputView(input) {
  if (input === null || input === undefined) return h("p", { class: "note" }, t("input.unknown"));
  if (typeof input !== "object") return h("p", { class: "input-text" }, String(input));
  const fields = Array.isArray(input) ? input.map((value, at) => [at + 1, value]) : Object.entries(input);
  return h("dl", { class: "fields" },
    fields.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, plain(value)))));
}

export function plain(value) {
  if (value == null) return UNKNOWN;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export function inputLine(input) {
  if (input == null) return t("input.unknown.short");
  if (typeof input !== "object") return String(input);
  return Object.entries(input)
    .map(([name, value]) => `${name} ${plain(value)}`)
    .join("   ");
}

// What a board answered, in words: a label, a number, text, or what is unusual.
export function outputWords(output) {
  if (output == null) return t("output.none");
  if (typeof output === "object" && "unusual" in output) return t(output.unusual ? "output.unusual" : "output.usual");
  return plain(output);
}

export function reasons(because) {
  return h("ul", { class: "because" },
    (because ?? []).map((one) =>
      h("li", { key: one.field },
        h("b", null, plain(one.field)),
        ` ${plain(one.value)}`,
        one.usual ? ` ${t("unusual.range", { low: plain(one.usual[0]), high: plain(one.usual[1]) })}` : "")));
}

// True while somebody points at this list, has its focus or touches it: then nothing in it may move.
export function isHeld(selector) {
  const node = document.querySelector(selector);
  return node !== null && node.matches(":hover, :focus-within");
}

// What limits an answer, in words.
export function degradedWords(name) {
  return has(`degraded.${name}`) ? t(`degraded.${name}`) : name;
}

// Why a write did not go through.
export function troubleWords(error) {
  if (error.code === "login_again" || error.status === 401) return t("trouble.login");
  return error.status ? error.message : t("trouble.server");
}
