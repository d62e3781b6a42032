// All boards, worst first. Rows do not move under a pointer, a finger or the focus until 10 s after the last input.

import { h } from "./dom.js";
import { ageOf, isOld, live } from "./live.js";
import {
  alarmAdvice,
  alarmsByName,
  boardAddress,
  button,
  isHeld,
  isInUse,
  isWall,
  latency,
  levelMark,
  link,
  note,
  severityMark,
  since,
  todoView,
  URGENT,
  whyView,
} from "./widgets.js";
import { nameWords, smallPrint } from "./phrases.js";
import { duration, number, t, UNKNOWN } from "./words.js";

const FILTERS = {
  urgent: (board) => URGENT.includes(board.level),
  bad: (board) => board.level !== "ok",
  all: () => true,
};
const LIST = ".boards-list";
const BELOW_PX = 64; // The height of the line on the wall that says how many rows are below.

export function boardsScreen({ route, redraw }) {
  let shown = []; // Devices as last sorted.
  let sorted = new Map(); // Their rows at that time.
  let causes = null;
  let sortedFor = null;
  let find = "";

  let usual = "bad"; // All boards if none is bad.
  const level = () => route().values.get("level") ?? usual;
  const passes = (board) => (FILTERS[level()] ?? ((one) => one.level === level()))(board);
  const isFound = (board) => board.device.toLowerCase().includes(find.toLowerCase());

  function sort() {
    shown = live.order.filter((device) => live.boards.has(device));
    sorted = new Map(shown.map((device) => [device, { ...live.boards.get(device), isFresh: live.fresh.has(device) }]));
    causes = groups();
    usual = [...live.boards.values()].some(FILTERS.bad) ? "bad" : "all";
    sortedFor = level();
  }

  function changed() {
    const names = new Set([...live.order, ...shown]);
    return [...names].filter((device) => live.boards.get(device)?.level !== sorted.get(device)?.level).length;
  }

  function view() {
    const isHere = !isWall && isHeld(LIST) && isInUse();
    if (!isHere || sortedFor !== level()) sort();
    // While the list is held, levels and figures change, but nothing that would move a row.
    const boards = shown.map((device) => {
      const board = live.boards.get(device);
      const was = sorted.get(device);
      const gone = { device, level: "unknown", why: [t("boards.gone")], isFresh: was.isFresh };
      return board ? { ...board, was } : { ...gone, was: gone };
    });
    const passed = (board) => passes(sorted.get(board.device));
    // One that got worse stands behind the others.
    const worse = boards.filter((board) => !passed(board) && passes(board)).map((board) => ({ ...board, was: board }));
    const rows = [...boards.filter(passed), ...worse].filter(isFound);
    const calm = level() === "bad" && !find ? boards.filter((board) => !passed(board) && !passes(board)) : [];
    const count = isHere ? changed() : 0;
    return [
      h("h1", { tabindex: "-1", key: "title", class: isWall ? "for-readers" : null }, t("tab.boards")),
      h("div", { class: "filters", key: "filters" },
        h("nav", { "aria-label": t("filters") },
          Object.keys(FILTERS).map(filterLink),
          level() in FILTERS ? null : filterLink(level())),
        h("label", { class: "find" },
          t("find"),
          h("input", {
            type: "search",
            oninput: (event) => {
              find = event.target.value;
              sort();
              redraw();
            },
          }))),
      causes,
      h("div", { class: "resort", key: "resort" },
        count
          ? button(
              {
                onclick: () => {
                  sort();
                  document.querySelector("h1").focus();
                  redraw();
                },
              },
              t("resort", { n: count }))
          : null),
      h("div", { class: "boards-list", key: "list" },
        rows.length ? table(rows) : emptyNote(boards.length),
        calm.length
          ? h("section", { class: "calm", key: "calm" },
              h("h2", null, t(isOld() ? "boards.calm.old" : "boards.calm", { n: calm.length })),
              h("ul", null,
                calm.map((board) => h("li", { key: board.device }, link(boardAddress(board.device), {}, board.device))),
              ))
          : null),
      pools(),
      isWall ? below() : null];
  }

  function filterLink(name) {
    const test = FILTERS[name] ?? ((board) => board.level === name);
    const word = name in FILTERS ? t(`filter.${name}`) : t(`level.${name}`);
    return link(`boards?level=${name}`,
      { key: name, "aria-current": name === level() ? "true" : null },
      word,
      " ",
      h("b", null, [...live.boards.values()].filter(test).length));
  }

  function emptyNote(total) {
    // Until the broker has had time to send what it retains, nobody knows whether there are boards.
    if (!total && live.broker.hint_code === "no_boards") return note("boards.none", { site: live.session?.site });
    if (live.at == null || !total) return note("boards.waiting");
    if (level() === "bad" && !find) return note(isOld() ? "boards.were_ok" : "boards.all_ok");
    return note(find ? "boards.none_found" : "boards.none_here", { find });
  }

  return { title: () => t("tab.boards"), view };
}

