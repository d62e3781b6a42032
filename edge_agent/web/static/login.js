// The login form, and the dialog that asks for the password again before a write.

import { post } from "./api.js";
import { draw, h } from "./dom.js";
import { live, poll } from "./live.js";
import { t } from "./words.js";

export function loginScreen({ route, redraw }) {
  let trouble = null;
  let isSending = false;

  async function send(event) {
    event.preventDefault();
    const form = new FormData(event.target);
    isSending = true;
    trouble = null;
    redraw();
    trouble = await logIn(form.get("username"), form.get("password"));
    isSending = false;
    if (!trouble && route?.().name === "login") location.hash = route().values.get("back") ?? "#/boards";
    poll();
    redraw();
  }

  return {
    title: () => t("login"),
    view: () => [
      h("h1", { tabindex: "-1", key: "title" }, t("login")),
      live.session && !live.session.has_users
        ? h("p", { class: "note", key: "none" }, t("login.no_users"))
        : h("form", { class: "login", key: "form", onsubmit: send },
            field("username", { autocomplete: "username", autocapitalize: "none", spellcheck: "false" }),
            field("password", { type: "password", autocomplete: "current-password" }),
            h("p", { class: "trouble", role: "alert" }, trouble),
            h("button", { class: "main", disabled: isSending }, t("login")))],
  };
}

function field(name, props) {
  return h("label", { key: name }, t(`login.${name}`), h("input", { name, required: true, ...props }));
}

// Returns null, or why the login failed.
async function logIn(user, password) {
  try {
    live.session = await post("login", { user, password });
    return null;
  } catch (error) {
    if (error.status === 401) return t("login.wrong");
    if (error.status === 429) return t("login.too_many", { seconds: error.retryAfter ?? 300 });
    return error.status ? error.message : t("trouble.server");
  }
}

// Asks for the password again without leaving the screen. Resolves to true once the user is logged in.
export function passwordDialog() {
  return new Promise((resolve) => {
    const holder = document.createDocumentFragment();
    let trouble = null;
    const describe = () =>
      h("dialog", { class: "again", "aria-labelledby": "again-title" },
        h("form", { onsubmit: send },
          h("h2", { id: "again-title" }, t("again.title")),
          h("p", null, t("again.why", { name: live.session?.user ?? "" })),
          h("input", {
            type: "text",
            name: "username",
            autocomplete: "username",
            value: live.session?.user ?? "",
            hidden: true,
            readonly: true,
          }),
          field("password", { type: "password", autocomplete: "current-password" }),
          h("p", { class: "trouble", role: "alert" }, trouble),
          h("p", { class: "buttons" },
            h("button", { class: "main" }, t("again.go_on")),
            h("button", { type: "button", onclick: () => dialog.close() }, t("cancel")))));
    draw(holder, describe());
    const dialog = holder.firstChild;
    document.documentElement.append(dialog);
    let isIn = false;
    dialog.onclose = () => {
      dialog.remove();
      resolve(isIn);
    };
    dialog.showModal();

    async function send(event) {
      event.preventDefault();
      trouble = await logIn(live.session?.user, new FormData(event.target).get("password"));
      isIn = !trouble;
      if (isIn) return dialog.close();
      draw(dialog, describe().children);
    }
  });
}
