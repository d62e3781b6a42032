// Who answers: the user, or the name given in a page without users.

import { h } from "./dom.js";
import { live } from "./live.js";
import { save, saved } from "./storage.js";
import { t } from "./words.js";

export function signedBy() {
  const name = saved("name")?.trim();
  return live.session?.has_users || !name ? {} : { by: name.slice(0, 64) };
}

export function nameField() {
  if (live.session?.has_users) return null;
  return h("label", { class: "name", key: "name" },
    t("your_name"),
    h("input", {
      autocomplete: "name",
      maxlength: "64",
      value: saved("name") ?? "",
      onchange: (event) => save("name", event.target.value),
    }));
}
