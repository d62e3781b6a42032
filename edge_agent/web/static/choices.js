// The controls for a person's answer: one button per label, a number, or words for an unusual reading.

import { h } from "./dom.js";
import { writeButton } from "./widgets.js";
import { t } from "./words.js";

const MAX_BUTTONS = 12;
const MAX_KEYS = 9;

export function labelsOf(item) {
  return item.kind === "unusual" ? ["usual", ...(item.labels ?? [])] : (item.labels ?? []);
}

// An unusual reading has no labels; the names that were last given to others of its task stand for them.
export function withNames(item, names) {
  return item?.kind === "unusual" ? { ...item, labels: names[item.task] } : item;
}

// With two labels, the board takes the other one to be right.
export function mayBeNone(item) {
  return item.kind === "classify" && labelsOf(item).length > 2;
}

// `find` filters long lists of labels; `choose` takes the answer to send, unless `isEarly`; false stands for
// none of the labels.
export function choices(item, { choose, find, onFind, withKeys, withNone, isEarly }) {
  const labels = labelsOf(item);
  const isLong = labels.length > MAX_BUTTONS;
  const isFound = (label) => !isLong || label.toLowerCase().includes((find ?? "").toLowerCase());
  return [
    isLong
      ? h("label", { class: "find", key: "find" },
          t("choices.find", { n: labels.length }),
          h("input", { type: "search", oninput: (event) => onFind(event.target.value) }))
      : null,
    labels.length
      ? h("div",
          { class: `choices ${isLong ? "long" : ""}`, key: "choices", role: "group", "aria-label": t("choices") },
          labels.map((label, at) =>
            isFound(label)
              ? writeButton({ key: label, class: "choice", isEarly, onclick: () => choose(label) },
                  withKeys && at < MAX_KEYS ? key(at + 1) : null,
                  h("span", null, item.kind === "unusual" && label === "usual" ? t("output.usual") : label))
              : null))
      : null,
    withNone && mayBeNone(item)
      ? h("p", { class: "buttons", key: "none" },
          writeButton({ key: "none", isEarly, onclick: () => choose(false) }, withKeys ? key("n") : null, t("choices.none")))
      : null,
    item.kind === "estimate" ? numberForm(item, choose, isEarly) : null,
    item.kind === "unusual" ? textForm(choose, isEarly) : null];
}

export function key(name) {
  return h("kbd", { key: "kbd", "aria-hidden": "true" }, name);
}

function numberForm(item, choose, isEarly) {
  return h("form", { class: "say", key: "number", onsubmit: (event) => sent(event, (text) => numberOf(text), choose) },
    h("label", null,
      item.unit ? t("choices.number_in", { unit: item.unit }) : t("choices.number"),
      h("input", {
        name: "said",
        inputmode: "decimal",
        autocomplete: "off",
        required: true,
        pattern: "\\s*[+\\-]?[0-9]*[.,]?[0-9]+([eE][+\\-]?[0-9]+)?\\s*",
        title: t("choices.number.how"),
      })),
    submitButton(isEarly));
}

function textForm(choose, isEarly) {
  return h("form",
    { class: "say", key: "text", onsubmit: (event) => sent(event, (text) => text.trim() || null, choose) },
    h("label", null,
      t("choices.text"),
      h("input", { name: "said", maxlength: "200", autocomplete: "off", required: true })),
    submitButton(isEarly));
}

function submitButton(isEarly) {
  return writeButton({ type: "submit", key: "send", isEarly }, t("send"));
}

function sent(event, read, choose) {
  event.preventDefault();
  if (event.target.querySelector("[aria-disabled]")) return;
  const said = read(new FormData(event.target).get("said"));
  if (said != null) choose(said);
}

function numberOf(text) {
  const value = Number(text.trim().replace(",", "."));
  return text.trim() && Number.isFinite(value) ? value : null;
}
