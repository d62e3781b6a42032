// What boards ask people: one audit at a time, blind, and beside it what was said and what the board had said.

import { get, post } from "./api.js";
import { promiseWords } from "./board.js";
import { choices, key, labelsOf } from "./choices.js";
import { h } from "./dom.js";
import * as keys from "./keys.js";
import { ageOf, isOld, live, now } from "./live.js";
import { nameField, signedBy } from "./person.js";
import {
  boardAddress,
  button,
  inputView,
  lacks,
  link,
  note,
  outputWords,
  plain,
  reasons,
  roleNote,
  troubleWords,
  writeButton,
} from "./show.js";
import { source } from "./source.js";
import { duration, has, moment, number, t } from "./words.js";

// A second touch within this time was meant for the audit before.
const GUARD_MS = 600;
const AGAIN_AFTER_MS = 950;

export function checksScreen({ route, redraw }) {
  let data = null;
  let current = null;
  let shownAt = 0;
  let find = "";
  let failed = null; // The choice that could not be sent, and why.
  const passed = new Set(); // Audits that somebody here cannot tell.
  const said = new Set(); // Audits answered here that the server may still list.
  const mine = new Set(); // What was said here: a key takes back nothing of anybody else.

  const checks = source({
    everyMs: AGAIN_AFTER_MS,
    ask: () => get("checks", { ...Object.fromEntries(route().values), limit: 20 }),
    take: (answer) => {
      data = answer;
      // What the server no longer lists needs no hiding here; it comes back if somebody takes the answer back.
      for (const key of said) if (!data.checks.some((check) => check.key === key)) said.delete(key);
    },
    redraw,
  });

  const open = () => (data?.checks ?? []).filter((check) => !said.has(check.key));
  const waiting = () => data?.marks.find((mark) => mark.state === "waiting" && mine.has(mark.mark));
  const left = () => open().filter((check) => !passed.has(check.key));

  function show(check) {
    if (check?.key !== current?.key) {
      shownAt = performance.now();
      find = "";
    }
    current = check ?? null;
  }

  function move(step) {
    const list = left();
    const at = list.findIndex((check) => check.key === current?.key);
    if (list.length) show(list[(at + step + list.length) % list.length]);
    refocus();
  }

  function refocus() {
    redraw();
    document.getElementById("check-title")?.focus();
  }

  async function choose(answer) {
    if (!current || isOld() || performance.now() - shownAt < GUARD_MS) return;
    const check = current;
    said.add(check.key);
    failed = null;
    show(next(check));
    refocus();
    try {
      const mark = await post("feedback", { key: check.key, answer, ...signedBy() });
      mine.add(mark.mark);
      data.marks = [mark, ...data.marks.filter((one) => one.mark !== mark.mark)];
      checks.read(); // What was asked for before tells an older state.
    } catch (error) {
      said.delete(check.key);
      show(check);
      failed = { check, answer, error };
    }
    redraw();
  }

  function next(check) {
    const all = data.checks.filter((one) => !passed.has(one.key) && (one.key === check.key || !said.has(one.key)));
    const at = all.indexOf(check);
    return all[at + 1] ?? all.find((one) => one !== check);
  }

  function pass() {
    if (!current || performance.now() - shownAt < GUARD_MS) return;
    passed.add(current.key);
    show(next(current));
    refocus();
  }

  async function undo(mark) {
    if (!mark) return;
    try {
      await post("feedback/undo", { mark: mark.mark });
      mark.state = "undone";
      said.delete(mark.key);
      await checks.read();
      show(open().find((check) => check.key === mark.key) ?? current);
      refocus();
    } catch (error) {
      failed = { check: null, error };
      checks.read();
    }
  }

  function setKeys() {
    const actions = { 0: pass, u: () => undo(waiting()), j: () => move(1), k: () => move(-1) };
    (current ? labelsOf(current) : []).slice(0, 9).forEach((label, at) => {
      actions[at + 1] = () => canAnswer(current) && choose(label);
    });
    keys.setKeys(actions);
  }

  function view() {
    checks.keep(route().hash);
    if (!left().some((check) => check.key === current?.key)) show(left()[0]);
    setKeys();
    return [
      h("h1", { tabindex: "-1", key: "title" }, t("tab.check")),
      data == null
        ? note(checks.trouble ? "trouble.server" : "waiting")
        : h("div", { class: "two", key: "two" },
            h("div", { key: "ask" },
              h("p", { class: "quiet", key: "count" }, t("checks.open", { n: data.open })),
              failure(),
              card(),
              h("div", { class: "tools", key: "tools" }, lacks("feedback") ? null : nameField(), keySwitch())),
            h("div", { key: "said" }, marks(), needs()))];
  }

  function card() {
    if (!current) return nothing();
    const title = [current.id && plain(current.id), current.machine].filter(Boolean).join(" · ") || current.task;
    return h("article", { class: "card", key: current.key, "aria-labelledby": "check-title" },
      h("h2", { id: "check-title", tabindex: "-1" }, title),
      h("p", { class: "quiet" },
        link(boardAddress(current.device), {}, current.device),
        ` · ${current.task} · ${moment(current.at, now())} (${t("ago", { length: duration(ageOf(current.at)) })})`),
      inputView(current.input),
      current.unusual
        ? h("div", { class: "unusual", key: "unusual" },
            h("h3", null, t("unusual.title")),
            reasons(current.unusual.because))
        : null,
      lacks("feedback") ? roleNote("feedback") : canAnswer(current) ? question() : note("checks.no_input"),
      h("p", { class: "buttons" },
        lacks("feedback")
          ? null
          : button({ key: "pass", onclick: pass }, keys.areOn ? key("0") : null, t("checks.pass")),
        left().length > 1
          ? [
              button({ key: "k", onclick: () => move(-1) }, keys.areOn ? key("k") : null, t("checks.before")),
              button({ key: "j", onclick: () => move(1) }, keys.areOn ? key("j") : null, t("checks.next"))]
          : null),
      h("p", { class: "quiet small", key: "cost" }, t("checks.pass.cost")));
  }

  function failure() {
    if (!failed) return null;
    const { check, answer, error } = failed;
    const sendAgain = () => {
      show(check);
      shownAt = -Infinity;
      choose(answer);
    };
    return h("p", { class: "trouble", role: "alert", key: "failed" },
      t("checks.failed", { why: troubleWords(error) }),
      " ",
      check && open().includes(check)
        ? writeButton({ key: "again", onclick: sendAgain }, t("again", { answer }))
        : null);
  }

  function question() {
    return h("div", { key: "question" },
      h("h3", null,
        t(
          current.kind === "unusual"
            ? "checks.question.unusual"
            : current.kind === "estimate"
              ? "checks.question.estimate"
              : "checks.question")),
      choices(current, {
        choose,
        find,
        onFind: (text) => {
          find = text;
          redraw();
        },
        withKeys: keys.areOn,
      }));
  }

  function nothing() {
    const skipped = open().length;
    return h("div", { class: "card", key: "none" },
      h("h2", { id: "check-title", tabindex: "-1" }, t(skipped ? "checks.all_passed" : "checks.none", { n: skipped })),
      h("p", null,
        skipped
          ? button(
              {
                onclick: () => {
                  passed.clear();
                  redraw();
                },
              },
              t("checks.show_again"))
          : (data.reason ?? t("checks.none.why"))));
  }

  function marks() {
    return h("section", { key: "marks", "aria-labelledby": "marks" },
      h("h2", { id: "marks" }, t("marks")),
      data.marks?.length
        ? h("ol", { class: "marks" },
            data.marks.map((mark) =>
              h("li", { key: mark.mark, class: mark.state },
                h("p", null,
                  t("marks.said", { answer: saidWords(mark.answer), who: mark.by ?? t("you") }),
                  " ",
                  h("span", { class: "quiet" }, stateWords(mark)),
                  mark.state === "waiting"
                    ? [
                        " ",
                        writeButton({ key: "undo", onclick: () => undo(mark) },
                          keys.areOn && mark === waiting() ? key("u") : null,
                          t("undo"))]
                    : null),
                boardSaid(mark),
                h("p", { class: "quiet small" }, `${mark.device} · ${mark.task} · ${moment(mark.at, now())}`))))
        : note("marks.none"));
  }

  function needs() {
    if (!data.needs?.length) return null;
    const named = new Map();
    for (const need of data.needs) {
      const name = `${need.task} · ${need.device}`;
      named.set(name, [...(named.get(name) ?? []), need]);
    }
    return h("section", { key: "needs", "aria-labelledby": "needs" },
      h("h2", { id: "needs" }, t("needs")),
      h("ul", { class: "needs" },
        [...named].map(([name, those]) =>
          h("li", { key: name },
            h("p", null, h("b", null, name)),
            h("p", null, t("accuracy.answered", { n: those[0].answered, asked: those[0].asked })),
            those.map((need) => h("p", { key: need.target }, promiseWords(need)))))));
  }

  function keySwitch() {
    return h("label", { class: "check", key: "keys" },
      h("input", {
        type: "checkbox",
        checked: keys.areOn,
        onchange: () => {
          keys.switchKeys();
          redraw();
        },
      }),
      t("keys"));
  }

  return { title: () => t("tab.check"), view, stop: () => keys.setKeys({}) };
}

// Without its input, nobody can judge an answer.
function canAnswer(check) {
  return check.input != null;
}

function stateWords(mark) {
  if (mark.state === "waiting")
    return t("mark.waiting", { length: duration(Math.max(0, Math.ceil(mark.sends_at - now()))) });
  if (mark.state === "refused") return t("mark.refused", { why: mark.error ?? "" });
  if (mark.state === "unanswered" && mark.error) return `${t("mark.unanswered")} ${mark.error}`;
  return t(`mark.${mark.state}`);
}

function saidWords(answer) {
  return typeof answer === "boolean"
    ? t(answer ? "right" : "wrong")
    : answer === "usual"
      ? t("output.usual")
      : plain(answer);
}

function boardSaid(mark) {
  if (mark.state !== "kept") return null;
  if (mark.output == null) return h("p", { key: "said" }, t("marks.board_unsure"));
  const score = mark.score == null ? "" : ` (${number(mark.score, 2)})`;
  const verdict = mark.is_right == null ? "" : ` ${t(mark.is_right ? "mark.right" : "mark.wrong")}`;
  return h("p", { key: "said" }, t("marks.board", { output: outputWords(mark.output) + score }), verdict);
}
