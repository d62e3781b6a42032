// One board: alarms and what to do, figures, tasks, signals, the last 24 hours.

import { get } from "./api.js";
import { h } from "./dom.js";
import { journalList } from "./journal.js";
import { ageOf, isOld, live, may } from "./live.js";
import { seenView } from "./seen.js";
import {
  alarmAdvice,
  checkAddress,
  figure,
  latency,
  levelMark,
  link,
  note,
  severityMark,
  since,
  whyView,
} from "./widgets.js";
import { alarmTitle, smallPrint } from "./phrases.js";
import { poller } from "./poller.js";
import { queueText } from "./boards.js";
import { duration, has, measured, number, percent, t, UNKNOWN } from "./words.js";

const AGAIN_AFTER_MS = 5000;
const SILENT = ["offline", "stale", "stopped"];
// A share of fewer answers than this says little.
const MIN_FOR_SHARE = 20;

export function boardScreen({ route, redraw }) {
  const [device] = route().parts;
  let details = null;
  const reading = poller({
    everyMs: AGAIN_AFTER_MS,
    ask: () => get(`boards/${encodeURIComponent(device)}`),
    take: (answer) => (details = answer),
    redraw,
  });

  function view() {
    reading.refreshIfDue();
    const { trouble } = reading;
    if (trouble?.status === 404) details = null;
    const board = live.boards.get(device) ?? details?.board;
    live.fresh.delete(device);
    const back = link("boards", { class: "back", key: "back" }, `‹ ${t("tab.boards")}`);
    if (!board)
      return [
        back,
        h("h1", { tabindex: "-1", key: "title" }, device),
        trouble?.status === 404 ? note("board.unknown", { device }) : note(trouble ? "trouble.server" : "waiting")];
    return [
      back,
      h("div", { class: "board-head", key: "title" },
        h("h1", { tabindex: "-1" }, board.device),
        levelMark(board.level),
        h("span", { class: "quiet" },
          [
            board.since == null ? null : since(board.since),
            board.model,
            board.pool && t("in_pool", { name: board.pool })]
            .filter(Boolean)
            .join(" · "))),
      h("section", { key: "alarms", class: "board-alarms" },
        board.level === "stale" ? [whyView(board), alarms(board)] : [alarms(board), whyView(board)]),
      h("section", { key: "figures", "aria-labelledby": "figures" },
        h("h2", { id: "figures" }, t("board.figures"), " ", h("span", { class: "quiet" }, healthWords(board))),
        figures(board)),
      details
        ? [tasks(details.tasks ?? [], details.board), signals(details.signals ?? []), journal(details.journal ?? [])]
        : note(trouble ? "trouble.server" : "waiting")];
  }

  function alarms(board) {
    const isDoubtful = board.level === "stale";
    if (!board.alarms?.length)
      return ["missing", "offline", "stale", "unknown"].includes(board.level) ? null : note("board.no_alarms");
    return h("ul", { class: `alarms ${isDoubtful ? "doubtful" : ""}` },
      board.alarms.map((alarm) =>
        h("li", { key: alarm.name, class: alarm.severity === "warning" ? "warning" : "critical" },
          h("p", { class: "alarm-name" },
            severityMark(alarm.severity),
            " ",
            alarmTitle(alarm.name),
            " ",
            isDoubtful ? null : h("span", { class: "quiet" }, since(alarm.since))),
          isDoubtful ? h("p", { class: "quiet", key: "doubt" }, t("alarm.doubtful")) : null,
          isDoubtful ? null : h("p", { key: "todo" }, h("b", null, t("todo")), " ", alarmAdvice(alarm.name)),
          h("p", { key: "message" }, smallPrint(alarm.message) ?? t("alarm.no_message")),
          seenView(device, alarm))));
  }

  return { title: () => device, view };
}

function healthWords(board) {
  const age = ageOf(board.health_at);
  return age == null
    ? t("board.no_health")
    : t("board.health_age", { age: duration(age), interval: duration(board.health_interval_s) });
}

function figures(board) {
  const known = [
    figure(t("figure.temperature"), board.soc_c, "°C", 1),
    figure(t("figure.headroom"), board.headroom_c, "°C", 1),
    figure(t("figure.queue"), board.queue?.[0] == null ? null : queueText(board.queue)),
    figure(t("figure.p95"), ...latency(board.p95_ms)),
    figure(t("figure.speed"), board.tok_s, t("unit.tokens"), board.tok_s < 100 ? 1 : 0),
    figure(t("figure.watts"), board.watts, "W", 1)].filter(Boolean);
  return known.length ? h("dl", { class: "figures" }, known) : null;
}

function tasks(all, board) {
  return h("section", { key: "tasks", "aria-labelledby": "tasks" },
    h("h2", { id: "tasks" }, t("board.tasks")),
    all.length
      ? h("ul", { class: "tasks" },
          all.map((task) =>
            h("li", { key: task.name },
              h("p", null,
                h("b", null, task.name),
                " ",
                h("span", { class: "quiet" }, has(`kind.${task.kind}`) ? t(`kind.${task.kind}`) : (task.kind ?? ""))),
              h("p", { class: "accuracy" }, accuracyWords(task, board)),
              h("p", { class: "buttons" },
                task.open_checks ? link(checkAddress(board.device, task.name), { key: "check", class: "button" }, t("tab.check")) : null,
                link(`answers?task=${encodeURIComponent(task.name)}&device=${encodeURIComponent(board.device)}`,
                  { key: "answers", class: "button" },
                  t("tab.answers")),
                may("try")
                  ? link(`try/${encodeURIComponent(board.device)}/${encodeURIComponent(task.name)}`,
                      { key: "try", class: "button" },
                      t("tab.try"))
                  : null))))
      : note(isOld() ? "boards.waiting" : "board.no_tasks"),
    all.some((task) => task.kind === "classify" && !task.audit_rate) ? note("accuracy.how") : null);
}

