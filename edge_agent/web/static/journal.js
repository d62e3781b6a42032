// The journal as a list by day; gaps are entries, too.

import { h } from "./dom.js";
import { eventWords, nameWords, phrasesView, smallPrint } from "./phrases.js";
import { boardAddress, link } from "./widgets.js";
import { clock, day, has, moment, t } from "./words.js";

export function journalList(entries, { withDevice }) {
  const days = new Map();
  for (const entry of entries) {
    const name = day(entry.at);
    days.set(name, [...(days.get(name) ?? []), entry]);
  }
  return [...days].map(([name, those]) =>
    h("div", { key: name, class: "day" },
      h("h3", null, name),
      h("ol", { class: "journal" },
        those.map((entry, at) =>
          h("li",
            {
              key: `${entry.at} ${entry.device} ${entry.what} ${entry.name} ${at - those.length}`,
              class: gapOrNot(entry),
            },
            h("time", null, timeOf(entry)),
            withDevice && entry.device ? link(boardAddress(entry.device), { key: "device" }, entry.device) : null,
            h("span", { class: "entry" }, words(entry)))))));
}

function gapOrNot(entry) {
  if (entry.what === "page-was-off" || entry.what === "broker-lost") return "gap";
  return entry.what === "alarm" && entry.severity !== "warning" ? "critical" : "";
}

function timeOf(entry) {
  return entry.until == null ? clock(entry.at) : `${clock(entry.at)} – ${moment(entry.until, entry.at)}`;
}

function words(entry) {
  const { what, text } = entry;
  const name = nameOf(entry);
  const key = `entry.${what}`;
  const head = has(key) ? t(key, { name: name ?? "", by: entry.by ?? t("somebody") }) : `${what} ${name}`;
  const signed = what === "event" && entry.by ? t("entry.by", { what: head, by: entry.by }) : head;
  return text ? [signed, ": ", textOf(what, text)] : signed;
}

function nameOf({ what, name }) {
  if (what === "feedback") return name; // The name of a task, which may be that of an alarm, too.
  if (!["level", "event"].includes(what)) return nameWords(name);
  const key = `${what}.${name}`;
  return has(key) ? t(key) : name;
}

function textOf(what, text) {
  if (what === "event") return eventWords(text);
  if (what === "feedback") return eventWords(text).replace(/^(right|wrong)(?=: )/, (word) => t(word));
  return what === "alarm" ? smallPrint(text) : phrasesView(text);
}
