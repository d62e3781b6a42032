// Alarms now, one line for each cause, and the journal of earlier days.

import { addressOf, get } from "./api.js";
import { h } from "./dom.js";
import { journalList } from "./journal.js";
import { live } from "./live.js";
import { alarmAdvice, boardAddress, link, note, severityMark, since } from "./show.js";
import { source } from "./source.js";
import { t } from "./words.js";

const AGAIN_AFTER_MS = 10_000;
const MAX_ENTRIES = 500;
const WHATS = ["alarm", "level", "event", "feedback", "seen"];

export function alarmsScreen({ route, redraw }) {
  let entries = null;

  // What the address asks for, as values of the request.
  function wish() {
    const values = Object.fromEntries(route().values);
    if (!values.day) return values;
    const start = new Date(`${values.day}T00:00:00`);
    const end = new Date(start);
    end.setDate(end.getDate() + 1);
    return { ...values, day: null, from: start.getTime() / 1000, to: end.getTime() / 1000 };
  }

  const journal = source({
    everyMs: AGAIN_AFTER_MS,
    ask: () => get("journal", { ...wish(), limit: MAX_ENTRIES }),
    take: (answer) => (entries = answer.journal),
    redraw,
  });

  function change(name, value) {
    const values = new URLSearchParams(route().values);
    if (value) values.set(name, value);
    else values.delete(name);
    location.hash = `#/alarms${values.size ? `?${values}` : ""}`;
  }

  function view() {
    journal.keep(route().hash);
    return [
      h("h1", { tabindex: "-1", key: "title" }, t("tab.alarms")),
      h("section", { key: "now", "aria-labelledby": "now" },
        h("h2", { id: "now" }, t("alarms.now")),
        current(),
        live.alarmsLastHour == null
          ? null
          : h("p", { class: "quiet", key: "hour" }, t("alarms_last_hour", { n: live.alarmsLastHour }))),
      h("section", { key: "journal", "aria-labelledby": "journal" },
        h("h2", { id: "journal" }, t("journal")),
        filters(),
        journal.trouble
          ? note("trouble.server")
          : entries == null
            ? note("waiting")
            : entries.length
              ? journalList(entries, { withDevice: true })
              : note("journal.empty"),
        entries?.length === MAX_ENTRIES ? note("journal.cut", { n: MAX_ENTRIES }) : null)];
  }

  function filters() {
    const { values } = route();
    const devices = [...live.boards.keys()].sort();
    return h("div", { class: "filters", key: "filters" },
      h("label", null,
        t("filter.day"),
        h("input", {
          type: "date",
          value: values.get("day") ?? "",
          onchange: (event) => change("day", event.target.value),
        })),
      select(
        "device",
        devices.map((name) => [name, name]),
        t("filter.all_boards")),
      select(
        "what",
        WHATS.map((name) => [name, t(`what.${name}`)]),
        t("filter.everything")),
      h("a", { class: "button", download: "journal.csv", href: addressOf("journal", { ...wish(), format: "csv" }) },
        t("csv")));
  }

  function select(name, options, whole) {
    const value = route().values.get(name) ?? "";
    return h("label", { key: name },
      t(`filter.${name}`),
      h("select", { value, onchange: (event) => change(name, event.target.value) },
        [["", whole], ...options].map(([option, word]) =>
          h("option", { key: `=${option}`, value: option, selected: option === value }, word))));
  }

  return { title: () => t("tab.alarms"), view };
}

function current() {
  const named = new Map();
  for (const device of live.order)
    for (const alarm of live.boards.get(device)?.alarms ?? [])
      named.set(alarm.name, [...(named.get(alarm.name) ?? []), { ...alarm, device }]);
  if (!named.size) return note(live.at == null ? "boards.waiting" : "alarms.none");
  const isCritical = (alarms) => alarms.some((one) => one.severity !== "warning");
  const groups = [...named].sort((one, other) => isCritical(other[1]) - isCritical(one[1]));
  return h("ul", { class: "alarms", key: "current" },
    groups.map(([name, alarms]) =>
      h("li", { key: name, class: isCritical(alarms) ? "critical" : "warning" },
        h("p", { class: "alarm-name" },
          severityMark(isCritical(alarms) ? "critical" : "warning"),
          " ",
          h("b", null, name),
          " ",
          h("span", { class: "quiet" }, t("n_boards", { n: alarms.length }))),
        h("p", { key: "todo" }, h("b", null, t("todo")), " ", alarmAdvice(name)),
        h("ul", { class: "on-boards" },
          alarms.map((alarm) =>
            h("li", { key: alarm.device },
              link(boardAddress(alarm.device), {}, alarm.device),
              " ",
              h("span", { class: "quiet" }, since(alarm.since)),
              alarm.message ? ` ${alarm.message}` : ""))))));
}
