// Widgets and wording that several screens share.

import { h } from "./dom.js";
import { ageOf, isOld, live, now } from "./live.js";
import { smallPrint, splitPhrase } from "./phrases.js";
import { duration, has, measured, moment, number, t, UNKNOWN } from "./words.js";

export const isWall = new URLSearchParams(location.search).has("wall");
export const LEVELS = ["missing", "offline", "stale", "critical", "degraded", "unknown", "starting", "draining", "stopped", "ok"];
export const URGENT = ["missing", "offline", "stale", "critical"];
const TYPING_MS = 300;
const IN_USE_MS = 10_000;
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

let usedAt = -Infinity;
for (const name of ["pointermove", "pointerdown", "wheel", "keydown"])
  document.addEventListener(name, () => (usedAt = performance.now()), { passive: true });
let typing; // The timer of a filter in which somebody types.

// A shape and a word, because colour alone must not carry meaning.
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

// The checks of one board, or of one of its tasks.
export function checkAddress(device, task) {
  return `check?${new URLSearchParams({ device, ...(task == null ? {} : { task }) })}`;
}

export function button(props, ...words) {
  return h("button", { type: "button", ...props }, ...words);
}

// A button that writes. It is disabled while the data may be out of date, or if `isEarly`.
export function writeButton({ isEarly, ...props }, ...words) {
  const isOff = isOld() || isEarly;
  return button({ ...props, "aria-disabled": isOff ? "true" : null, onclick: isOff ? null : props.onclick }, ...words);
}

export function note(key, values) {
  return h("p", { class: "note" }, t(key, values));
}

export function roleNote(role) {
  const name = live.session?.user;
  if (name) return note(`missing.role.${role}`, { name });
  return h("p", { class: "note" }, link(loginAddress(), {}, t(`missing.login.${role}`)));
}

// The login leads back to this screen.
export function loginAddress() {
  return `login?back=${encodeURIComponent(location.hash)}`;
}

// "since 12:01 (4 min)", or that nobody knows when it began, such as a board whose clock is unset.
export function since(at) {
  if (at == null) return t("since.unknown");
  return t("since", { time: moment(at, now()), length: duration(ageOf(at)) });
}

export function figure(name, value, unit = "", digits = 0) {
  if (value == null) return null;
  const text = typeof value === "number" ? number(value, digits) : value;
  return h("div", { class: "figure", key: name },
    h("dt", null, name),
    h("dd", null, text, !unit ? null : h("span", { class: "unit" }, ` ${unit}`)));
}

// A time that a board gave in milliseconds, as value and unit: from 10 s on in seconds, which people read more easily.
export function latency(ms) {
  return ms >= 10_000 ? [ms / 1000, t("unit.s")] : [ms, "ms"];
}

// The active alarms grouped by name, on boards from the worst.
export function alarmsByName() {
  const named = new Map();
  for (const device of live.order) {
    const board = live.boards.get(device);
    // Those of a silent board may have ended.
    if (board == null || board.level === "stale") continue;
    for (const alarm of board.alarms ?? [])
      named.set(alarm.name, [...(named.get(alarm.name) ?? []), { ...alarm, device }]);
  }
  return [...named].map(([name, alarms]) => {
    const severity = alarms.some((alarm) => alarm.severity !== "warning") ? "critical" : "warning";
    return { name, alarms, severity };
  });
}

// What is wrong with a board besides its alarms, and what to do; the level speaks where no phrase has advice.
export function whyView(board) {
  const alarms = (board.alarms ?? []).map((alarm) => alarm.name);
  const nameOf = (phrase) => phrase.split(":", 1)[0];
  const isStale = board.level === "stale";
  const phrases = (board.why ?? []).filter((phrase) => !alarms.includes(nameOf(phrase)));
  // Nobody can answer checks that were not asked yet, or that this page does not have.
  const isLacking = board.unproven?.some(({ lacking }) => lacking);
  const unproven = board.open_checks ? "todo.promise-unproven" : isLacking ? "unproven.not_here" : "unproven.none";
  const todoOf = (name) => (name === "promise-unproven" ? unproven : `todo.${name}`);
  const todos = phrases.map((phrase) => todoOf(nameOf(phrase))).filter(has);
  const ofLevel = phrases.some((phrase) => phrase.startsWith("not heard yet")) ? "" : `todo.${board.level}`;
  if (!todos.length && (isStale || !alarms.length) && has(ofLevel)) todos.push(ofLevel);
  if (!phrases.length && !todos.length) return null;
  const known = phrases.map((phrase) => ({ phrase, ...splitPhrase(phrase) }));
  return h("p", { key: "#why", class: "why" },
    known.map(({ phrase, words }) => words + (phrase === "promise-unproven" ? progressWords(board) : "")).join("; "),
    todos.length ? todoView(todos.map((key) => t(key)).join(" ")) : null,
    " ",
    smallPrint(known.map(({ said }) => said).filter(Boolean).join("; ")));
}

export function todoView(advice) {
  return h("span", { class: "todo" }, " ", h("b", null, t("todo")), " ", advice);
}

function progressWords({ unproven }) {
  const words = (unproven ?? [])
    .filter(({ more }) => more != null)
    .map(({ task, answered, more }) => t("unproven", { task, n: answered, more }));
  return words.length ? ` (${words.join("; ")})` : "";
}

