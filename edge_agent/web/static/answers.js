// The newest answers, to watch and to correct. The list stands still while somebody points at it.

import { get, post } from "./api.js";
import { choices, withNames } from "./choices.js";
import { h } from "./dom.js";
import { live, may, now } from "./live.js";
import { signedBy } from "./author.js";
import * as keys from "./keys.js";
import { markButtons, markLine, noteGiven } from "./marks.js";
import {
  addressFilter,
  boardAddress,
  button,
  degradedWords,
  hasFeatures,
  inputLine,
  inputView,
  isHeld,
  link,
  machineFilter,
  note,
  outputWords,
  reasonView,
  roleNote,
  troubleWords,
  writeButton,
} from "./widgets.js";
import { poller } from "./poller.js";
import { has, moment, number, t } from "./words.js";

const AGAIN_AFTER_MS = 950;
const LIST = ".answers-list";

export function answersScreen({ route, redraw }) {
  let newest = null;
  let rows = [];
  let shownFor = null;
  let open = null; // The answer whose other labels are shown.
  let find = "";
  let failed = null;
  let last = null; // The newest mark given here, for its undo.
  const tasks = new Set();
  const machines = new Set();

  const answers = poller({
    everyMs: AGAIN_AFTER_MS,
    ask: async () => {
      const { hash, values } = route();
      return { hash, ...(await get("answers", Object.fromEntries(values))) };
    },
    take: (answer) => {
      answer.rows.forEach((row) => row.task && tasks.add(row.task));
      answer.rows.forEach(({ machine }) => machine && machines.add(machine));
      // How many came since the last time and are not among the newest. For a selection of answers, nobody counts that.
      const isChoice = route().values.size > 0;
      answer.missed = newest == null || isChoice ? 0 : Math.max(0, answer.cursor - newest.cursor - answer.rows.length);
      newest = answer;
      const marks = new Map(newest.rows.map((row) => [row.key, row.mark]));
      for (const row of rows) if (marks.has(row.key)) row.mark = marks.get(row.key);
    },
    redraw,
  });

  async function say(row, what) {
    open = null;
    try {
      row.mark = last = await post("feedback", { key: row.key, ...what, ...signedBy() });
      noteGiven(last);
      failed = null;
    } catch (error) {
      failed = { key: row.key, error };
    }
    answers.refresh();
    redraw();
    document.getElementById(row.key)?.focus({ preventScroll: true });
  }

  async function change(path, mark) {
    try {
      const changed = await post(`feedback/${path}`, { mark: mark.mark, ...signedBy() });
      rows.filter((row) => row.key === mark.key).forEach((row) => (row.mark = changed));
      failed = null;
    } catch (error) {
      failed = { key: mark.key, error };
    }
    answers.refresh();
    redraw();
  }

  async function undo(mark) {
    last = null;
    await change("undo", mark);
  }

  function waiting() {
    const mark = last && (rows.find((row) => row.mark?.mark === last.mark)?.mark ?? last);
    const isDue = mark && now() >= mark.sends_at && live.broker.is_connected;
    return mark?.state === "waiting" && !isDue ? mark : null;
  }

  function view() {
    answers.refreshIfDue(route().hash);
    keys.setKeys({ u: () => waiting() && undo(waiting()) });
    const isOther = shownFor !== newest?.hash;
    const isStill = (isHeld(LIST) || open) && rows.length && !isOther;
    if (newest && !isStill) take();
    const newer = isStill ? newest.rows.filter((row) => !rows.some((one) => one.key === row.key)).length : 0;
    return [
      h("h1", { tabindex: "-1", key: "title" }, t("tab.answers")),
      h("div", { class: "filters", key: "filters" },
        filter("task", tasks),
        filter("device", live.boards.keys()),
        machineFilter({ route, names: machines })),
      !may("feedback") ? roleNote("feedback") : null,
      newest?.without_input ? note("answers.without_input", { n: newest.without_input }) : null,
      h("div", { class: "resort", key: "resort" },
        newer
          ? button(
              {
                onclick: () => {
                  open = null;
                  take();
                  document.querySelector("h1").focus();
                  redraw();
                },
              },
              t("answers.waiting", { n: newer }))
          : newest?.missed
            ? h("span", { class: "quiet" }, t("answers.skipped", { n: newest.missed }))
            : null),
      newest == null
        ? note(answers.trouble ? "trouble.server" : "waiting")
        : rows.length
          ? h("ol", { class: "answers-list", key: "list" }, rows.map(line))
          : none(),
      rows.length ? ages() : null,
      waiting() ? h("div", { class: "last", key: "last" }, markLine(waiting(), { undo, withKey: keys.areOn })) : null];
  }

  function none() {
    const names = ["device", "task", "machine"].map((name) => route().values.get(name)).filter(Boolean).join(" · ");
    return [
      reasonView(newest, t(names ? "answers.none_found" : "answers.none", { names })),
      names ? h("p", { class: "buttons", key: "all" }, link("answers", { class: "button" }, t("answers.all"))) : null];
  }

  function take() {
    ({ rows, hash: shownFor } = newest);
  }

  // To older answers, as far back as the server keeps them, and back.
  function ages() {
    const address = (before) => {
      const values = new URLSearchParams(route().values);
      values.delete("before");
      if (before != null) values.set("before", before);
      return values.size ? `answers?${values}` : "answers";
    };
    return h("p", { class: "buttons", key: "ages" },
      route().values.has("before") ? link(address(null), { class: "button", key: "newest" }, t("answers.newest")) : null,
      newest.older == null ? null : link(address(newest.older), { class: "button", key: "older" }, t("answers.older")));
  }

  function line(row) {
    return h("li", { key: row.key, id: row.key, tabindex: "-1" },
      h("p", { class: "answer" },
        h("time", null, moment(row.at, now())),
        " ",
        row.device ? link(boardAddress(row.device), {}, row.device) : null,
        " ",
        h("span", { class: "quiet" }, [row.task, row.machine].filter(Boolean).join(" · "))),
      h("p", { class: "output" },
        h("b", null,
          row.is_open_audit ? t(row.mark ? "answers.hidden" : "answers.open_audit") : row.error ? errorWords(row) : outputWords(row.output)),
        " ",
        row.score == null || row.is_open_audit ? null : number(row.score, 2),
        row.degraded?.length && !row.is_open_audit
          ? h("span", { class: "quiet" }, ` ${row.degraded.map(degradedWords).join(", ")}`)
          : null),
      h("p", { class: "quiet input-line" }, inputLine(row.input)),
      hasFeatures(row.input)
        ? h("details", { key: "features" }, h("summary", null, t("input.features")), inputView(row.input))
        : null,
      row.mark
        ? h("div", { key: "mark" },
            markLine(row.mark, { undo, withKey: keys.areOn && row.mark.mark === waiting()?.mark }))
        : null,
      h("div", { class: "buttons", key: "buttons" }, actions(row)),
      open === row.key
        ? h("div", { key: "open" },
            choices(withNames(row, newest.names), {
              choose: (answer) => say(row, { answer }),
              find,
              onFind: (text) => {
                find = text;
                redraw();
              },
            }))
        : null,
      failed?.key === row.key
        ? h("p", { class: "trouble", role: "alert", key: "failed" }, troubleWords(failed.error))
        : null);
  }

  function actions(row) {
    const toggle = () => {
      open = open === row.key ? null : row.key;
      find = "";
      redraw();
    };
    if (row.mark && ["waiting", "sent", "kept"].includes(row.mark.state)) {
      if (!may("feedback")) return null;
      return markButtons(row.mark, { correct: toggle, isOpen: open === row.key, reveal: (mark) => change("reveal", mark) });
    }
    if (row.is_open_audit) return link("check", { class: "button" }, t("answers.to_check"));
    if (!row.can_mark || row.input == null || !may("feedback")) return null;
    return [
      row.output == null || row.kind !== "classify"
        ? null
        : writeButton({ key: "right", onclick: () => say(row, { correct: true }) }, t("answers.right")),
      writeButton(
        {
          key: "other",
          "aria-expanded": open === row.key ? "true" : "false",
          onclick: toggle,
        },
        t(row.output == null || row.kind !== "classify" ? "answers.it_is" : "answers.other"))];
  }

  function filter(name, names) {
    const options = [...names].sort().map((each) => [each, each]);
    return addressFilter({ route, name, options, all: t("filter.all") });
  }

  return { title: () => t("tab.answers"), view, stop: () => keys.setKeys({}) };
}

function errorWords(row) {
  const key = [`try.code.${row.error.code}`, `try.status.${row.status}`].find(has);
  const message = row.error.message ?? row.error.code ?? "";
  return key ? `${t(key)} ${message && `(${message})`}` : `${row.status}: ${message}`;
}
