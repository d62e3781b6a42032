// Polls one address for a screen, seldom while the tab is hidden, and not at all while the page is paused.

import { live } from "./live.js";

const HIDDEN_MS = 10_000;

export function poller({ everyMs, ask, take, redraw }) {
  let askedAt = -Infinity;
  let askedFor;
  let turn = 0;
  let isAsking = false;
  const self = {
    trouble: null,

    // Reads if the data is too old or belongs to another address.
    refreshIfDue(address = "") {
      const isOld = performance.now() - askedAt > (document.hidden ? HIDDEN_MS : everyMs);
      if (address === askedFor && (!isOld || isAsking || live.isPaused)) return;
      askedFor = address;
      self.refresh();
    },

    async refresh() {
      const mine = ++turn;
      askedAt = performance.now();
      isAsking = true;
      const [answer, trouble] = await ask().then(
        (value) => [value, null],
        (error) => [null, error]);
      if (mine !== turn) return;
      isAsking = false;
      self.trouble = trouble;
      if (!trouble) take(answer);
      redraw();
    },
  };
  return self;
}
