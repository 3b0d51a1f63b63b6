/* An action that waits for the person: nothing happens until Approve is pressed here. */

import { call } from "./api.js";
import { announce, el } from "./dom.js";
import { money, when, words } from "./format.js";
import { build, facts, lines, totals } from "./cards.js";

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
  return [facts(Object.entries(data)
    .filter(([name, value]) => ["string", "number", "boolean"].includes(typeof value) && !/(^|_)id$/.test(name))
    .map(([name, value]) => [words(name.replace(/_amount$/, "")),
      name.endsWith("_amount") && data.currency ? money(value, data.currency) : String(value)]))];
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
    ...preview(data), buttons, state);

  const close = (status, text) => {
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

  // Whether it expired is for the server to say: this clock may be wrong.
  if (action.status && action.status !== "pending") close(action.status);
  return node;
}
