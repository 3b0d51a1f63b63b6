/* The conversation: used by the shopper's page and the merchant's console. */

import { get, request } from "./api.js";
import { approvalCard } from "./approval.js";
import { build } from "./cards.js";
import { announce, byId, el, prose } from "./dom.js";
import { words } from "./format.js";
import { events } from "./sse.js";

const NEAR_END_PX = 120;

export class Chat {
  /** `storageKey` names the place of the conversation's id; `onCard(kind, data)` sees every card. */
  constructor({ storageKey, onCard = () => {} }) {
    this.storageKey = storageKey;
    this.onCard = onCard;
    this.scroller = byId("chat-scroll");
    this.log = byId("chat-log");
    this.form = byId("composer");
    this.input = byId("message");
    this.button = byId("send");
    this.welcome = byId("welcome");
    this.queue = [];
    this.abort = null;
    this.act = (text) => this.say(text);
    this.#listen();
  }

  get conversationId() { return localStorage.getItem(this.storageKey); }

  #listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.input.value.trim();
      if (text) {
        this.input.value = "";
        this.say(text);
      } else if (this.abort) this.abort.abort();
      this.#showButton();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.form.requestSubmit();
      }
      if (event.key === "Escape" && this.abort) this.abort.abort();
    });
    this.input.addEventListener("input", () => this.#showButton());
    for (const chip of document.querySelectorAll("[data-say]")) {
      chip.addEventListener("click", () => this.say(chip.dataset.say));
    }
  }

  /** One button: it stops the answer while one runs and nothing is typed, and sends otherwise. */
  #showButton() {
    const stops = this.abort !== null && this.input.value.trim() === "";
    this.button.textContent = stops ? "■" : "↑";
    this.button.setAttribute("aria-label", stops ? "Stop the answer" : "Send");
    this.button.dataset.mode = stops ? "stop" : "send";
  }

  /** Send `text`; while an answer runs it waits its turn, visibly. */
  say(text) {
    const turn = this.#userTurn(text);
    if (this.abort) {
      turn.classList.add("is-queued");
      this.queue.push({ text, turn });
    } else this.#answer(text);
  }

  #userTurn(text) {
    if (this.welcome) this.welcome.hidden = true;
    const turn = el("div", { class: "turn turn--user" },
      el("div", { class: "bubble" }, el("span", { class: "visually-hidden" }, "You: "), text));
    this.log.append(turn);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    return turn;
  }

  async #answer(text) {
    this.abort = new AbortController();
    this.#showButton();
    const turn = new Turn(this);
    try {
      const body = { text };
      if (this.conversationId) body.conversation_id = this.conversationId;
      const response = await request("/v1/chat", {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
        body: JSON.stringify(body),
        signal: this.abort.signal,
      });
      for await (const event of events(response)) this.#handle(turn, event);
      turn.finish();
    } catch (error) {
      if (error.name === "AbortError") turn.finish("Stopped.");
      else this.#fail(turn, error, text);
    }
    this.abort = null;
    this.#showButton();
    const next = this.queue.shift();
    if (next) {
      next.turn.classList.remove("is-queued");
      this.#answer(next.text);
    }
  }

  #handle(turn, { event, data }) {
    if (event === "conversation") localStorage.setItem(this.storageKey, data.id);
    else if (event === "text") turn.text(data.delta);
    else if (event === "tool") turn.tool(data.name, data.status);
    else if (event === "card") turn.card(data.kind, data.data);
    else if (event === "approval") turn.approval(data);
    else if (event === "error") throw Object.assign(new Error(data.detail || "The answer broke off."), { code: data.code });
  }

  #fail(turn, error, text) {
    // A conversation of another person or another database: the next message starts a new one.
    if (error.status === 404) localStorage.removeItem(this.storageKey);
    const message = error instanceof TypeError ? "The connection broke. Nothing was lost; try again." : error.message;
    turn.problem(message, () => this.#answer(text));
  }

  stick(change) {
    const near = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR_END_PX;
    change();
    if (near) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Show the conversation of this browser again, if it still exists. */
  async resume() {
    const id = this.conversationId;
    if (!id) return;
    try {
      const answer = await get(`/v1/chat/${encodeURIComponent(id)}`);
      for (const entry of Array.isArray(answer) ? answer : answer.items || answer.transcript || answer.messages || []) {
        if (entry.role === "user") this.#userTurn(entry.text);
        else this.#replay(entry);
      }
      this.scroller.scrollTop = this.scroller.scrollHeight;
    } catch (error) {
      if (error.status === 404 || error.status === 401 || error.status === 403) this.forget();
      else announce(error.message);
    }
  }

  #replay(entry) {
    const turn = new Turn(this);
    if (entry.text) turn.text(entry.text);
    for (const card of entry.cards || []) turn.card(card.kind, card.data);
    for (const approval of entry.approvals || []) turn.approval(approval);
    turn.finish();
  }

  /** Start over: the next message opens a new conversation. */
  forget() {
    this.abort?.abort();
    this.queue = [];
    localStorage.removeItem(this.storageKey);
    for (const turn of this.log.querySelectorAll(".turn")) turn.remove();
    if (this.welcome) this.welcome.hidden = false;
  }
}

/** One answer while it arrives. */
class Turn {
  constructor(chat) {
    this.chat = chat;
    this.words = "";
    this.block = null;
    this.tools = new Map();
    this.toolList = null;
    this.drawing = 0;
    this.wait = el("div", { class: "waiting" }, el("span", { class: "visually-hidden" }, "Answering"), el("i"), el("i"), el("i"));
    this.node = el("div", { class: "turn turn--assistant", "aria-busy": "true" }, this.wait);
    chat.log.append(this.node);
    chat.scroller.scrollTop = chat.scroller.scrollHeight;
  }

  #append(child) {
    this.chat.stick(() => {
      if (this.wait.isConnected) this.wait.before(child);
      else this.node.append(child);
    });
  }

  text(delta) {
    if (!this.block) {
      this.words = "";
      this.block = el("div", { class: "prose" });
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

  tool(name, status) {
    if (!this.toolList) {
      this.#closeText();
      this.toolList = el("div", { class: "tools" });
      this.#append(this.toolList);
    }
    let line = this.tools.get(name);
    if (!line) {
      line = el("div", { class: "tool" }, words(name));
      this.tools.set(name, line);
      this.chat.stick(() => this.toolList.append(line));
    }
    line.dataset.status = status;
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
      if (verb === "approve") this.chat.onCard(card?.kind || "approved", card?.data || null);
      this.chat.scroller.scrollTop = this.chat.scroller.scrollHeight;
    }));
  }

  problem(message, retry) {
    const box = el("div", { class: "problem", role: "alert" }, el("span", {}, message),
      el("button", { class: "button button--small", type: "button",
        onclick: () => { box.remove(); this.finish(); retry(); } }, "Try again"));
    this.#append(box);
    this.finish();
  }

  finish(note = "") {
    this.#closeText();
    this.wait.remove();
    this.node.removeAttribute("aria-busy");
    for (const line of this.tools.values()) if (line.dataset.status === "running") line.dataset.status = "done";
    if (note) this.node.append(el("p", { class: "small soft" }, note));
    if (!this.node.childElementCount) this.node.remove();
  }
}


