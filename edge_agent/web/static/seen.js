// "I have seen it" below an alarm, and who has.

import { post } from "./api.js";
import { h } from "./dom.js";
import { signedBy } from "./author.js";
import { may, poll } from "./live.js";
import { troubleWords, writeButton } from "./widgets.js";
import { clock, t } from "./words.js";

const refusals = new Map(); // Why marking an alarm did not work.

async function markSeen(device, alarm) {
  const key = `${device}/${alarm}`;
  try {
    await post("seen", { device, alarm, ...signedBy() });
    refusals.delete(key);
  } catch (error) {
    refusals.set(key, error);
  }
  poll();
}

export function seenView(device, { name, seen }) {
  const refusal = refusals.get(`${device}/${name}`);
  if (!seen && !may("feedback")) return null;
  return h("p", { key: "seen", class: "seen" },
    seen ? t("seen.by", { name: seen.by ?? t("somebody"), time: clock(seen.at) }) : null,
    " ",
    may("feedback") ? writeButton({ onclick: () => markSeen(device, name) }, t("seen.do")) : null,
    refusal ? h("span", { class: "trouble", role: "alert", key: "refusal" }, troubleWords(refusal)) : null);
}