// One line for an alarm that many boards have.
function groups() {
  const many = alarmsByName().filter(({ alarms }) => alarms.length > 1);
  return h("ul", { class: "groups", key: "groups" },
    many.map(({ name, alarms, severity }) =>
      h("li", { key: name },
        severityMark(severity),
        ` ${nameWords(name)}: ${t("n_boards", { n: alarms.length })} `,
        link("alarms", {}, t("show")))));
}

// How many rows had no room when last drawn, because a screen on a wall has no mouse to scroll with.
function below() {
  const bottoms = [...document.querySelectorAll(`${LIST} tbody tr`)].map((row) => row.getBoundingClientRect().bottom);
  if (!(bottoms.at(-1) > innerHeight)) return null;
  const n = bottoms.filter((bottom) => bottom > innerHeight - BELOW_PX).length;
  return h("p", { class: "below", key: "below" }, t("boards.below", { n }));
}

function table(rows) {
  const columns = ["temperature", "queue", "p95", "age"];
  return h("table", { class: "boards", key: "table" },
    h("caption", { class: "for-readers" }, t("boards.caption")),
    h("thead", null,
      h("tr", null,
        ["level", "board", "why"].map((name) => h("th", { scope: "col", key: name }, t(`column.${name}`))),
        columns.map((name) => h("th", { scope: "col", class: "number", key: name }, t(`column.${name}`))))),
    h("tbody", null, rows.map(row)));
}

function row(board) {
  const [p95, unit] = latency(board.p95_ms);
  const cell = (name, text) => h("td", { class: `number ${name}`, key: name, "data-name": t(`column.${name}`) }, text);
  return h("tr", { key: board.device, class: board.level },
    h("td", { class: "level-cell" },
      levelMark(board.level),
      board.was.isFresh ? h("span", { class: "new" }, t("new")) : null),
    h("th", { scope: "row" }, link(boardAddress(board.device), {}, board.device)),
    h("td", { class: "why" }, whyLines(board.was)),
    cell("temperature", board.soc_c == null ? UNKNOWN : `${number(board.soc_c)} °C`),
    cell("queue", queueText(board.queue)),
    cell("p95", p95 == null ? UNKNOWN : `${number(p95)} ${unit}`),
    cell("age", duration(ageOf(board.health_at))));
}

export function queueText(queue) {
  return queue?.[0] == null ? UNKNOWN : `${queue[0]}/${queue[1] ?? UNKNOWN}`;
}

function whyLines(board) {
  if (board.level === "stale") {
    const names = (board.alarms ?? []).map((alarm) => nameWords(alarm.name)).join(", ");
    return [
      whyView(board),
      sinceLine(board),
      names ? h("p", { key: "#last", class: "quiet" }, t("alarm.last", { names })) : null];
  }
  return [
    (board.alarms ?? []).map((alarm) =>
      h("p", { key: alarm.name, class: alarm.severity === "warning" ? "" : "urgent" },
        nameWords(alarm.name),
        alarm.since == null ? "" : `, ${t("alarm.for", { length: duration(ageOf(alarm.since)) })}`,
        ". ",
        todoView(alarmAdvice(alarm.name)),
        " ",
        smallPrint(alarm.message))),
    whyView(board),
    // Alarms say how long they have lasted.
    board.level === "ok" || board.alarms?.length ? null : sinceLine(board)];
}

function sinceLine(board) {
  return board.since == null ? null : h("p", { key: "#since", class: "quiet" }, since(board.since));
}

function pools() {
  return h("ul", { class: "pools", key: "pools" },
    live.pools.map((pool) =>
      h("li", { key: pool.name },
        t("pool", {
          name: pool.name,
          n: pool.boards,
          places: pool.places ?? UNKNOWN,
          rate: pool.per_minute == null ? UNKNOWN : number(pool.per_minute),
        }))));
}
