// The site as of the server's last response, which is polled once a second while the tab is visible, and its time.

import { get } from "./api.js";

const VISIBLE_MS = 1000;
const HIDDEN_MS = 10_000;
const LOST_AFTER_MS = 5000;

const nothing = () => ({
  boards: new Map(),
  order: [],
  counts: {},
  pools: [],
  broker: { is_connected: true, trouble: null },
  openChecks: 0,
  alarmsLastHour: null,
  at: null, // The server's time of this data.
});
export const live = {
  session: null,
  ...nothing(),
  isPaused: false,
  fresh: new Set(), // Boards that became critical while this page was open, until somebody opens them.
};
let cursor = null;
let heardAt = performance.now();
let offset = null; // From this browser's monotonic clock to the server's time, in seconds.
let timer;
let listener = () => {};

// The server's time, whatever this browser's clock says.
export function now() {
  return offset == null ? null : offset + performance.now() / 1000;
}

export function ageOf(at) {
  return at == null || offset == null ? null : Math.max(0, now() - at);
}

export function isLost() {
  return !live.isPaused && performance.now() - heardAt > LOST_AFTER_MS;
}

// True if the data may be out of date.
export function isOld() {
  return live.isPaused || isLost() || live.at == null || !live.broker.is_connected;
}

export async function readSession() {
  live.session = await get("session");
  if (!may("view")) forget();
}

// Whoever may not view the site, such as after a logout, sees nothing of what somebody else was shown here.
function forget() {
  Object.assign(live, nothing());
  cursor = null;
}

export function may(role) {
  return live.session?.roles.includes(role) ?? false;
}

export function start(onChange) {
  listener = onChange;
  document.addEventListener("visibilitychange", () => document.hidden || poll());
  poll();
}

export function setPaused(isPaused) {
  live.isPaused = isPaused;
  heardAt = performance.now();
  if (!isPaused) poll();
  listener();
}

export async function poll() {
  clearTimeout(timer);
  if (live.isPaused) return;
  try {
    if (!live.session) await readSession();
    const { session } = live;
    const changes = may("view") ? await get("changes", { after: cursor }) : null;
    // The login may have ended meanwhile.
    if (changes && session === live.session) take(changes);
    heardAt = performance.now();
  } catch (error) {
    if (error.status === 401 || error.status === 403) {
      live.session = null;
      forget();
    }
  }
  clearTimeout(timer);
  timer = setTimeout(poll, document.hidden ? HIDDEN_MS : VISIBLE_MS);
  listener();
}

function take(changes) {
  offset = changes.now - performance.now() / 1000;
  cursor = changes.cursor;
  if (changes.is_whole) live.boards = new Map();
  for (const board of changes.boards) live.boards.set(board.device, board);
  for (const device of changes.gone ?? []) live.boards.delete(device);
  Object.assign(live, {
    at: changes.now,
    order: changes.order,
    counts: changes.counts ?? {},
    pools: changes.pools ?? [],
    broker: changes.broker,
    openChecks: changes.open_checks,
    alarmsLastHour: changes.alarms_last_hour,
  });
}
