/* The merchant's page: orders and stock as they change. */

import { account } from "./account.js";
import { call, get, request, signedIn } from "./api.js";
import { badge, build, facts, levels, tile } from "./cards.js";
import { Chat } from "./chat.js";
import { chats } from "./chats.js";
import { announce, byId, el } from "./dom.js";
import { amounts, count, money, when, words } from "./format.js";
import { events } from "./sse.js";

const RETRY_MAX_MS = 15_000;
const ROWS_MAX = 30;
const ACTIVITY_MAX = 6;
const rows = new Map();
let lastEventId = null;
let feedAbort = null;
let watchedSku = null;

const failed = (error) => announce(error.message);

function orderRow(order) {
  const open = el("button", { class: "link", type: "button", onclick: () => openOrder(order.number) }, `#${order.number}`);
  return el("tr", { data: { number: order.number } },
    el("th", { scope: "row" }, open),
    el("td", { class: "soft wide" }, when(order.placed_at || order.created_at)),
    el("td", { class: "wide clip" }, order.email),
    el("td", {}, badge(order.status)),
    el("td", { class: "number right" }, money(order.total_amount, order.currency)));
}

function flash(node) {
  node.classList.remove("flash");
  void node.offsetWidth; // Restarts the animation when a row changes twice.
  node.classList.add("flash");
}

async function loadOrders(changed = new Set()) {
  const page = await get(`/v1/orders?limit=${ROWS_MAX}`);
  const shown = page.items.map((order) => {
    const key = JSON.stringify(order);
    const known = rows.get(order.number);
    if (known && known.key === key && !changed.has(order.number)) return known.node;
    const node = orderRow(order);
    if (known || changed.has(order.number)) flash(node);
    rows.set(order.number, { key, node });
    return node;
  });
  byId("orders").replaceChildren(...shown);
  byId("orders-empty").hidden = shown.length > 0;
}

async function loadToday() {
  const sales = await get("/v1/analytics/today");
  byId("today").replaceChildren(
    tile("Revenue today", money(sales.revenue_amount, sales.currency)), tile("Orders", count(sales.orders)),
    tile("Units", count(sales.units)), tile("Average order", money(sales.aov_amount, sales.currency)));
}

async function loadLow() {
  const answer = await get("/v1/stock?limit=12");
  const items = Array.isArray(answer) ? answer : answer.items;
  byId("low").replaceChildren(...(items.length ? items.map((item) =>
    el("li", { class: "low-row" },
      el("button", { class: "link clip", type: "button", onclick: () => showStock(item.sku) }, item.title || item.sku),
      el("span", { class: `badge ${item.available > 0 ? "badge--warn" : "badge--bad"}` }, `${count(item.available)} left`)))
    : [el("li", { class: "soft" }, "Everything is well stocked.")]));
}

async function showStock(sku) {
  const path = `/v1/stock/${encodeURIComponent(sku)}`;
  try {
    const [stock, moves] = await Promise.all([get(path), get(`${path}/movements?limit=8`)]);
    watchedSku = stock.sku || sku;
    byId("stock-query").value = watchedSku;
    const changes = (move) => [["on hand", move.on_hand_delta], ["reserved", move.reserved_delta], ["allocated", move.allocated_delta]]
      .filter(([, delta]) => delta).map(([name, delta]) => `${name} ${delta > 0 ? "+" : "−"}${Math.abs(delta)}`).join(", ");
    byId("stock").replaceChildren(
      el("h3", { class: "stock-title" }, stock.title || sku), levels(stock),
      el("ul", { class: "moves" }, moves.items.map((move) => el("li", {},
        el("span", {}, `${words(move.kind)} at ${move.location}`), el("span", { class: "number" }, changes(move)),
        el("span", { class: "soft small" }, [when(move.occurred_at), move.reason].filter(Boolean).join(" · "))))));
  } catch (error) {
    watchedSku = null;
    byId("stock").replaceChildren(el("p", { class: "form-error" }, error.message));
  }
}

async function findStock(query) {
  const page = await get(`/v1/products?limit=6&q=${encodeURIComponent(query)}`);
  if (!page.items.length) return showStock(query);
  const exact = page.items.find((item) => item.sku.toUpperCase() === query.toUpperCase());
  if (exact || page.items.length === 1) return showStock((exact || page.items[0]).sku);
  byId("stock").replaceChildren(el("ul", {}, page.items.map((item) => el("li", { class: "low-row" },
    el("button", { class: "link clip", type: "button", onclick: () => showStock(item.sku) }, item.title),
    el("span", { class: "soft small" }, `${item.sku}, ${count(item.available)} available`)))));
}

