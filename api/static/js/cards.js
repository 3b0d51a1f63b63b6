/* Cards: what the shop shows instead of telling. `act` sends a message as if the person typed it. */

import { get } from "./api.js";
import { bars, columns } from "./charts.js";
import { announce, el, picture } from "./dom.js";
import { count, money, when, words } from "./format.js";

const TONES = {
  placed: "good", completed: "good", captured: "good", authorized: "good", fulfilled: "good",
  pending: "warn", unfulfilled: "warn",
  cancelled: "bad", failed: "bad", voided: "bad", refunded: "bad",
};

export const badge = (status) =>
  el("span", { class: `badge ${TONES[status] ? `badge--${TONES[status]}` : ""}` }, words(status));

function stock(available) {
  if (available <= 0) return el("span", { class: "stock stock--none" }, "Sold out");
  if (available <= 5) return el("span", { class: "stock stock--low" }, `Only ${available} left`);
  return el("span", { class: "stock" }, "In stock");
}

function addButton(sku, title, available, act) {
  return el("button", {
    class: "button button--small", type: "button", disabled: available <= 0,
    "aria-label": `Add ${title} to cart`,
    onclick: () => act(`add 1 of ${sku} to my cart`),
  }, available > 0 ? "Add to cart" : "Sold out");
}

function productTile(product, act) {
  return el("li", { class: "product", data: { sku: product.sku } },
    el("div", { class: "product-picture" }, picture(product.image_url)),
    el("div", { class: "product-body" },
      el("h3", { class: "product-title" }, product.title),
      product.brand ? el("span", { class: "small soft" }, product.brand) : null,
      el("div", { class: "product-meta" },
        el("span", { class: "price" }, money(product.price_amount, product.currency)),
        stock(product.available)),
      product.variant_count > 1
        ? el("button", { class: "button button--small", type: "button",
            "aria-label": `Choose among ${product.variant_count} of ${product.title}`,
            onclick: (event) => choose(product.handle, event.currentTarget, act) },
          `Choose from ${product.variant_count}`)
        : addButton(product.sku, product.title, product.available, act)));
}

/** Show a product's variants below the list it was chosen from; choosing needs no words. */
async function choose(handle, button, act) {
  button.disabled = true;
  try {
    const node = product(await get(`/v1/products/${encodeURIComponent(handle)}`), act);
    node.classList.add("card-enter");
    const list = button.closest(".products");
    if (list.nextElementSibling?.classList.contains("product--single")) list.nextElementSibling.remove();
    list.after(node);
    node.tabIndex = -1;
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "nearest" });
  } catch (error) {
    announce(error.message);
  } finally {
    button.disabled = false;
  }
}

function products(data, act) {
  const items = list(data);
  if (!items.length) return null;
  return el("ul", { class: "products", "aria-label": "Products" }, items.map((item) => productTile(item, act)));
}

function product(data, act) {
  const rows = data.variants.map((variant) =>
    el("li", { class: "variant" },
      el("span", {}, variant.title || variant.sku),
      stock(variant.available),
      el("span", { class: "price" }, money(variant.price_amount, variant.currency)),
      addButton(variant.sku, variant.title || data.title, variant.available, act)));
  return el("article", { class: "product product--single" },
    el("div", { class: "product-picture" }, picture(data.image_url)),
    el("div", { class: "product-body" },
      el("h3", {}, data.title),
      data.brand ? el("span", { class: "small soft" }, data.brand) : null,
      data.description ? el("p", {}, data.description) : null,
      facts(Object.entries(data.attributes || {}).map(([name, value]) => [words(name), String(value)])),
      el("ul", { class: "variants" }, rows)));
}

