/* One answer while it arrives, and after. */

import { approvalCard } from "./approval.js";
import { build } from "./cards.js";
import { el, prose } from "./dom.js";
import { words } from "./format.js";

export class Turn {
  constructor(chat) {
    this.chat = chat;
    this.words = "";
    this.block = null;
    this.blocks = [];
    this.tools = new Map();
    this.toolList = null;
    this.drawing = 0;
    this.isOver = false;
    this.wait = el("div", { class: "waiting" }, el("span", { class: "visually-hidden" }, "Answering"), el("i"), el("i"), el("i"));
    this.node = el("div", { class: "turn turn--assistant", "aria-busy": "true" }, this.wait);
    chat.log.append(this.node);
    chat.toEnd();
  }

  #append(child) {
    this.chat.stick(() => {
      if (this.wait.isConnected) this.wait.before(child);
      else this.node.append(child);
    });
  }

  text(delta, replaces = false) {
    if (replaces) {
      for (const block of this.blocks) block.remove();
      this.blocks = [];
      this.#closeText();
    }
    if (!this.block) {
      this.words = "";
      this.block = el("div", { class: "prose" });
      this.blocks.push(this.block);
      this.#append(this.block);
    }
    this.words += delta;
    // At most one redraw a frame: deltas come faster than eyes.
    this.drawing ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.drawing);
    this.drawing = 0;
    if (this.block) this.chat.stick(() => this.block.replaceChildren(...prose(this.words)));
  }

  #closeText() {
    if (this.drawing) this.#draw();
    this.block = null;
  }

  tool({ id, name, status, label }) {
    if (!this.toolList) {
      this.#closeText();
      this.toolList = el("div", { class: "tools" });
      this.#append(this.toolList);
    }
    const key = id || name;
    let line = this.tools.get(key);
    if (!line) {
      line = el("div", { class: "tool" }, label || words(name), el("span", { class: "visually-hidden" }));
      this.tools.set(key, line);
      this.chat.stick(() => this.toolList.append(line));
    }
    line.dataset.status = status;
    line.lastElementChild.textContent = ` ${status}`;
  }

  card(kind, data) {
    this.#closeText();
    const node = build(kind, data, this.chat.act);
    if (node) this.#append(node);
    this.chat.onCard(kind, data);
  }

  approval(action) {
    this.#closeText();
    this.#append(approvalCard(action, this.chat.act, (card, verb) => {
      this.chat.decided.add(action.action_id);
      if (verb === "approve") this.chat.onCard(card?.kind || "approved", card?.data || null);
      this.chat.toEnd();
    }));
  }

  problem(message, retry) {
    const box = el("div", { class: "problem", role: "alert" }, el("span", {}, message),
      retry ? el("button", { class: "button button--small", type: "button",
        onclick: () => { box.remove(); this.finish(); this.node.remove(); retry(); } }, "Try again") : null);
    this.#append(box);
    this.finish();
  }

  finish(note = "") {
    if (this.isOver) return;
    this.isOver = true;
    this.#closeText();
    this.wait.remove();
    this.node.removeAttribute("aria-busy");
    for (const line of this.tools.values()) if (line.dataset.status === "running") line.dataset.status = "done";
    if (note) this.node.append(el("p", { class: "small soft" }, note));
    if (!this.node.childElementCount) this.node.remove();
  }
}