// What audits say about a task, or why that is unknown.
function accuracyWords(task, board) {
  const entry = task.accuracy;
  if (!entry && (board.alarms ?? []).some((alarm) => alarm.name === "model-load-failed")) return t("accuracy.no_model");
  if (!entry && ["unknown", "starting"].includes(board.level)) return t("accuracy.not_yet");
  if (!entry && (board.health_at == null || SILENT.includes(board.level))) return t("accuracy.no_health");
  if (!entry && task.kind === "unusual") return t(task.open_checks ? "accuracy.unusual" : "accuracy.unusual.none", { n: task.open_checks });
  if (!entry) return t(task.kind === "classify" || task.kind === "estimate" ? "accuracy.off" : "accuracy.none_of_kind");
  if (task.kind === "estimate") return [...nearness(entry), givenWords(entry.given)].join(" ");
  if (!entry.audits) {
    const hasDropped = (board.alarms ?? []).some(
      ({ name, message }) => name === "accuracy-low" && concerns(message ?? "", task.name));
    const none = hasDropped ? t("accuracy.none_since_drop") : t(task.audit_rate ? "accuracy.no_audits" : "accuracy.no_rate");
    return [none, givenWords(entry.given)].join(" ");
  }
  const parts = [t("accuracy.answered", { n: entry.audits, asked: entry.asked }), newerWords(task.promise)];
  if (entry.audits >= MIN_FOR_SHARE)
    parts.unshift(t("accuracy.right", { share: percent(entry.accuracy), bound: percent(entry.lower_bound) }));
  if (entry.promised != null) parts.push(t("promise.proven", { target: percent(entry.promised) }));
  else parts.push(...[task.promise ?? []].flat().map((each) => promiseWords(each)));
  parts.push(givenWords(entry.given));
  return parts.filter(Boolean).join(" ");
}

// Audits of readings that got no number are answered, too, but have no error to average.
function nearness(entry) {
  if (!entry.audits) return [t("accuracy.no_audits")];
  const answered = t("accuracy.answered", { n: entry.audits, asked: entry.asked });
  return entry.mean_error == null
    ? [answered]
    : [t("accuracy.estimate", { error: number(entry.mean_error, 2), holds: percent(entry.holds) }), answered];
}

// Whether an alarm's message names this task, alone or among several.
function concerns(message, task) {
  const [, several = ""] = message.match(/^tasks (.*?): /) ?? [];
  return message.startsWith(`task ${task} `) || several.split(", ").includes(task);
}

// Without `differed` where people can still correct their answers, because it would tempt them to.
export function promiseWords(promise, { differed = true } = {}) {
  const target = percent(promise.target);
  if (promise.more === 0) return t("promise.proven", { target });
  // Right answers prove nothing as long as the others are missing.
  if (promise.words_key === "too_few_answered" && promise.more != null)
    return t("promise.too_few_answered", { n: promise.more, target });
  if (promise.words_key === "enough") return t("promise.enough", { target });
  if (promise.words_key === "refuted") return t("promise.refuted", { target });
  const why = promise.words_key === "not_asked" ? ` ${t("promise.not_asked")}` : "";
  // Each right answer lowers the number, and one unlike the board's raises it.
  const wrong = differed && promise.wrong ? ` ${t("promise.wrong", { n: promise.wrong })}` : "";
  return promise.more == null
    ? `${t("promise.unknown", { target })}${why}`
    : `${t("promise.more", { n: promise.more, target })}${wrong}${why}`;
}

// A promise may be kept by withholding most answers.
export function givenWords(given) {
  return given != null && given < 1 ? t("promise.given", { share: percent(given) }) : "";
}

function newerWords(promise) {
  return promise?.answered && promise.newer ? t("promise.newer", { n: promise.newer }) : "";
}

function signals(all) {
  if (!all.length) return null;
  return h("section", { key: "signals", "aria-labelledby": "signals" },
    h("h2", { id: "signals" }, t("board.signals")),
    all.map((table) =>
      h("div", { key: table.name, class: "signal" },
        h("h3", null,
          table.name,
          " ",
          h("span", { class: "quiet" },
            table.at == null ? t("signals.never") : t("ago", { length: duration(ageOf(table.at)) }))),
        h("div", { class: "machines" },
          (table.machines ?? []).map((machine) =>
            h("table", { key: machine.machine },
              h("caption", null,
                machine.machine,
                machine.lacking?.length
                  ? h("span", { class: "quiet" }, ` – ${t("signals.lacking", { names: machine.lacking.join(", ") })}`)
                  : null),
              h("thead", null,
                h("tr", null,
                  h("th", { scope: "col" }, t("column.value")),
                  h("th", { scope: "col", class: "number" }, t("column.now")),
                  h("th", { scope: "col", class: "number" }, t("column.age")))),
              h("tbody", null,
                (machine.values ?? []).map((one) =>
                  h("tr", { key: one.name },
                    h("th", { scope: "row" }, one.name),
                    h("td", { class: "number" }, measured(one.value)),
                    h("td", { class: "number" },
                      one.age_s == null ? UNKNOWN : duration(one.age_s + (ageOf(table.at) ?? 0))))))))))));
}

function journal(entries) {
  return h("section", { key: "journal", "aria-labelledby": "day" },
    h("h2", { id: "day" }, t("board.day")),
    entries.length ? journalList(entries, { withDevice: false }) : note("journal.empty"),
    h("p", { class: "buttons" }, link("alarms", { class: "button" }, t("journal.all"))));
}
