/* The shopper's page: the conversation and the cart beside it. */

import { account } from "./account.js";
import { call, get } from "./api.js";
import { lines, problems, totals } from "./cards.js";
import { Chat } from "./chat.js";
import { chats } from "./chats.js";
import { announce, byId, el } from "./dom.js";

const CART_KEY = "shopkeeper.cart";
const panel = byId("cart-panel");
const body = byId("cart-body");
const delivery = byId("delivery");
let cart = null;

function showCart(next) {
  cart = next && next.status !== "completed" ? next : null;
  if (cart) localStorage.setItem(CART_KEY, cart.id);
  else localStorage.removeItem(CART_KEY);
  const full = Boolean(cart?.lines.length);
  const units = full ? cart.lines.reduce((sum, line) => sum + line.quantity, 0) : 0;
  for (const node of document.querySelectorAll(".cart-count")) {
    node.textContent = units;
    node.hidden = units === 0;
  }
  byId("cart-empty").hidden = full;
  delivery.hidden = !full;
  body.replaceChildren(...(full ? [lines(cart, changeQuantity), totals(cart), problems(cart), buyButton()].filter(Boolean) : []));
  if (full) fillDelivery();
}

function buyButton() {
  return el("button", { class: "button button--primary", type: "button", id: "buy",
    disabled: cart.problems.length > 0, onclick: () => { closePanel(); chat.say("check out"); } }, "Check out");
}

function fillDelivery() {
  const form = byId("delivery-form");
  if (form.contains(document.activeElement)) return;
  const address = cart.shipping_address || {};
  form.elements.email.value ||= cart.email || "";
  for (const name of ["name", "line1", "postal_code", "city", "country_code"]) {
    if (address[name]) form.elements[name].value = address[name];
  }
  if (cart.shipping_method) form.elements.shipping_method.value = cart.shipping_method;
  delivery.open = !cart.shipping_address;
}

async function changeQuantity(sku, quantity) {
  const path = `/v1/carts/${cart.id}/lines/${encodeURIComponent(sku)}`;
  try {
    showCart(quantity > 0 ? await call("PATCH", path, { quantity }) : await call("DELETE", path));
    announce(`Cart updated: ${cart ? cart.lines.length : 0} products.`);
  } catch (error) {
    announce(error.message);
    await loadCart();
  }
}

async function loadCart() {
  const id = cart?.id || localStorage.getItem(CART_KEY);
  if (!id) return showCart(null);
  try {
    const found = await get(`/v1/carts/${encodeURIComponent(id)}`);
    showCart(["open", "active"].includes(found.status) ? found : null);
  } catch (error) {
    if (error.status === 404) showCart(null);
  }
}

byId("delivery-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = event.target.elements;
  const error = byId("delivery-error");
  error.textContent = "";
  try {
    const saved = await call("PUT", `/v1/carts/${cart.id}/details`, {
      email: fields.email.value.trim(),
      shipping_method: fields.shipping_method.value,
      shipping_address: {
        name: fields.name.value.trim(), line1: fields.line1.value.trim(),
        postal_code: fields.postal_code.value.trim(), city: fields.city.value.trim(),
        country_code: fields.country_code.value.trim().toUpperCase(),
      },
    });
    document.activeElement?.blur();
    showCart(saved);
    byId("buy")?.focus();
    announce("Delivery saved.");
  } catch (problem) {
    error.textContent = problem.message;
  }
});

function openPanel() {
  panel.classList.add("is-open");
  byId("cart-close").focus();
}
function closePanel() {
  if (!panel.classList.contains("is-open")) return;
  panel.classList.remove("is-open");
  byId("cart-open").focus();
}
byId("cart-open").addEventListener("click", openPanel);
byId("cart-close").addEventListener("click", closePanel);
panel.addEventListener("keydown", (event) => { if (event.key === "Escape") closePanel(); });

const chat = new Chat({
  storageKey: "shopkeeper.conversation",
  onCard(kind, data) {
    if (kind === "cart") showCart(data);
    else if (kind === "order" || kind === "approved") loadCart();
  },
});
chats(chat);
byId("new-chat").addEventListener("click", () => { chat.forget(); chat.input.focus(); });
byId("my-orders").addEventListener("click", () => chat.say("show my orders"));

const who = account(() => { chat.forget(); showCart(null); });
await who.restore();
await chat.resume();
await loadCart();
if (window.matchMedia("(pointer: fine)").matches) chat.input.focus();
document.documentElement.dataset.ready = "true";