export function facts(pairs) {
  if (!pairs.length) return null;
  return el("dl", { class: "facts" },
    pairs.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
}

export function totals(data) {
  const rows = [
    ["Subtotal", data.subtotal_amount], [`Discount ${data.discount_code || ""}`, data.discount_amount ? -data.discount_amount : null],
    ["Delivery", data.shipping_amount], ["Tax", data.tax_amount || null],
  ].filter(([, amount]) => Number.isFinite(amount));
  return el("dl", { class: "totals" },
    rows.map(([name, amount]) => el("div", {}, el("dt", {}, name), el("dd", {}, money(amount, data.currency)))),
    el("div", { class: "total" }, el("dt", {}, "Total"), el("dd", {}, money(data.total_amount, data.currency))));
}

/** Lines of a cart or an order; `change(sku, quantity)` adds steppers. */
export function lines(data, change = null) {
  return el("ul", { class: "lines" }, (data.lines || []).map((line) =>
    el("li", { class: "line", data: { sku: line.sku } },
      el("div", { class: "line-picture" }, picture(line.image_url)),
      el("div", {},
        el("div", { class: "line-title" }, line.title),
        change
          ? el("div", { class: "stepper", role: "group", "aria-label": `Quantity of ${line.title}` },
            el("button", { type: "button", "aria-label": `One ${line.title} fewer`,
              onclick: () => change(line.sku, line.quantity - 1) }, "−"),
            el("span", {}, count(line.quantity)),
            el("button", { type: "button", "aria-label": `One ${line.title} more`,
              onclick: () => change(line.sku, line.quantity + 1) }, "+"))
          : el("div", { class: "small soft number" },
            `${count(line.quantity)} × ${money(line.unit_price_amount, data.currency)}`)),
      el("span", { class: "price" }, money(line.total_amount, data.currency)))));
}

const BLOCKING = { empty: 1, cart_empty: 1 };
export function problems(data) {
  const open = (data.problems || []).filter((problem) => !(problem.code in BLOCKING));
  return open.length
    ? el("ul", { class: "notes" }, open.map((problem) => el("li", {}, problem.message)))
    : null;
}

function cart(data, act) {
  if (!data.lines.length) return card("Your cart", null, el("p", { class: "soft" }, "It is empty."));
  const ready = !(data.problems || []).length;
  return card("Your cart", null, lines(data), totals(data), problems(data),
    el("div", { class: "card-buttons" },
      el("button", { class: "button button--primary", type: "button", disabled: !ready,
        onclick: () => act("check out") }, "Check out")));
}

export function order(data, act) {
  const buttons = (data.allowed_actions || []).includes("cancel") && act
    ? el("div", { class: "card-buttons" },
      el("button", { class: "button button--small", type: "button",
        onclick: () => act(`cancel my order ${data.number}`) }, "Cancel this order"))
    : null;
  const address = data.shipping_address || {};
  const place = [address.name, address.line1, [address.postal_code, address.city].filter(Boolean).join(" "),
    address.country_code].filter(Boolean).join(", ");
  return card(`Order ${data.number}`, badge(data.status),
    facts([["Placed", data.placed_at ? when(data.placed_at) : "Not yet"], ["Payment", words(data.payment_status)],
      ["Delivery", words(data.fulfillment_status)], ...(place ? [["To", place]] : []), ["E-mail", data.email]]),
    lines(data), totals(data), buttons);
}

function orders(data, act) {
  const items = list(data);
  if (!items.length) return card("Orders", null, el("p", { class: "soft" }, "None yet."));
  return card("Orders", null, el("ul", {}, items.map((item) =>
    el("li", {}, el("button", { class: "order-row button--plain", type: "button",
      onclick: () => act(`show order ${item.number}`) },
    el("strong", {}, `Order ${item.number}`), badge(item.status),
    el("span", { class: "small soft" }, when(item.placed_at || item.created_at)),
    el("span", { class: "price" }, money(item.total_amount, item.currency)))))));
}

export function tile(name, value) {
  return el("div", { class: "tile" }, el("span", { class: "eyebrow" }, name), el("strong", {}, value));
}

/** A value of a field as people read it: amounts as money, times as times. */
export function shown(name, value, currency) {
  if (value === null || value === undefined) return "";
  if (name.endsWith("_amount") && currency && Number.isFinite(value)) return money(value, currency);
  if (name.endsWith("_at") && typeof value === "string") return when(value);
  if (typeof value === "number") return count(value);
  if (typeof value === "boolean") return value ? "Yes" : "No";
  return String(value);
}

const COLUMNS_MAX = 6;
/** A table of whatever plain fields `rows` have in common with the first. */
export function table(title, rows, currency) {
  const names = Object.entries(rows[0]).filter(([name, value]) =>
    ["string", "number", "boolean"].includes(typeof value) && !/(^|_)(id|url|currency)$/.test(name))
    .map(([name]) => name).slice(0, COLUMNS_MAX);
  const cell = (row, name) => el("td", { class: typeof row[name] === "number" ? "number right" : null },
    shown(name, row[name], row.currency || currency));
  return el("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": title },
    el("table", { class: "table" },
      el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col",
        class: typeof rows[0][name] === "number" ? "right" : null }, words(name.replace(/_amount$/, "")))))),
      el("tbody", {}, rows.map((row) => el("tr", {}, names.map((name) => cell(row, name)))))));
}

