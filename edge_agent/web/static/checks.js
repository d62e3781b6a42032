// The checks that boards ask for, one at a time, and beside them the newest marks with what the board had answered.

import { get, post } from "./api.js";
import { givenWords, promiseWords } from "./board.js";
import { choices, key, labelsOf, mayBeNone, withNames } from "./choices.js";
import { h } from "./dom.js";
import * as keys from "./keys.js";
import { ageOf, isOld, live, may, now } from "./live.js";
import { nameField, signedBy } from "./author.js";
import { answerWords, boardAnswer, isMine, markButtons, markLine, noteGiven } from "./marks.js";
import {
  addressFilter,
  boardAddress,
  button,
  checkAddress,
  inputLine,
  inputView,
  link,
  machineFilter,
  note,
  reasons,
  reasonView,
  roleNote,
  troubleWords,
  writeButton,
} from "./widgets.js";
import { poller } from "./poller.js";
import { duration, has, moment, t } from "./words.js";

// A second touch within this time was meant for the previous check.
const GUARD_MS = 600;
const AGAIN_AFTER_MS = 950;
const PAGE = 20;
const MIN_AHEAD = 5;
const NOTICE_S = 15;

export function checksScreen({ route, redraw }) {
  let data = null;
  let current = null;
  let shownAt = 0;
  let find = "";
  let limit = PAGE;
  let failed = null; // The mark that could not be sent, and why.
  let lost = 0; // How many answers a server that was restarted may not have sent.
  let late = null; // The answer to a check that somebody else had just answered.
  let correcting = null; // The mark whose correction is being chosen.
  const tasks = new Set();
  const machines = new Set();
  const skipped = new Set(); // Checks that somebody here cannot tell.
  let passed = null; // The one skipped last, until another is answered.
  const marked = new Set(); // Checks answered here that the server may still list.
  const pressed = new Set(); // Every check answered here.

  const checks = poller({
    everyMs: AGAIN_AFTER_MS,
    ask: async () => {
      const { hash, values } = route();
      const answer = await get("checks", { ...Object.fromEntries(values), limit, shown: current?.key, ...signedBy() });
      return { ...answer, hash };
    },
    take: (answer) => {
      const before = data;
      data = answer;
      lost = (before?.marks ?? []).filter(isForgotten).length || lost;
      if (before?.hash !== data.hash) show(left()[0]);
      // A link to another list may be far below its first reading.
      if (before && before.hash !== data.hash && !document.activeElement?.closest(".filters")) refocus();
      for (const need of data.needs) tasks.add(need.task);
      for (const check of data.checks) {
        tasks.add(check.task);
        if (check.machine) machines.add(check.machine);
      }
      // Once the server no longer lists a check, it may come back, because somebody may undo its mark.
      for (const key of marked) if (!data.checks.some((check) => check.key === key)) marked.delete(key);
    },
    redraw,
  });

  const open = () => (data?.checks ?? []).filter((check) => !marked.has(check.key));
  const asked = () => withNames(current, data.names);
  const isEarly = () => performance.now() - shownAt < GUARD_MS;
  const waiting = () => data?.marks.find((mark) => mark.state === "waiting" && isMine(mark));
  const left = () => open().filter((check) => !skipped.has(check.key));
  const isLeft = () => left().some((check) => check.key === current?.key);
  // Anything else that is no longer on the list may come back, such as when its board is heard again.
  const isOver = (key) =>
    data.closed === key || ["waiting", "sent", "kept", "corrected"].includes(markOf(key)?.state);
  // Somebody else has answered it while it is shown here, and another one must not come under a finger on its way.
  const isTaken = () =>
    current != null && !isLeft() && may("feedback") && isOver(current.key) && !isSaidHere(current.key);
  const isSaidHere = (key) => skipped.has(key) || (pressed.has(key) && (markOf(key)?.by == null || isMine(markOf(key))));
  const isForgotten = (said) =>
    said.state === "waiting" && isMine(said) && !data.marks.some((one) => one.mark === said.mark);
  const markOf = (key) => data.marks.find((mark) => mark.key === key && mark.state !== "undone");

  function show(check) {
    if (check?.key !== current?.key) {
      shownAt = performance.now();
      setTimeout(redraw, GUARD_MS + 1);
      find = "";
    }
    current = check ?? null;
  }

  function move(step) {
    if (isTaken()) return goOn();
    const list = left();
    const at = list.findIndex((check) => check.key === current?.key);
    if (list.length) show(list[(at + step + list.length) % list.length]);
    refocus();
  }

  // What was pressed for a reading that somebody else has answered counts for nothing.
  function goOn() {
    show(left()[0]);
    refocus();
  }

  function refocus() {
    redraw();
    document.getElementById("check-title")?.focus();
  }

  async function choose(answer) {
    if (!current || isOld() || isEarly()) return;
    if (isTaken()) return goOn();
    const check = current;
    marked.add(check.key);
    pressed.add(check.key); // Before it is sent, because the list may come before the reply.
    failed = passed = null;
    lost = 0;
    show(next(check));
    refocus();
    try {
      await give(check.key, answer);
    } catch (error) {
      if (error.code === "already_answered") {
        late = { key: check.key, answer, until: now() + NOTICE_S };
        checks.refresh();
      } else {
        marked.delete(check.key);
        show(check);
        failed = { check, answer, error };
      }
    }
    redraw();
  }

  async function give(key, answer) {
    const mark = await post("feedback", { key, ...(answer === false ? { correct: false } : { answer }), ...signedBy() });
    noteGiven(mark);
    data.marks = [mark, ...data.marks.filter((one) => one.mark !== mark.mark)];
    checks.refresh(); // A response that is on its way may be older than the mark.
  }

  async function change(act) {
    failed = null;
    try {
      await act();
    } catch (error) {
      failed = { check: null, error };
    }
    checks.refresh();
    redraw();
  }

  const correct = (mark, answer) =>
    change(async () => {
      await give(mark.key, answer);
      correcting = null;
    });
  const reveal = (mark) => change(() => post("feedback/reveal", { mark: mark.mark, ...signedBy() }));

  function next(check) {
    // The list may have come again since the check was shown, so it is found by its key.
    const at = data.checks.findIndex((one) => one.key === check.key);
    const isNext = (one) => one.key !== check.key && !skipped.has(one.key) && !marked.has(one.key);
    return data.checks.slice(at + 1).find(isNext) ?? data.checks.find(isNext);
  }

  function skip() {
    if (!current || isEarly()) return;
    if (isTaken()) return goOn();
    passed = current;
    skipped.add(passed.key);
    show(next(passed));
    refocus();
  }

  function bringBack() {
    skipped.delete(passed.key);
    show(open().find((check) => check.key === passed.key) ?? current);
    passed = null;
    refocus();
  }

  function passedLine() {
    return h("p", { key: "passed" },
      t("checks.put_back"),
      " ",
      button({ onclick: bringBack }, keys.areOn ? key("u") : null, t("checks.bring_back")));
  }

  async function undo(mark) {
    if (!mark) return;
    try {
      await post("feedback/undo", { mark: mark.mark, ...signedBy() });
      mark.state = "undone";
      marked.delete(mark.key);
      pressed.delete(mark.key);
      await checks.refresh();
      show(open().find((check) => check.key === mark.key) ?? current);
      refocus();
    } catch (error) {
      failed = { check: null, error };
      checks.refresh();
    }
  }

  function setKeys() {
    const actions = { 0: skip, u: () => (passed ? bringBack() : undo(waiting())), j: () => move(1), k: () => move(-1) };
    (current ? labelsOf(asked()) : []).slice(0, 9).forEach((label, at) => {
      actions[at + 1] = () => canAnswer(current) && choose(label);
    });
    if (current && mayBeNone(asked())) actions.n = () => canAnswer(current) && choose(false);
    keys.setKeys(actions);
  }

  function view() {
    checks.refreshIfDue(route().hash);
    if (!isLeft() && !isTaken()) show(left()[0]);
    const ahead = left().length - left().findIndex((check) => check.key === current?.key);
    if (ahead <= MIN_AHEAD && data?.open > data?.checks.length) limit = data.checks.length + PAGE;
    setKeys();
    return [
      h("h1", { tabindex: "-1", key: "title" }, data?.open ? t("checks.open", { n: data.open }) : t("tab.check")),
      data == null
        ? note(checks.trouble ? "trouble.server" : "waiting")
        : h("div", { class: "two", key: "two" },
            h("div", { key: "ask" },
              failure(),
              lateNote(),
              lost ? h("p", { class: "trouble", role: "alert", key: "lost" }, t("checks.lost", { n: lost })) : null,
              notHere(),
              leftOut(),
              card(),
              skippedNote(),
              filters(),
              may("feedback") ? h("div", { class: "tools", key: "tools" }, nameField(), keySwitch()) : null),
            h("div", { key: "said" }, passed ? passedLine() : null, marks(), needs())),
      passed || waiting()
        ? h("div", { class: "last", key: "last" }, passed ? passedLine() : lineOf(waiting()))
        : null];
  }

  function card() {
    if (!current) return nothing();
    const buttons = isTaken() ? takenNote() : questionAndButtons();
    return h("article", { class: isTaken() ? "card taken" : "card", key: current.key, "aria-labelledby": "check-title" },
      h("h2", { id: "check-title", tabindex: "-1" }, titleOf(current)),
      h("p", { class: "quiet" },
        link(boardAddress(current.device), {}, current.device),
        ` · ${current.task} · ${moment(current.at, now())} (${t("ago", { length: duration(ageOf(current.at)) })})`),
      inputView(current.input),
      current.unusual
        ? h("div", { class: "unusual", key: "unusual" },
            h("h3", null, t("unusual.title")),
            reasons(current.unusual.because))
        : null,
      buttons,
      current.id == null ? null : h("p", { class: "quiet small id", key: "id" }, String(current.id)));
  }

  function takenNote() {
    const who = markOf(current.key)?.by;
    return h("div", { key: "taken", role: "status" },
      h("p", { class: "trouble" }, who ? t("checks.taken", { who }) : t("checks.closed")),
      h("p", { class: "buttons" }, button({ class: "main", onclick: goOn }, t("checks.next"))));
  }

  function questionAndButtons() {
    return [
      !may("feedback") ? roleNote("feedback") : canAnswer(current) ? question() : note("checks.no_input"),
      h("p", { class: "buttons" },
        may("feedback")
          ? button({ key: "pass", "aria-disabled": isEarly() ? "true" : null, onclick: skip }, keys.areOn ? key("0") : null, t("checks.pass"))
          : null,
        left().length > 1
          ? [
              button({ key: "k", onclick: () => move(-1) }, keys.areOn ? key("k") : null, t("checks.before")),
              button({ key: "j", onclick: () => move(1) }, keys.areOn ? key("j") : null, t("checks.next"))]
          : null),
      current.kind === "unusual" || !may("feedback")
        ? null
        : h("p", { class: "quiet small", key: "cost" }, t("checks.pass.cost"))];
  }

  function failure() {
    const { check, answer, error } = failed ?? {};
    if (!failed || (check && check.key !== current?.key)) return null;
    const sendAgain = () => {
      shownAt = -Infinity;
      choose(answer);
    };
    return h("p", { class: "trouble", role: "alert", key: "failed" },
      t("checks.failed", { why: troubleWords(error) }),
      " ",
      check
        ? writeButton({ key: "again", onclick: sendAgain }, t("again", { answer: answerWords(answer, answer === false) }))
        : null);
  }

  function question() {
    return h("div", { key: "question" },
      h("h3", null, t(has(`checks.question.${current.kind}`) ? `checks.question.${current.kind}` : "checks.question")),
      choices(asked(), {
        choose,
        find,
        onFind: (text) => {
          find = text;
          redraw();
        },
        withKeys: keys.areOn,
        withNone: true,
        isEarly: isEarly(),
      }));
  }

  function nothing() {
    const isOnlyHere = route().values.size > 0 && !open().length && !data.unheard && live.openChecks > 0;
    // The lines above it say why.
    const isElsewhere = data.not_here.length > 0 && [null, "silence"].includes(data.reason);
    return h("div", { class: "card", key: "none" },
      h("h2", { id: "check-title", tabindex: "-1" },
        isOnlyHere
          ? t("checks.none.here", { names: choice().join(" · "), n: live.openChecks })
          : data.unheard ? t("checks.unheard", { n: data.unheard }) : t(isElsewhere ? "checks.none.elsewhere" : "checks.none")),
      open().length || isOnlyHere || isElsewhere ? null : reasonView(data, t("checks.none.why")),
      data.has_uncounted && data.listening_since != null
        ? h("p", { class: "quiet small", key: "uncounted" },
            t("checks.uncounted", { time: moment(data.listening_since, now()) }),
            " ",
            t("for_it", { words: t("checks.uncounted.it") }))
        : null,
      route().values.size ? h("p", { class: "buttons", key: "all" }, link("check", { class: "button" }, t("checks.all"))) : null);
  }

  function notHere() {
    return data.not_here.map(({ device, task, n, topic, is_promised: isPromised }) =>
      h("p", { class: isPromised ? "trouble" : "quiet", key: `not-here ${device} ${task}` },
        t(topic ? "checks.not_here.any" : "checks.not_here", { n, device, task }),
        topic ? [" ", t("for_it", { words: t("checks.not_here.topic", { topic, task }) })] : null));
  }

  function leftOut() {
    return data.left_out
      ? h("p", { class: "quiet", key: "left-out" }, t("checks.left_out", { n: data.left_out }), " ", link("check", {}, t("checks.all")))
      : null;
  }

  const choice = () => ["device", "task", "machine"].map((name) => route().values.get(name)).filter(Boolean);

  // Closed at first, because a phone has little room above the reading.
  function filters() {
    const choose = (name, names) =>
      addressFilter({ route, name, options: [...names].sort().map((each) => [each, each]), all: t("filter.all") });
    return h("details", { key: "filters" },
      h("summary", null, choice().length ? t("checks.only", { names: choice().join(" · ") }) : t("checks.filter")),
      h("div", { class: "filters" },
        choose("device", live.boards.keys()),
        choose("task", tasks),
        machineFilter({ route, names: machines })));
  }

  function skippedNote() {
    const n = open().length - left().length;
    const showAgain = () => {
      passed = null;
      skipped.clear();
      redraw();
    };
    return n
      ? h("p", { key: "skipped" }, t("checks.skipped", { n }), " ", button({ onclick: showAgain }, t("checks.show_again")))
      : null;
  }

  function marks() {
    return h("section", { key: "marks", "aria-labelledby": "marks" },
      h("h2", { id: "marks" }, t("marks")),
      data.marks?.length
        ? h("ol", { class: "marks" },
            data.marks.map((mark) =>
              h("li", { key: mark.mark, class: mark.state },
                lineOf(mark),
                boardAnswer(mark),
                h("p", { class: "quiet small", key: "where" },
                  [mark.machine, mark.device, mark.task, t("marks.at", { time: moment(mark.at, now()) })].filter(Boolean).join(" · ")),
                h("p", { class: "quiet small input-line", key: "input" }, inputLine(mark.input)),
                may("feedback")
                  ? markButtons(mark, { correct: toggleCorrecting, isOpen: correcting === mark.mark, reveal })
                  : null,
                correcting === mark.mark && mark.can_correct
                  ? h("div", { key: "choices" },
                      choices(withNames(mark, data.names), {
                        choose: (answer) => correct(mark, answer),
                        withNone: mark.is_hidden,
                        find,
                        onFind: (text) => {
                          find = text;
                          redraw();
                        },
                      }))
                  : null)))
        : note("marks.none"));
  }

  function toggleCorrecting(mark) {
    correcting = correcting === mark.mark ? null : mark.mark;
    redraw();
  }

  function lineOf(mark) {
    return markLine(mark, { undo, withKey: keys.areOn && mark === waiting() });
  }

  function lateNote() {
    if (!late || now() > late.until) return null;
    const first = markOf(late.key);
    return h("p", { class: "trouble", role: "alert", key: "late" },
      t("checks.late", { who: first?.by ?? t("somebody"), answer: answerWords(late.answer, late.answer === false) }));
  }

  function needs() {
    if (!data.needs?.length) return null;
    // For each task, the first target that is not proven yet.
    const named = new Map();
    for (const need of data.needs) {
      const name = `${need.task} · ${need.device}`;
      if ((named.get(name)?.more ?? 0) === 0) named.set(name, need);
    }
    return h("section", { key: "needs", "aria-labelledby": "needs" },
      h("h2", { id: "needs" }, t("needs")),
      h("ul", { class: "needs" },
        [...named].map(([name, need]) =>
          h("li", { key: name },
            h("p", null, h("b", null, name)),
            h("p", null, t("needs.answered", { n: need.answered, open: need.open })),
            h("p", null, promiseWords(need, { differed: false }), " ", givenWords(need.given)),
            need.open
              ? h("p", { class: "buttons", key: "check" },
                  link(checkAddress(need.device, need.task), { class: "button" }, t("tab.check")))
              : null))));
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

function titleOf(check) {
  return check.machine ?? moment(check.at, now());
}

// Nobody can check an answer without its input.
function canAnswer(check) {
  return check.input != null;
}
