// A form that sends one request to a board or a pool, and the reply.

import { get, postText } from "./api.js";
import { h } from "./dom.js";
import { isOld, may } from "./live.js";
import { button, degradedWords, note, outputWords, plain, reasons, roleNote } from "./widgets.js";
import { poller } from "./poller.js";
import { has, measured, number, t } from "./words.js";

const AGAIN_AFTER_MS = 30_000;
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$/;

export function tryScreen({ route, redraw }) {
  let [target, task] = route().parts;
  let targets = null;
  let input; // The input that the form was made from; it must not change while somebody fills in the form.
  let isText = false;
  let isAsking = false;
  let result = null;

  const tasks = poller({
    everyMs: AGAIN_AFTER_MS,
    ask: () => get("tasks"),
    take: (answer) => {
      ({ targets } = answer);
      // What there is only one of needs no choice.
      if (targets.length === 1) target ??= targets[0].target;
      const those = targets.find((one) => one.target === target)?.tasks ?? [];
      if (those.length === 1) task ??= those[0].name;
    },
    redraw,
  });

  async function ask(event) {
    event.preventDefault();
    if (isAsking || isOld()) return;
    const [text, type] = bodyOf(event.target);
    if (text == null) {
      result = { words: type ? t("try.bad", { name: type }) : t("try.empty") };
      return redraw();
    }
    isAsking = true;
    result = null;
    redraw();
    const path = `ask/${target.split("/").map(encodeURIComponent).join("/")}/${encodeURIComponent(task)}`;
    try {
      result = { reply: await postText(path, envelopeOf(text, type), "application/json") };
    } catch (error) {
      result = { error, reply: error.body?.status ? error.body : null };
    }
    isAsking = false;
    redraw();
  }

  // Returns the request's body and its type, or null and the name of the field that is invalid.
  function bodyOf(form) {
    const fields = [...form.elements].filter((one) => one.name);
    if (form.elements.whole) {
      const { value } = form.elements.whole;
      if (!value.trim()) return [null];
      return isJson(value) ? [value, "application/json"] : [value, "text/plain"];
    }
    const parts = [];
    for (const field of fields) {
      const json = jsonOf(field.value, input[field.name]);
      if (json == null) return [null, field.name];
      parts.push(`${JSON.stringify(field.name)}: ${json}`);
    }
    return [`{${parts.join(", ")}}`, "application/json"];
  }

  function view() {
    tasks.refreshIfDue();
    const heading = h("h1", { tabindex: "-1", key: "title" }, t("tab.try"));
    if (!may("try")) return [heading, roleNote("try")];
    if (targets == null) return [heading, note(tasks.trouble ? "trouble.server" : "waiting")];
    const at = targets.find((one) => one.target === target);
    const chosen = at?.tasks.find((one) => one.name === task);
    if (chosen && input === undefined) input = chosen.input ?? null;
    return [
      heading,
      h("div", { class: "filters", key: "where" },
        select(
          "target",
          targets.map((one) => one.target),
          target,
          (name) => `try/${encodeURIComponent(name)}`),
        at
          ? select(
              "task",
              at.tasks.map((one) => one.name),
              task,
              (name) => `try/${encodeURIComponent(target)}/${encodeURIComponent(name)}`)
          : null),
      !targets.length
        ? note("try.no_targets")
        : target && !at
          ? note("try.unknown_target", { target })
          : at && !at.tasks.length
            ? note("try.no_tasks", { target })
            : task && !chosen
              ? note("try.unknown_task", { target, task })
              : chosen
                ? form(chosen)
                : note("try.choose"),
      chosen
        ? h("section", { class: "result", key: "result", "aria-live": "polite" },
            isAsking ? note("try.asking") : result ? resultView(result) : null)
        : null];
  }

  function form(chosen) {
    const hasFields = input !== null && typeof input === "object" && !Array.isArray(input) && !isText;
    return h("form", { class: "ask", key: hasFields ? "fields" : "text", onsubmit: ask },
      h("p", { class: "quiet", key: "from" }, t(input === null ? "try.no_input" : "try.from_last"), " ", t("try.cost")),
      hasFields
        ? Object.entries(input).map(([name, value]) => h("label", { key: name }, name, field(name, value)))
        : h("label", { key: "whole" },
            t("try.text"),
            h("textarea", { name: "whole", rows: "6", spellcheck: "false", value: wholeText() })),
      h("p", { class: "buttons" },
        h("button", { class: "main", "aria-disabled": isAsking || isOld() ? "true" : null }, t("try.ask")),
        input !== null && typeof input === "object" && !Array.isArray(input)
          ? button(
              {
                onclick: () => {
                  isText = !isText;
                  redraw();
                },
              },
              t(isText ? "try.as_fields" : "try.as_text"))
          : null));
  }

  function wholeText() {
    return input === null ? "" : typeof input === "string" ? input : JSON.stringify(input, null, 2);
  }

  function select(name, options, value, address) {
    return h("label", { key: name },
      t(`try.${name}`),
      h("select",
        {
          value: value ?? "",
          onchange: (event) => {
            location.hash = `#/${address(event.target.value)}`;
          },
        },
        value ? null : h("option", { key: "none", value: "", selected: true }, t("try.choose_one")),
        options.map((option) => h("option", { key: `=${option}`, value: option, selected: option === value }, option))),
    );
  }

  return { title: () => t("tab.try"), view };
}

