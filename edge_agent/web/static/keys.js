// Keyboard shortcuts of single keys. The buttons show them, and they can be switched off.

import { save, saved } from "./storage.js";

export let areOn = saved("keys") !== "off";
let actions = {};

export function setKeys(named) {
  actions = named;
}

export function switchKeys() {
  areOn = !areOn;
  save("keys", areOn ? "on" : "off");
}

document.addEventListener("keydown", (event) => {
  const isTyping =
    event.target.matches("input:not([type=checkbox]), textarea, select") || event.target.closest("dialog");
  if (!areOn || isTyping || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
