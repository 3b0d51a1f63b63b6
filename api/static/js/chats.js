/* The list of one's conversations: find, open, rename, take along, delete. */

import { call, get, request } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { when } from "./format.js";

const TYPING_MS = 250;

export function chats(chat) {
  const dialog = byId("chats");
  const list = byId("chats-list");
  const search = byId("chats-search");
  const more = byId("chats-more");
  let cursor = null;
  let typing = 0;

  async function load({ anew }) {
    if (anew) cursor = null;
    const query = new URLSearchParams({ limit: "20" });
    if (search.value.trim()) query.set("q", search.value.trim());
    if (cursor) query.set("cursor", cursor);
    try {
      const page = await get(`/v1/conversations?${query}`);
      if (anew) list.replaceChildren();
      list.append(...page.items.map(row));
      cursor = page.next_cursor;
      more.hidden = !cursor;
      byId("chats-empty").hidden = list.childElementCount > 0;
    } catch (error) {
      announce(error.message);
    }
  }

  function row(item) {
    const title = item.title || "Conversation";
    const name = el("button", { class: "chats-open", type: "button",
      "aria-current": item.id === chat.conversationId ? "true" : null,
      onclick: () => { dialog.close(); chat.open(item.id); } },
    el("strong", {}, title),
    el("span", { class: "small soft" }, item.is_running ? "Answering now" : when(item.updated_at)));
    const node = el("li", { class: "chats-row" }, name,
      el("button", { class: "button button--quiet button--small", type: "button", "aria-label": `Rename ${title}`,
        onclick: () => rename(item, node) }, "Rename"),
      el("button", { class: "button button--quiet button--small", type: "button", "aria-label": `Save ${title} as a file`,
        onclick: () => save(item) }, "Save"),
      el("button", { class: "button button--quiet button--small", type: "button", "aria-label": `Delete ${title}`,
        onclick: (event) => remove(item, node, event.currentTarget) }, "Delete"));
    return node;
  }

  function rename(item, node) {
    const input = el("input", { class: "input", value: item.title, maxlength: 80, required: true, "aria-label": "Title" });
    const form = el("form", { class: "chats-rename", onsubmit: async (event) => {
      event.preventDefault();
      try {
        const changed = await call("PATCH", `/v1/conversations/${item.id}`, { title: input.value });
        const fresh = row({ ...item, title: changed.title });
        form.replaceWith(fresh);
        fresh.firstElementChild.focus();
      } catch (error) { announce(error.message); }
    } }, input, el("button", { class: "button button--small", type: "submit" }, "Save"));
    node.replaceWith(form);
    input.select();
  }

  async function save(item) {
    try {
      const response = await request(`/v1/conversations/${item.id}/export?format=markdown`);
      const address = URL.createObjectURL(await response.blob());
      el("a", { href: address, download: `conversation-${item.id}.md` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    } catch (error) { announce(error.message); }
  }

  async function remove(item, node, button) {
    if (button.dataset.sure !== "true") {
      button.dataset.sure = "true";
      button.textContent = "Really delete?";
      button.addEventListener("blur", () => { button.dataset.sure = "false"; button.textContent = "Delete"; }, { once: true });
      return;
    }
    try {
      await call("DELETE", `/v1/conversations/${item.id}`);
      node.remove();
      if (item.id === chat.conversationId) chat.forget();
      byId("chats-empty").hidden = list.childElementCount > 0;
      announce("The conversation was deleted.");
      search.focus();
    } catch (error) { announce(error.message); }
  }

  byId("chats-open").addEventListener("click", () => {
    dialog.showModal();
    search.value = "";
    load({ anew: true });
  });
  byId("chats-close").addEventListener("click", () => dialog.close());
  more.addEventListener("click", () => load({ anew: false }));
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => load({ anew: true }), TYPING_MS);
  });
}