function sales(data) {
  const top = data.top_products || [];
  const days = data.days || data.series || [];
  return card("Sales", el("span", { class: "small soft" }, `${when(data.start)} to ${when(data.end)}`),
    el("div", { class: "tiles" },
      tile("Revenue", money(data.revenue_amount, data.currency)), tile("Orders", count(data.orders)),
      tile("Units", count(data.units)), tile("Average order", money(data.aov_amount, data.currency))),
    columns("Revenue by day", days.map((item) => ({ label: item.day || item.date, value: item.revenue_amount,
      text: money(item.revenue_amount, data.currency) }))),
    bars("Revenue by product", top.map((item) => ({ label: item.title, value: item.revenue_amount,
      text: `${count(item.units)} sold, ${money(item.revenue_amount, data.currency)}` }))));
}

export function levels(data) {
  const row = (level) => el("tr", {}, el("th", { scope: "row" }, level.location_name || level.location),
    ...[level.on_hand, level.reserved, level.allocated, level.available].map((n) => el("td", { class: "number" }, count(n))));
  return el("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": "Stock levels" },
    el("table", { class: "table" },
      el("thead", {}, el("tr", {}, ["Location", "On hand", "Reserved", "Allocated", "Available"]
        .map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, data.levels.map(row))));
}

function stockCard(data) {
  if (Array.isArray(data.levels)) {
    return card(data.title || data.sku, el("span", { class: "small soft" }, data.sku), levels(data));
  }
  return card("Stock", null, facts(list(data).map((item) =>
    [item.sku || item.location, `${item.title ? `${item.title}: ` : ""}${count(item.available ?? item.on_hand_delta ?? 0)}`])));
}

export function card(title, aside, ...children) {
  return el("section", { class: "card", "aria-label": title },
    el("div", { class: "card-head" }, el("h3", {}, title), aside), ...children.filter(Boolean));
}

function list(data) {
  if (Array.isArray(data)) return data;
  return Array.isArray(data?.items) ? data.items : [];
}

/** A titled list of whatever plain values `data` has, for kinds this page does not know. */
function plain(data, title) {
  const items = list(data);
  if (items.length && typeof items[0] === "object") return card(title, null, table(title, items, data.currency));
  const pairs = Object.entries(data || {})
    .filter(([name, value]) => ["string", "number", "boolean"].includes(typeof value) && name !== "id")
    .map(([name, value]) => [words(name.replace(/_amount$/, "")), shown(name, value, data.currency)]);
  return pairs.length ? card(title, null, facts(pairs)) : null;
}

const KINDS = { products, product, cart, order, orders, sales, stock: stockCard };

/** Build the card of `kind`, or null where there is nothing to show. */
export function build(kind, data, act) {
  const make = Object.hasOwn(KINDS, kind) ? KINDS[kind] : null;
  const node = make ? make(data, act) : plain(data, words(kind));
  node?.classList.add("card-enter");
  return node;
}