function field(name, value) {
  if (typeof value === "boolean")
    return h("select", { name },
      ["true", "false"].map((word) => h("option", { value: word, selected: word === String(value), key: word }, word)));
  const isNumber = typeof value === "number";
  const text = isNumber ? measured(value) : typeof value === "string" ? value : JSON.stringify(value);
  return h("input", { name, value: text, autocomplete: "off", inputmode: isNumber ? "decimal" : null });
}

// A field's text as JSON of the same type as before. A number stays as it was typed, such as 7.90.
function jsonOf(text, before) {
  if (typeof before === "string") return JSON.stringify(text);
  const number = text.trim().replace(",", ".");
  if (typeof before === "number") return NUMBER.test(number) ? number : text.trim() === "" ? "null" : null;
  return isJson(text) ? text : before === null ? JSON.stringify(text) : null;
}

// Asks for no audit, because whoever tries a task sees its answer. A number stays as it was typed, also here.
function envelopeOf(text, type) {
  const value = type === "text/plain" ? text : JSON.parse(text);
  if (value === null || typeof value !== "object") return JSON.stringify({ input: text, audit: false });
  if (!Object.hasOwn(value, "input")) return `{"input": ${text}, "audit": false}`;
  return Object.hasOwn(value, "audit") ? text : text.replace("{", '{"audit": false, ');
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function resultView({ words, error, reply }) {
  if (words) return h("p", { class: "trouble" }, words);
  return [
    reply?.status === "ok" ? answer(reply) : h("p", { class: "trouble", key: "trouble" }, refusalWords(error, reply)),
    reply
      ? h("details", { key: "whole" },
          h("summary", null, t("try.whole")),
          h("pre", { tabindex: "0" }, JSON.stringify(reply, null, 2)))
      : null];
}

function answer(reply) {
  const isUnsure = reply.output == null;
  const details = [
    reply.device,
    reply.timing?.total_ms == null ? null : `${number(reply.timing.total_ms)} ms`,
    reply.model?.name,
  ].filter(Boolean);
  return h("div", { key: "answer" },
    h("p", { class: "big" },
      isUnsure
        ? t(reply.degraded?.includes("unsure") ? "try.unsure" : "output.none")
        : typeof reply.output === "object" && !("unusual" in reply.output)
          ? h("code", null, JSON.stringify(reply.output))
          : outputWords(reply.output)),
    reply.interval
      ? h("p", { key: "interval" },
          t("try.interval", { low: plain(reply.interval[0]), high: plain(reply.interval[1]) }))
      : null,
    reply.output?.because?.length ? reasons(reply.output.because) : null,
    (reply.degraded ?? [])
      .filter((name) => name !== "unsure")
      .map((name) => h("p", { class: "quiet", key: name }, degradedWords(name))),
    reply.scores ? scores(reply.scores) : null,
    h("p", { class: "quiet", key: "details" }, details.join(" · ")));
}

function scores(all) {
  const sorted = Object.entries(all).sort((one, other) => other[1] - one[1]);
  return h("table", { class: "scores", key: "scores" },
    h("caption", null, t("try.scores")),
    h("thead", { class: "for-readers" },
      h("tr", null, h("th", { scope: "col" }, t("column.label")), h("th", { scope: "col" }, t("column.score")))),
    h("tbody", null,
      sorted.map(([label, score]) =>
        h("tr", { key: label },
          h("th", { scope: "row" }, label),
          h("td", null,
            h("span", { class: "score" },
              h("span", { class: "scale", "aria-hidden": "true", share: score }),
              score > 0 && score < 0.01 ? `< ${number(0.01, 2)}` : number(score, 2)))))));
}

// Why there is no answer, and what to do.
function refusalWords(error, reply) {
  const code = reply?.error?.code ?? error?.code;
  const seconds = error?.retryAfter ?? reply?.error?.retry_after_s;
  const status = reply?.status;
  const key = [`try.code.${code}`, `try.status.${status}`].find(has);
  const why = key ? t(key) : (reply?.error?.message ?? error?.message ?? t("trouble.server"));
  const message = key && reply?.error?.message ? ` (${reply.error.message})` : "";
  if (error && !error.status) return t(error.name === "TimeoutError" ? "try.status.expired" : "trouble.server");
  return why + message + (seconds == null ? "" : ` ${t("try.come_back", { n: Math.ceil(seconds) })}`);
}
