// The page's texts in the reader's language. Texts from boards, such as labels and messages, are not translated.

import { saved, save } from "./storage.js";

export const LANGUAGES = { en: "English", de: "Deutsch" };
export const UNKNOWN = "–";

export const language = chosen();
const words = await (await fetch(`words/${language}.json`)).json();
const place = navigator.languages.find((name) => name.startsWith(language)) ?? language;
const plural = new Intl.PluralRules(language);
const clockFormat = new Intl.DateTimeFormat(place, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const dayFormat = new Intl.DateTimeFormat(place, { weekday: "short", day: "numeric", month: "long", year: "numeric" });
const shortDayFormat = new Intl.DateTimeFormat(place, { day: "numeric", month: "short" });
const decimalSign = new Intl.NumberFormat(place).formatToParts(0.5).find((part) => part.type === "decimal").value;
const UNITS = [
  [1, "s"],
  [60, "min"],
  [3600, "h"]];

export function chooseLanguage(name) {
  save("language", name);
  location.reload();
}

function chosen() {
  const wishes = [saved("language"), ...navigator.languages.map((name) => name.slice(0, 2))];
  return wishes.find((name) => name in LANGUAGES) ?? "en";
}

// The text for `key`; a value `n` selects its plural form.
export function t(key, values = {}) {
  const found = words[key] ?? key;
  const text = typeof found === "string" ? found : (found[plural.select(values.n)] ?? found.other);
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export function has(key) {
  return key in words;
}

export function number(value, digits = 0) {
  if (value == null) return UNKNOWN;
  return value.toLocaleString(place, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    useGrouping: false,
  });
}

// A measured value with all its digits. Nothing separates thousands, because 2.951 is another number elsewhere.
export function measured(value) {
  return typeof value === "number" ? String(value).replace(".", decimalSign) : UNKNOWN;
}

// Rounded down, so that nothing looks better than it is.
export function percent(share) {
  if (share == null) return UNKNOWN;
  const digits = share > 0.99 && share < 1 ? 1 : 0;
  return `${number(Math.floor(share * 100 * 10 ** digits + 1e-6) / 10 ** digits, digits)}\u00a0%`;
}

export function duration(length) {
  if (length == null) return UNKNOWN;
  if (length < 1) return `0 ${t("unit.s")}`;
  for (const [size, unit] of UNITS) if (length < 120 * size) return `${Math.round(length / size)} ${t(`unit.${unit}`)}`;
  return `${Math.round(length / 86400)} ${t("unit.d")}`;
}

export function clock(seconds) {
  return seconds == null ? UNKNOWN : clockFormat.format(seconds * 1000);
}

export function day(seconds) {
  return dayFormat.format(seconds * 1000);
}

// The time of day, with the date unless it is today's.
export function moment(seconds, now) {
  if (seconds == null) return UNKNOWN;
  return day(seconds) === day(now) ? clock(seconds) : `${shortDayFormat.format(seconds * 1000)}, ${clock(seconds)}`;
}
