// What boards say about themselves, in the reader's language where it is known, and else in the boards' own English.

import { h } from "./dom.js";
import { now } from "./live.js";
import { has, moment, percent, t, UNKNOWN } from "./words.js";

// Only figures and names follow these, which need no translation.
const FIGURES = ["worker restarts", "sensors that cannot be read", "throttled"];
const TIMES = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g;

// The name of an alarm, or of a reason.
export function nameWords(name) {
  return has(`phrase.${name}`) ? t(`phrase.${name}`) : (name ?? "");
}

// The name of an alarm, and its code, by which the documentation lists it.
export function alarmTitle(name) {
  const words = nameWords(name);
  return [h("b", null, words), " ", words === name ? null : h("span", { class: "quiet small", key: "code" }, name)];
}

// A text of a board, with its times in the reader's time zone.
export function smallPrint(text) {
  if (!text) return null;
  const local = text.replace(TIMES, (time) => moment(Date.parse(time) / 1000, now()));
  return h("span", { class: "quiet small", lang: "en", key: "board" }, local);
}

// The words of a phrase in the reader's language, and what the board adds to them.
export function splitPhrase(phrase) {
  const [, length] = phrase.match(/^last heard (.+) ago, and its broker has lost what it said$/) ?? [];
  if (length) return { words: t("phrase.forgotten", { length: lengthWords(length) }) };
  const [, ago] = phrase.match(/^last health (.+?) ago(?:, due every .+)?$/) ?? [];
  if (ago) return { words: t("phrase.last_health", { length: lengthWords(ago) }) };
  const [, reason, task, open, until] = phrase.match(/^(audits-open: )?(.+): (\d+) open, answered until (\S+)$/) ?? [];
  if (task)
    return { words: (reason ? `${t("phrase.audits-open")}: ` : "") + openAuditsWords(task, open, Date.parse(until) / 1000) };
  if (phrase.startsWith("governor ")) return { words: t("phrase.governor"), said: phrase };
  const name = has(`phrase.${phrase}`) ? phrase : phrase.split(":", 1)[0];
  if (!has(`phrase.${name}`)) return { words: phrase, isUnknown: true };
  const said = phrase.slice(name.length + 2);
  return said && FIGURES.includes(name) ? { words: `${t(`phrase.${name}`)}: ${said}` } : { words: t(`phrase.${name}`), said };
}

// Phrases in one line, such as those of an entry of the journal.
export function phrasesView(text) {
  const phrases = [];
  for (const part of text.split("; ")) {
    const phrase = splitPhrase(part);
    const before = phrases.at(-1);
    // What a board adds may have a semicolon of its own.
    if (phrase.isUnknown && before?.said) before.said += `; ${part}`;
    else phrases.push(phrase);
  }
  return [
    phrases.map(({ words }) => words).join("; "),
    " ",
    smallPrint(phrases.map(({ said }) => said).filter(Boolean).join("; "))];
}

function lengthWords(length) {
  return length.replace(/ d$/, ` ${t("unit.d")}`);
}

function openAuditsWords(task, open, until) {
  const values = { task, open, time: moment(until, now()) };
  return Number.isNaN(until) ? t("audits.never_answered", values) : t("audits.answered_until", values);
}

// The fields of an event, as the server joins them.
export function eventWords(text) {
  const [, same] = text.match(/^the same bundle again: (.+)$/) ?? [];
  if (same) return t("event.same", { name: bundleWords(same) });
  const [, old, current] = text.match(/^old (.+), new (.+)$/) ?? [];
  if (old) return t("event.from_to", { old: bundleWords(old), new: bundleWords(current) });
  const [, after, before] = text.match(/^now (.+), before (.+)$/) ?? [];
  if (after) return t("event.from_to", { old: before, new: after });
  return text.split("; ").map(fieldWords).join("; ");
}

function bundleWords(bundle) {
  return bundle.replace(/\(version (?=\S+\))/, `(${t("event.version")} `);
}

function fieldWords(field) {
  const [, name, value] = field.match(/^(\w+): (.*)$/) ?? [];
  if (!has(`field.${name}`)) return field;
  return `${t(`field.${name}`)}: ${valueWords(name, value)}`;
}

function valueWords(name, value) {
  if (value === "None") return UNKNOWN;
  if (name === "promised" && !Number.isNaN(Number(value))) return percent(Number(value));
  const key = [`value.${name}.${value}`, `value.${value}`].find(has);
  return key ? t(key) : value;
}
