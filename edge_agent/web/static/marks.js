// What people said about answers, and what may still be done about it. To check and Answers show it alike.

import { signedBy } from "./author.js";
import { key } from "./choices.js";
import { h } from "./dom.js";
import { isLost, live, now } from "./live.js";
import { button, outputWords, plain, writeButton } from "./widgets.js";
import { duration, number, t } from "./words.js";

const given = new Set(); // Given in this tab, for a page without users, where a name proves nothing.

export function noteGiven(mark) {
  given.add(mark.mark);
}

// Nobody changes what others said.
export function isMine(mark) {
  if (live.session?.has_users) return mark.by === live.session.user;
  return given.has(mark.mark) || (mark.by != null && mark.by === signedBy().by);
}

export function markLine(mark, { undo, withKey }) {
  return h("p", { key: "mark" },
    h("span", null,
      t("marks.said", { answer: answerWords(mark.answer, mark.is_none), who: mark.by ?? t("you") }),
      " ",
      h("span", { class: "quiet" }, stateWords(mark))),
    " ",
    mark.state === "waiting" && isMine(mark)
      ? (isLost() ? writeButton : button)({ key: "undo", onclick: () => undo(mark) }, withKey ? key("u") : null, t("undo"))
      : null);
}

export function boardAnswer(mark) {
  if (mark.state !== "kept" || mark.is_hidden) return null;
  const score = mark.score == null ? "" : ` (${number(mark.score, 2)})`;
  if (mark.output == null)
    return h("p", { key: "said" },
      t(mark.is_unproven ? "marks.board_unproven" : "marks.board_unsure"),
      mark.best == null
        ? ""
        : ` ${t("marks.board_best", { output: mark.best + score })} ${t(mark.best === mark.answer ? "mark.right" : "mark.wrong")}`);
  // A name for what an unusual reading was agrees with the board that it is unusual.
  const isNamed = mark.kind === "unusual" && mark.answer !== "usual";
  const verdict = mark.is_right == null || isNamed ? "" : ` ${t(mark.is_right ? "mark.right" : "mark.wrong")}`;
  return h("p", { key: "said" }, t("marks.board", { output: outputWords(mark.output) + score }), verdict);
}

// Buttons to correct one's own answer and to see the board's. An audit can be corrected only until then.
export function markButtons(mark, { correct, isOpen, reveal }) {
  if (!isMine(mark) || !(mark.can_correct || mark.is_hidden)) return null;
  return h("p", { class: "buttons", key: "change" },
    mark.can_correct
      ? writeButton(
          { key: "correct", "aria-expanded": isOpen ? "true" : "false", onclick: () => correct(mark) },
          t("marks.correct"))
      : null,
    mark.is_hidden ? writeButton({ key: "reveal", onclick: () => reveal(mark) }, t("marks.reveal")) : null);
}

export function answerWords(answer, isNone) {
  if (isNone) return t("choices.none");
  return typeof answer === "boolean"
    ? t(answer ? "right" : "wrong")
    : answer === "usual"
      ? t("output.usual")
      : plain(answer);
}

function stateWords(mark) {
  if (mark.state === "waiting" && isLost()) return t("mark.unseen");
  // What waits for the broker can still be undone.
  if (mark.state === "waiting" && !live.broker.is_connected) return t("mark.unsent");
  if (mark.state === "waiting")
    return t("mark.waiting", { length: duration(Math.max(0, Math.floor(mark.sends_at - now()))) });
  const why = mark.error_code ? t(`fault.${mark.error_code}`) : (mark.error ?? "");
  if (mark.state === "refused") return t("mark.refused", { why });
  if (mark.state === "unanswered" && why) return `${t("mark.unanswered")} ${why}`;
  return t(`mark.${mark.state}`);
}