async function openOrder(number) {
  const drawer = byId("drawer");
  const content = byId("drawer-body");
  content.replaceChildren(el("p", { class: "soft" }, "Loading…"));
  if (!drawer.open) drawer.showModal();
  try {
    const [order, timeline] = await Promise.all([get(`/v1/orders/${number}`), get(`/v1/orders/${number}/timeline`)]);
    const entries = Array.isArray(timeline) ? timeline : timeline.items;
    content.replaceChildren(build("order", order, null),
      el("h3", {}, "Timeline"),
      el("ol", { class: "timeline" }, entries.map((entry) => el("li", {},
        el("span", {}, amounts(entry.summary)), el("span", { class: "soft small" }, when(entry.occurred_at))))));
    if ((order.allowed_actions || []).includes("cancel")) content.append(cancelForm(number));
  } catch (error) {
    content.replaceChildren(el("p", { class: "form-error" }, error.message));
  }
}

function cancelForm(number) {
  const note = el("p", { class: "form-error", role: "status" });
  return el("form", { class: "cancel-form", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await call("POST", `/v1/orders/${number}/cancel`, { reason: event.target.elements.reason.value });
      await openOrder(number);
      await loadOrders(new Set([number]));
    } catch (error) { note.textContent = error.message; }
  } },
  el("label", { class: "field" }, el("span", {}, "Reason for cancelling"),
    el("input", { name: "reason", required: true, maxlength: 300 })),
  el("button", { class: "button button--small", type: "submit" }, "Cancel the order"), note);
}

function live(state, text) {
  byId("live").dataset.state = state;
  byId("live").textContent = text;
}

let pending = null;
const changedOrders = new Set();
/** Several events of one order arrive together: reload once for all of them. */
function refreshSoon(item) {
  if (item.order_number) changedOrders.add(item.order_number);
  pending ??= setTimeout(async () => {
    pending = null;
    const numbers = new Set(changedOrders);
    changedOrders.clear();
    await Promise.all([loadOrders(numbers), loadToday(), loadLow()]).catch(failed);
    if (watchedSku) await showStock(watchedSku);
  }, 150);
}

function showActivity(item) {
  const list = byId("activity");
  list.prepend(el("li", { class: "flash" }, el("span", {}, amounts(item.summary)),
    el("span", { class: "soft small" }, when(item.occurred_at))));
  while (list.childElementCount > ACTIVITY_MAX) list.lastElementChild.remove();
}

async function follow() {
  feedAbort?.abort();
  const abort = new AbortController();
  feedAbort = abort;
  let wait = 500;
  while (!abort.signal.aborted && signedIn()) {
    try {
      const headers = { Accept: "text/event-stream" };
      if (lastEventId !== null) headers["Last-Event-ID"] = lastEventId;
      const response = await request("/v1/feed", { headers, signal: abort.signal });
      live("on", "Live");
      wait = 500;
      for await (const { event, data, id } of events(response)) {
        if (id !== null) lastEventId = id;
        if (event === "change") {
          showActivity(data);
          refreshSoon(data);
        }
      }
    } catch (error) {
      if (abort.signal.aborted) return;
      if (error.status === 401 || error.status === 403) return live("off", "Signed out");
    }
    live("off", "Reconnecting");
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, RETRY_MAX_MS);
  }
}

async function start() {
  const inside = signedIn();
  byId("gate").hidden = inside;
  byId("board").hidden = !inside;
  byId("account").hidden = !inside;
  byId("live").hidden = !inside;
  if (!inside) {
    feedAbort?.abort();
    rows.clear();
    chat.forget();
    return;
  }
  try {
    await Promise.all([loadOrders(), loadToday(), loadLow()]);
  } catch (error) {
    if (error.status !== 403) return failed(error);
    byId("board").hidden = true;
    byId("gate").hidden = false;
    byId("sign-in-error").textContent = "This account has no access to the console.";
    return;
  }
  follow();
  await chat.resume();
}

const chat = new Chat({ storageKey: "shopkeeper.console.conversation",
  onCard(kind) { if (["order", "stock", "approved"].includes(kind)) refreshSoon({}); } });
chats(chat);
byId("new-chat").addEventListener("click", () => chat.forget());
byId("drawer-close").addEventListener("click", () => byId("drawer").close());
byId("stock-form").addEventListener("submit", (event) => {
  event.preventDefault();
  findStock(byId("stock-query").value.trim()).catch(failed);
});
const who = account(start);
await who.restore();
await start();
document.documentElement.dataset.ready = "true";
