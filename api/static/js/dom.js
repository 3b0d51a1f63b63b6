/* Elements are built here, and every value becomes a text node: data is never parsed as HTML. */

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (value === true) node.setAttribute(name, "");
    else node.setAttribute(name, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** An <img> for the shop's own pictures; other hosts are refused by the policy, so not asked. */
export function picture(url) {
  if (typeof url !== "string" || !url.startsWith("/") || url.startsWith("//")) return null;
  const image = el("img", { alt: "", loading: "lazy", decoding: "async", src: url });
  image.addEventListener("error", () => image.remove());
  return image;
}

let toastTimer;
export function announce(text) {
  const region = byId("announcements");
  if (!region) return;
  clearTimeout(toastTimer);
  region.textContent = "";
  toastTimer = setTimeout(() => { region.textContent = text; }, 50);
}

/** The few marks a model writes (paragraphs, lists, bold, code), as nodes. */
export function prose(text) {
  const blocks = [];
  let list = null;
  let lines = [];
  const flush = () => {
    if (lines.length) blocks.push(el("p", {}, inline(lines.join("\n"))));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const item = /^\s*(?:([-*•])|(\d+)[.)])\s+(.*)$/.exec(line);
    if (item) {
      flush();
      const tag = item[1] ? "UL" : "OL";
      if (!list || list.tagName !== tag) {
        list = el(tag);
        blocks.push(list);
      }
      list.append(el("li", {}, inline(item[3])));
    } else if (line.trim() === "") {
      flush();
      list = null;
    } else {
      list = null;
      lines.push(line.replace(/^#{1,4}\s+/, ""));
    }
  }
  flush();
  return blocks;
}

function inline(text) {
  return text.split(/(\*\*[^*\n]+\*\*|`[^`\n]+`)/).map((part) => {
    if (/^\*\*.+\*\*$/.test(part)) return el("strong", {}, part.slice(2, -2));
    if (/^`.+`$/.test(part)) return el("code", {}, part.slice(1, -1));
    return part;
  });
}