export function alarmAdvice(name) {
  return has(`todo.${name}`) ? t(`todo.${name}`) : t("todo.other");
}

// An input: its fields, or its text.
export function inputView(input) {
  if (input === null || input === undefined) return h("p", { class: "note" }, t("input.unknown"));
  if (typeof input !== "object") return h("p", { class: "input-text" }, String(input));
  const fields = Array.isArray(input) ? input.map((value, at) => [at + 1, value]) : Object.entries(input);
  return h("dl", { class: "fields" },
    fields.map(([name, value]) => {
      const { first, others } = featuresOf(value);
      return h("div", { key: name },
        h("dt", null, name),
        h("dd", { class: typeof first === "number" ? "whole" : null }, plain(first)),
        others.length
          ? h("dd", { class: "features" },
              others.map(([feature, one]) => h("span", { key: feature, class: "whole" }, `${feature} ${plain(one)}`)))
          : null);
    }));
}

// A signal comes as features of its window, such as {"last": 7.5, "mean_10m": 7.1}, and reads as its last value.
function featuresOf(value) {
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  const all = isObject ? Object.entries(value) : [];
  if (!all.length || all.some(([, one]) => one !== null && typeof one === "object")) return { first: value, others: [] };
  const [name, first] = all.find(([feature]) => feature === "last") ?? all[0];
  return { first, others: all.filter(([feature]) => feature !== name) };
}

export function hasFeatures(input) {
  return input !== null && typeof input === "object" && Object.values(input).some((one) => featuresOf(one).others.length);
}

export function plain(value) {
  if (value == null) return UNKNOWN;
  if (typeof value === "number") return measured(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export function inputLine(input) {
  if (input == null) return t("input.unknown.short");
  if (typeof input !== "object") return String(input);
  return Object.entries(input)
    .map(([name, value]) => `${name}\u00a0${plain(featuresOf(value).first)}`)
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

// A choice that the screen's address keeps, so it survives a reload and can be shared.
export function addressFilter({ route, name, options, all }) {
  const value = route().values.get(name) ?? "";
  const isListed = !value || options.some(([option]) => option === value);
  return h("label", { key: name },
    t(`filter.${name}`),
    h("select", { value, onchange: (event) => setAddressFilter(route, name, event.target.value) },
      [["", all], ...(isListed ? [] : [[value, value]]), ...options].map(([option, word]) =>
        h("option", { key: `=${option}`, value: option, selected: option === value }, word))));
}

// Like `addressFilter`, but for any text. `names` are suggestions, and need not be complete.
export function machineFilter({ route, names }) {
  const filter = (field) => {
    clearTimeout(typing);
    const name = field.value.trim();
    if (field.isConnected && name !== (route().values.get("machine") ?? "")) setAddressFilter(route, "machine", name);
  };
  const { activeElement: focused } = document;
  return h("label", { key: "machine" },
    t("filter.machine"),
    h("input", {
      id: "machine",
      type: "search",
      list: "machines",
      autocomplete: "off",
      // What somebody is still typing stays, such as a space at its end.
      value: focused?.id === "machine" ? focused.value : (route().values.get("machine") ?? ""),
      oninput: ({ target }) => {
        clearTimeout(typing);
        typing = setTimeout(filter, TYPING_MS, target);
      },
      onchange: ({ target }) => filter(target),
    }),
    h("datalist", { id: "machines" }, [...names].sort().map((name) => h("option", { key: name, value: name }))));
}

export function setAddressFilter(route, name, value) {
  const values = new URLSearchParams(route().values);
  if (value) values.set(name, value);
  else values.delete(name);
  values.delete("before");
  const address = `#/${route().name}${values.size ? `?${values}` : ""}`;
  // What is typed bit by bit leaves no trail behind the browser's back button.
  if (name === "machine") location.replace(address);
  else location.hash = address;
}

// True while somebody points at this list, touches it or has its focus. Nothing in it may move then.
export function isHeld(selector) {
  const node = document.querySelector(selector);
  return node !== null && node.matches(":hover, :focus-within");
}

// True until ten seconds after the pointer or a key was last used, as nobody is about to click with a mouse at rest.
export function isInUse() {
  return performance.now() - usedAt < IN_USE_MS;
}

// What limits an answer, in words.
export function degradedWords(name) {
  return has(`degraded.${name}`) ? t(`degraded.${name}`) : name;
}

// Why a list is empty, if the server knows. What only IT can change is in small print.
export function reasonView({ reason, reason_tasks: tasks }, otherwise) {
  if (reason === "unheard") return note("reason.unheard");
  const mayComeYet = !reason || ["no_tasks", "silence"].includes(reason);
  // Without a connection, nothing arrives whatever the account may read.
  if (reason && mayComeYet && !live.broker.is_connected) return note("reason.no_broker");
  return [
    mayComeYet ? h("p", { class: "note", key: "none" }, otherwise) : null,
    reason
      ? h("p", { class: "quiet small", key: "for_it" }, t("for_it", { words: t(`reason.${reason}`, { tasks }) }))
      : null];
}

// Why a write failed.
export function troubleWords(error) {
  if (error.code === "login_again" || error.status === 401) return t("trouble.login");
  if (has(`trouble.${error.code}`)) return t(`trouble.${error.code}`);
  return error.status ? error.message : t("trouble.server");
}
