// START HERE: the address names a screen, the screen describes itself, and everything is redrawn once a second.

import { alarmsScreen } from "./alarms.js";
import { answersScreen } from "./answers.js";
import { onLoginAgain, post } from "./api.js";
import { boardScreen } from "./board.js";
import { boardsScreen } from "./boards.js";
import { checksScreen } from "./checks.js";
import { draw, h } from "./dom.js";
import { setKeys } from "./keys.js";
import * as site from "./live.js";
import { loginScreen, passwordDialog } from "./login.js";
import { splitPhrase } from "./phrases.js";
import { button, isWall, LEVELS, levelMark, link, loginAddress } from "./widgets.js";
import { tryScreen } from "./try.js";
import { chooseLanguage, clock, has, language, LANGUAGES, moment, t } from "./words.js";

const { live } = site;
const STATUS_EVERY_MS = 60_000;
const SCREENS = {
  boards: boardsScreen,
  board: boardScreen,
  alarms: alarmsScreen,
  check: checksScreen,
  answers: answersScreen,
  try: tryScreen,
  login: loginScreen,
};

let screen;
let route;
let status = { text: "", at: -Infinity };
let announcement = ""; // Screen readers speak it at once.
let drawnAt = 0;
let critical = null; // The boards that were critical when last drawn.

function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeSafely);
  return {
    name: parts[0] in SCREENS ? parts[0] : "boards",
    parts: parts.slice(1),
    values: new URLSearchParams(query),
    hash: location.hash,
  };
}

function decodeSafely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function open() {
  const before = route;
  route = readAddress();
  // Filters change the address but not the screen, which keeps its state.
  const isSame = before?.name === route.name && before.parts.join("/") === route.parts.join("/");
  if (!isSame) {
    screen?.stop?.();
    setKeys({});
    screen = SCREENS[route.name]({ route: () => route, redraw });
  }
  redraw();
  if (before && !isSame) {
    scrollTo(0, 0);
    document.querySelector("h1")?.focus();
  }
}

function redraw() {
  drawnAt = performance.now();
  const focused = document.activeElement;
  document.documentElement.className = `${isWall ? "wall" : ""} ${site.isOld() && live.at != null ? "old" : ""}`;
  const needsLogin = live.session && !site.may("view") && route.name !== "login";
  const shown = needsLogin ? loginView : live.session ? screen : nothingYet;
  document.title = `${shown.title()} – ${live.session?.site ?? "edge-agent"}`;
  alertNewCritical();
  draw(document.body,
    h("a", { class: "skip", href: "#main", onclick: skip, key: "skip" }, t("skip")),
    h("header", { key: "head" },
      head(),
      isWall ? null : h("div", { class: "tabs", key: "tabs" }, needsLogin ? null : tabs(), userView())),
    h("div", { class: "bars", key: "bars" }, bars()),
    h("main", { id: "main", tabindex: "-1", key: "main" },
      h("div", { class: `screen ${route.name}`, key: screenKey(needsLogin) }, shown.view())),
    isWall ? null : h("footer", { key: "foot" }, foot()),
    h("div", { class: "for-readers", role: "status", key: "status" }, statusText()),
    h("div", { class: "for-readers", role: "alert", key: "alert" }, announcement));
  // The focused element may be gone, such as a button that was pressed.
  if (!focused?.isConnected) document.querySelector("#check-title, h1")?.focus({ preventScroll: true });
}

const loginView = loginScreen({ redraw });
const nothingYet = { title: () => t("as_of.none"), view: () => h("p", { class: "note" }, t("waiting")) };
const screenKey = (needsLogin) =>
  needsLogin ? "login" : !live.session ? "" : `${route.name}/${route.parts.join("/")}`;

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function head() {
  // Without the broker, what is shown is older than the server's answer; a bar says since when.
  const asOf = !live.broker.is_connected ? null : live.at == null ? t("as_of.none") : t("as_of", { time: clock(live.at) });
  return h("div", { class: "head", key: "head" },
    h("span", { class: "site", key: "site" }, live.session?.site ?? "edge-agent"),
    h("ul", { class: "counts", "aria-label": t("counts"), key: "counts" },
      LEVELS.filter((level) => live.counts[level]).map((level) =>
        h("li", { key: level },
          link(`boards?level=${level}`,
            { class: `count ${level}` },
            h("b", null, live.counts[level]),
            " ",
            levelMark(level))))),
    h("span", { class: "as-of", key: "as-of" }, asOf));
}

