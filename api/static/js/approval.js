/* An action that waits for the person: nothing happens until Approve is pressed here. */

import { call } from "./api.js";
import { announce, el } from "./dom.js";
import { count, money, when, words } from "./format.js";
import { build, facts, lines, shown, table, totals } from "./cards.js";

const SETTLED = { executed: "Approved and done.", rejected: "Rejected. Nothing was changed.",
  failed: "It could not be done.", executing: "Being carried out." };

function preview(data) {
  if (!data || typeof data !== "object") return [];
  if (Array.isArray(data.lines) && Number.isFinite(data.total_amount)) {
    const address = data.shipping_address;
    return [
      lines(data),
      facts([
        ...(address ? [["Deliver to", [address.name, address.line1, `${address.postal_code} ${address.city}`,
          address.country_code].filter(Boolean).join(", ")]] : []),
        ...(data.email ? [["E-mail", data.email]] : []),
        ...(data.shipping_method ? [["Delivery", words(data.shipping_method)]] : []),
      ]),
      totals(data),
    ];
  }
  const plain = Object.entries(data)
    .filter(([name, value]) => ["string", "number", "boolean"].includes(typeof value) && !/(^|_)id$/.test(name));
  const lists = Object.entries(data).filter(([, value]) => Array.isArray(value) && value.length);
  return [
    facts(plain.map(([name, value]) => [words(name.replace(/_amount$/, "")), shown(name, value, data.currency)])),
    ...lists.map(([name, value]) => (typeof value[0] === "object" ? table(words(name), value, data.currency)
      : facts([[words(name), value.join(", ")]]))),
  ];
}

/** What the dry run would change, beyond what the preview says: money first. */
function consequences(effects) {
  if (!effects) return null;
  const moves = (effects.money || []).filter((move) => ["charge", "refund"].includes(move.what));
  const prices = Object.entries(effects.prices || {});
  const rows = [
    ...moves.map((move) => [words(move.what), money(move.amount, move.currency)]),
    ...(prices.length ? [["Prices changed", count(prices.length)]] : []),
    ...((effects.events || []).length ? [["Will happen", [...new Set(effects.events)]
      .map((name) => name.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase()).join(", ")]] : []),
  ];
  return rows.length ? el("details", { class: "consequences" }, el("summary", {}, "What this changes"), facts(rows)) : null;
}

const open = new Map();
/** Close the card of an action that was decided elsewhere. */
export function settle(id, text) {
  open.get(id)?.(text);
}

/** `settled(card)` runs with the result's card after an approval. */
export function approvalCard(action, act, settled) {
  const id = action.action_id || action.id;
  const data = action.preview || {};
  const state = el("p", { class: "approval-state", role: "status" });
  const approve = el("button", { class: "button button--primary", type: "button" },
    Number.isFinite(data.charge_amount) ? `Approve ${money(data.charge_amount, data.currency)}` : "Approve");
  const reject = el("button", { class: "button", type: "button" }, "Reject");
  const buttons = el("div", { class: "card-buttons" }, approve, reject);
  const node = el("section", { class: "card approval card-enter", "aria-label": "Your approval is needed", data: { action: id } },
    el("div", { class: "card-head" }, el("h3", {}, action.summary || words(action.operation)),
      action.expires_at ? el("span", { class: "small soft" }, `Valid until ${when(action.expires_at)}`) : null),
    ...[...preview(data), consequences(action.effects),
      action.approver === "other" ? el("p", { class: "small soft" }, "Somebody else has to approve this.") : null,
      buttons, state].filter(Boolean));

  const close = (status, text) => {
    open.delete(id);
    buttons.hidden = true;
    state.textContent = text || SETTLED[status] || words(status);
  };

  async function decide(verb) {
    approve.disabled = reject.disabled = true;
    state.textContent = verb === "approve" ? "Working…" : "";
    try {
      const answer = await call("POST", `/v1/actions/${encodeURIComponent(id)}/${verb}`);
      close(answer.status, answer.summary);
      announce(state.textContent);
      const result = answer.card && build(answer.card.kind, answer.card.data, act);
      if (result) node.after(result);
      settled?.(answer.card || null, verb);
    } catch (error) {
      state.textContent = error.message;
      approve.disabled = reject.disabled = [402, 404, 409].includes(error.status);
    }
  }
  approve.addEventListener("click", () => decide("approve"));
  reject.addEventListener("click", () => decide("reject"));

  open.set(id, (text) => close("executed", text));

  // Whether it expired is for the server to say: this clock may be wrong.
  if (action.status && action.status !== "pending") close(action.status);
  return node;
}
