// Alarms now, grouped by name, and the journal of earlier days.

import { addressOf, get } from "./api.js";
import { h } from "./dom.js";
import { journalList } from "./journal.js";
import { isOld, live } from "./live.js";
import {
  addressFilter,
  alarmAdvice,
  alarmsByName,
  boardAddress,
  link,
  note,
  setAddressFilter,
  severityMark,
  since,
} from "./widgets.js";
import { alarmTitle, smallPrint } from "./phrases.js";
import { poller } from "./poller.js";
import { seenView } from "./seen.js";
import { t } from "./words.js";

const AGAIN_AFTER_MS = 10_000;
const MAX_ENTRIES = 500;
const WHATS = ["alarm", "level", "event", "feedback", "seen"];

export function alarmsScreen({ route, redraw }) {
  let entries = null;

  // The address's filters as parameters of the request.
  function query() {
    const values = Object.fromEntries(route().values);
    if (!values.day) return values;
    const start = new Date(`${values.day}T00:00:00`);
    const end = new Date(start);
    end.setDate(end.getDate() + 1);
    return { ...values, day: null, from: start.getTime() / 1000, to: end.getTime() / 1000 };
  }

  const journal = poller({
    everyMs: AGAIN_AFTER_MS,
    ask: () => get("journal", { ...query(), limit: MAX_ENTRIES }),
    take: (answer) => (entries = answer.journal),
    redraw,
  });

  function view() {
    journal.refreshIfDue(route().hash);
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
          onchange: (event) => setAddressFilter(route, "day", event.target.value),
        })),
      addressFilter({ route, name: "device", options: devices.map((name) => [name, name]), all: t("filter.all_boards") }),
      addressFilter({
        route,
        name: "what",
        options: WHATS.map((name) => [name, t(`what.${name}`)]),
        all: t("filter.everything"),
      }),
      h("a", { class: "button", download: "journal.csv", href: addressOf("journal", { ...query(), format: "csv" }) },
        t("csv")));
  }

  return { title: () => t("tab.alarms"), view };
}

function current() {
  if (live.at == null) return note("boards.waiting");
  const isSilent = ({ level, alarms }) =>
    level === "stale" || (["missing", "offline", "unknown"].includes(level) && !alarms?.length);
  const n = [...live.boards.values()].filter(isSilent).length;
  const silent = n
    ? h("p", { class: "note", key: "silent" }, link("boards?level=bad", {}, t("alarms.silent", { n })))
    : null;
  const groups = alarmsByName();
  if (!groups.length) return silent ?? (isOld() ? null : note("alarms.none"));
  groups.sort((one, other) => (other.severity === "critical") - (one.severity === "critical"));
  return [silent, h("ul", { class: "alarms", key: "current" },
    groups.map(({ name, alarms, severity }) =>
      h("li", { key: name, class: severity },
        h("p", { class: "alarm-name" },
          severityMark(severity),
          " ",
          alarmTitle(name),
          " ",
          h("span", { class: "quiet" }, t("n_boards", { n: alarms.length }))),
        h("p", { key: "todo" }, h("b", null, t("todo")), " ", alarmAdvice(name)),
        h("ul", { class: "on-boards" },
          alarms.map((alarm) =>
            h("li", { key: alarm.device },
              link(boardAddress(alarm.device), {}, alarm.device),
              " ",
              h("span", { class: "quiet" }, since(alarm.since)),
              " ",
              smallPrint(alarm.message),
              seenView(alarm.device, alarm)))))))];
}
