const formats = new Map();

/** Format minor units: `money(1250, "EUR")` is €12.50, `money(1250, "JPY")` is ¥1,250. */
export function money(amount, currency) {
  if (!Number.isFinite(amount) || typeof currency !== "string") return "";
  let format = formats.get(currency);
  if (!format) {
    format = new Intl.NumberFormat(undefined, { style: "currency", currency });
    formats.set(currency, format);
  }
  return format.format(amount / 10 ** format.resolvedOptions().maximumFractionDigits);
}

/** Write the amounts in a sentence of the shop's as this browser's language does: `EUR 12.50`. */
export function amounts(sentence) {
  return String(sentence).replace(/\b([A-Z]{3}) (-?\d+)(?:\.(\d{1,3}))?(?![\d.])/g, (whole, currency, units, rest = "") => {
    try {
      return new Intl.NumberFormat(undefined, { style: "currency", currency, minimumFractionDigits: rest.length })
        .format(Number(rest ? `${units}.${rest}` : units));
    } catch {
      return whole;
    }
  });
}

const number = new Intl.NumberFormat();
export const count = (value) => number.format(value);

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
export function when(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime()) ? "" : day.format(date);
}

export function words(value) {
  const text = String(value).replaceAll("_", " ").replaceAll(".", ": ").trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
}