function userView() {
  if (!live.session?.has_users) return null;
  if (!live.session.user) return link(loginAddress(), { key: "user", class: "user" }, t("login"));
  return h("span", { key: "user", class: "user" },
    live.session.user,
    " ",
    button({ class: "quiet", onclick: logOut }, t("logout")));
}

async function logOut() {
  await post("logout", {}).catch(() => null);
  await site.readSession().catch(() => null);
  location.hash = "#/boards";
  site.poll();
}

function tabs() {
  const counts = { check: live.openChecks };
  return h("nav", { "aria-label": t("tabs"), key: "tabs" },
    h("ul", null,
      ["boards", "alarms", "check", "answers", ...(site.may("try") ? ["try"] : [])].map((name) =>
        h("li", { key: name },
          link(name,
            { "aria-current": name === route.name || (name === "boards" && route.name === "board") ? "page" : null },
            t(`tab.${name}`),
            counts[name] ? h("span", { class: "number" }, ` ${counts[name]}`) : "")))));
}

// Conditions of the whole page.
function bars() {
  const { broker } = live;
  if (site.isLost())
    return h("p", { class: "bar critical", key: "lost" },
      live.at == null ? t("bar.never") : t("bar.lost", { time: clock(live.at) }));
  if (live.isPaused)
    return h("p", { class: "bar", key: "paused" },
      t("bar.paused", { time: clock(live.at) }),
      " ",
      button({ onclick: () => site.setPaused(false) }, t("go_on")));
  if (live.at != null && !broker.is_connected)
    return h("p", { class: "bar critical", key: "broker" },
      t(broker.since == null ? "bar.broker.never" : "bar.broker", {
        name: broker.name,
        time: moment(broker.since, site.now()),
        trouble: broker.trouble ? splitPhrase(broker.trouble).words : t("bar.broker.trouble"),
      }));
  // That boards may be missing matters only to those who read their list.
  const isShown = broker.hint && (broker.hint_code !== "not_retained" || route.name === "boards");
  return isShown ? h("p", { class: "bar", key: "hint" }, hintWords(broker)) : null;
}

function hintWords({ hint, hint_code: code }) {
  return has(`hint.${code}`) ? t(`hint.${code}`, { site: live.session?.site }) : hint;
}

function foot() {
  return h("p", { class: "quiet", key: "foot" },
    button(
      {
        key: "pause",
        class: "quiet pause",
        "aria-pressed": live.isPaused ? "true" : "false",
        onclick: () => site.setPaused(!live.isPaused),
      },
      t("pause")),
    Object.entries(LANGUAGES)
      .filter(([name]) => name !== language)
      .map(([name, word]) =>
        button({ key: name, class: "quiet", lang: name, onclick: () => chooseLanguage(name) }, word)),
    h("a", { href: "?wall#/boards" }, t("wall")),
    h("a", { href: "boards.txt" }, "boards.txt"),
    h("span", null, ["edge-agent", live.session?.version, "·", live.broker.name].filter(Boolean).join(" ")));
}

// Screen readers hear the counts at most once a minute.
function statusText() {
  const text = LEVELS.filter((level) => live.counts[level])
    .map((level) => `${live.counts[level]} ${t(`level.${level}`)}`)
    .join(", ");
  if (text !== status.text && performance.now() - status.at > STATUS_EVERY_MS) status = { text, at: performance.now() };
  return text && status.text;
}

function alertNewCritical() {
  if (live.at == null) {
    announcement = "";
    return;
  }
  const names = [...live.boards.values()].filter((board) => board.level === "critical").map((board) => board.device);
  const fresh = critical && names.filter((name) => !critical.has(name));
  if (fresh?.length) {
    fresh.forEach((name) => live.fresh.add(name));
    announcement = t("alert", { boards: fresh.join(", ") });
  }
  critical = new Set(names);
}

document.documentElement.lang = language;
onLoginAgain(passwordDialog);
addEventListener("hashchange", open);
open();
site.start(redraw);
setInterval(() => performance.now() - drawnAt < 900 || redraw(), 1000);
