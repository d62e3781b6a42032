// The journal as a list by day; gaps are entries, too.

import { h } from "./dom.js";
import { boardAddress, link, phraseWords } from "./widgets.js";
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
  const own = `${entry.what}.${entry.name}`;
  const name = ["level", "event"].includes(entry.what) && has(own) ? t(own) : (entry.name ?? "");
  const key = `entry.${entry.what}`;
  const what = has(key) ? t(key, { name, by: entry.by ?? t("somebody") }) : `${entry.what} ${name}`;
  const head = entry.what === "event" && entry.by ? t("entry.by", { what, by: entry.by }) : what;
  return [head, entry.text && phraseWords(entry.text)].filter(Boolean).join(": ");
}
