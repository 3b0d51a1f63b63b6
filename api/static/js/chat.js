/* The conversation: used by the shopper's page and the merchant's console.

   The server keeps every turn and numbers its events. This page shows events as they come, from
   whichever stream, and goes on from the last number it saw when a connection breaks. */

import { call, get, randomId, request } from "./api.js";
import { settle } from "./approval.js";
import { announce, byId, el } from "./dom.js";
import { events } from "./sse.js";
import { Turn } from "./turn.js";

const NEAR_END_PX = 120;
const RETRIES_MAX = 4;
const RETRY_MS = 400;
const RETRY_MAX_MS = 8000;
const ENDINGS = { cancelled: "Stopped.", interrupted: "" };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

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
    this.decided = new Set();
    this.act = (text) => this.say(text);
    this.#clear();
    this.#listen();
  }

  get conversationId() { return localStorage.getItem(this.storageKey); }

  #clear() {
    this.turns = new Map();
    this.last = 0;
    this.running = null;
    this.epoch = {};
    this.live?.abort();
    this.live = null;
  }

  #listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.input.value.trim();
      if (text) {
        this.input.value = "";
        this.say(text);
      } else if (this.running) this.stop();
      this.#showButton();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.form.requestSubmit();
      }
      if (event.key === "Escape" && this.running) this.stop();
    });
    this.input.addEventListener("input", () => this.#showButton());
    for (const chip of document.querySelectorAll("[data-say]")) {
      chip.addEventListener("click", () => this.say(chip.dataset.say));
    }
    window.addEventListener("online", () => this.#watch());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.live?.abort();
      else this.#watch();
    });
  }

  /** One button: it stops the answer while one runs and nothing is typed, and sends otherwise. */
  #showButton() {
    const stops = this.running !== null && this.input.value.trim() === "";
    this.button.textContent = stops ? "■" : "↑";
    this.button.setAttribute("aria-label", stops ? "Stop the answer" : "Send");
    this.button.dataset.mode = stops ? "stop" : "send";
  }

  /** Send `text`; while an answer runs it waits its turn, visibly. */
  say(text) {
    const bubble = this.#bubble(text);
    const wanted = { text, id: randomId(), bubble };
    if (this.running) {
      bubble.classList.add("is-queued");
      this.queue.push(wanted);
    } else this.#ask(wanted);
  }

  #bubble(text) {
    if (this.welcome) this.welcome.hidden = true;
    const turn = el("div", { class: "turn turn--user" },
      el("div", { class: "bubble" }, el("span", { class: "visually-hidden" }, "You: "), text));
    this.log.append(turn);
    this.toEnd();
    return turn;
  }

  /** Stop the answer. What it did so far stays; the server says when it has stopped. */
  async stop() {
    const id = this.conversationId;
    if (!id || !this.running) return;
    announce("Stopping the answer.");
    await call("POST", `/v1/chat/${encodeURIComponent(id)}/cancel`).catch((error) => announce(error.message));
  }

  async #ask(wanted) {
    const epoch = this.epoch;
    this.live?.abort();
    this.running = key(wanted.id);
    const turn = new Turn(this);
    this.turns.set(this.running, turn);
    this.#showButton();
    let problem = null;
    for (let tries = 0; tries <= RETRIES_MAX && epoch === this.epoch && !turn.isOver; tries += 1) {
      if (tries) await pause(Math.min(RETRY_MS * 2 ** tries, RETRY_MAX_MS));
      try {
        // Sent again with the same id, the message is not said twice: the answer starts over.
        await this.#consume(await this.#post(wanted), epoch);
        problem = null;
      } catch (error) {
        problem = error;
        if (error.status === 409 && error.code === "turn_running") {
          await this.#waitForOther();
        } else if (error.status >= 400) break;
        else announce("The connection broke; trying again.");
      }
    }
    if (epoch !== this.epoch) return;
    if (!turn.isOver) this.#fail(turn, problem, wanted);
    this.#next();
  }

  #post({ text, id }) {
    const body = { text, turn_id: id };
    if (this.conversationId) body.conversation_id = this.conversationId;
    return request("/v1/chat", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify(body),
    });
  }

  /** Another tab's answer runs: show it, and wait for its end. */
  async #waitForOther() {
    const response = await request(`/v1/chat/${encodeURIComponent(this.conversationId)}/events?after=${this.last}`);
    await this.#consume(response, this.epoch);
  }

  #next() {
    this.running = null;
    this.#showButton();
    const next = this.queue.shift();
    if (next) {
      next.bubble.classList.remove("is-queued");
      this.log.append(next.bubble);
      this.#ask(next);
    } else this.#watch();
  }

  #fail(turn, error, wanted) {
    // A conversation of another person or another database: the next message starts a new one.
    if (error?.status === 404) localStorage.removeItem(this.storageKey);
    const message = error?.status ? error.message : "The connection broke. Nothing was lost; try again.";
    turn.problem(message, () => {
      this.turns.delete(key(wanted.id));
      this.#ask(wanted);
    });
  }

  async #consume(response, epoch) {
    for await (const event of events(response)) {
      if (epoch !== this.epoch) return;
      this.#handle(event);
    }
  }

  #handle({ event, data, id }) {
    if (event === "conversation") {
      localStorage.setItem(this.storageKey, data.id);
      return;
    }
    const number = id === null ? null : Number(id);
    // The same events may come by two streams; a number is shown once.
    if (number !== null && number <= this.last && event !== "reset") return;
    if (number !== null) this.last = number;
    if (event === "reset") this.reload();
    else if (event === "note") this.#note(data);
    else this.#show(event, data);
  }

  #show(event, data) {
    const id = key(data.turn_id || data.id);
    let turn = this.turns.get(id);
    if (event === "turn" && !turn) {
      this.#bubble(data.text);
      this.running ??= id;
      turn = new Turn(this);
      this.turns.set(id, turn);
      this.#showButton();
    }
    if (!turn || turn.isOver) return;
    if (event === "text") turn.text(data.delta, data.replace === true);
    else if (event === "tool") turn.tool(data);
    else if (event === "card") turn.card(data.kind, data.data);
    else if (event === "approval") turn.approval(data);
    else if (event === "error") turn.problem(data.detail || "The answer broke off.", null);
    else if (event === "done") {
      turn.finish(ENDINGS[data.state] || "");
      if (this.running === id) {
        this.running = null;
        this.#showButton();
      }
    }
  }

  /** The shop said something by itself: what became of an approval, perhaps given in another tab. */
  #note({ turn_id, action_id, text, cards }) {
    if (action_id && this.decided.has(action_id)) return;
    if (action_id) settle(action_id, text);
    if (this.turns.has(key(turn_id))) return;
    const turn = new Turn(this);
    this.turns.set(key(turn_id), turn);
    if (text) turn.text(text);
    for (const card of cards || []) turn.card(card.kind, card.data);
    turn.finish();
  }

  toEnd() { this.scroller.scrollTop = this.scroller.scrollHeight; }

  stick(change) {
    const near = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR_END_PX;
    change();
    if (near) this.toEnd();
  }

  /** Show the conversation of this browser again, if it still exists, and follow it. */
  async resume() {
    const id = this.conversationId;
    if (!id) return;
    try {
      const known = await get(`/v1/conversations/${encodeURIComponent(id)}`);
      for (const turn of known.turns) this.#replay(turn);
      const running = known.turns.find((turn) => turn.state === "running");
      this.last = running ? running.first_event : known.last_event;
      this.toEnd();
      this.#watch();
    } catch (error) {
      if ([401, 403, 404].includes(error.status)) this.forget();
      else announce(error.message);
    }
  }

  #replay(stored) {
    if (stored.asked) this.#bubble(stored.asked);
    const turn = new Turn(this);
    this.turns.set(key(stored.id), turn);
    if (stored.state === "running") {
      this.running = key(stored.id);
      this.#showButton();
      return;
    }
    if (stored.reply) turn.text(stored.reply);
    for (const card of stored.cards) turn.card(card.kind, card.data);
    for (const approval of stored.approvals) turn.approval(approval);
    turn.finish();
  }

  /** Stay on the line while nothing is asked here: other tabs and approvals say things too. */
  async #watch() {
    if (this.live || document.hidden || !this.conversationId) return;
    const epoch = this.epoch;
    const live = new AbortController();
    this.live = live;
    for (let wait = RETRY_MS; epoch === this.epoch && this.live === live && !live.signal.aborted;) {
      try {
        const path = `/v1/chat/${encodeURIComponent(this.conversationId)}/events?live=true&after=${this.last}`;
        await this.#consume(await request(path, { signal: live.signal }), epoch);
        wait = RETRY_MS;
      } catch (error) {
        if (live.signal.aborted || [401, 403, 404].includes(error.status)) break;
      }
      await pause(wait);
      wait = Math.min(wait * 2, RETRY_MAX_MS);
    }
    if (this.live === live) this.live = null;
  }

  /** Read the conversation anew: events this page has missed are gone. */
  reload() {
    const id = this.conversationId;
    this.#empty();
    localStorage.setItem(this.storageKey, id);
    this.resume();
  }

  #empty() {
    this.queue = [];
    this.#clear();
    this.#showButton();
    for (const turn of this.log.querySelectorAll(".turn")) turn.remove();
  }

  /** Show another conversation. */
  async open(id) {
    this.#empty();
    localStorage.setItem(this.storageKey, id);
    if (this.welcome) this.welcome.hidden = true;
    await this.resume();
    this.input.focus();
  }

  /** Start over: the next message opens a new conversation. The old one stays in the list. */
  forget() {
    this.#empty();
    localStorage.removeItem(this.storageKey);
    if (this.welcome) this.welcome.hidden = false;
  }
}

/** Ids are compared without their dashes: this page makes them without. */
function key(id) { return String(id).replaceAll("-", ""); }
