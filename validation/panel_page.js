// Functions that validation/panel_page.py runs in the panel's page; they look, and change only `data-check`.
const CONTROLS = "button, input, select, textarea, summary, a[href], [tabindex]";
const NAMED = `${CONTROLS}, meter, progress, canvas, img`;

// What a control is called in reports: the same after a reload, and for every picture of the gallery.
function called(e) {
  if (e.id) return e.id;
  if (e.dataset.command) return e.dataset.command;
  if (e.dataset.mark) return `mark ${e.dataset.mark}`;
  for (const group of ["gallery", "stations"]) if (e.closest(`#${group}`)) return `${group} ${e.localName}`;
  return `${e.localName} ${(e.getAttribute("aria-label") || (e.firstChild || e).textContent || "").trim()}`;
}

function seen(e) {
  const box = e.getBoundingClientRect();
  return e.checkVisibility({ checkVisibilityCSS: true }) && box.width > 0 && box.height > 0;
}

// What Tab leads to, in its order.
const tabbed = () => [...document.querySelectorAll(CONTROLS)].filter((e) => seen(e) && !e.matches(":disabled") && e.tabIndex >= 0);
const controls = () => [...new Set([...document.querySelectorAll(CONTROLS)].map(called))];

// Numbers all visible controls and pictures, by which the accessibility tree finds them again.
function mark() {
  document.querySelectorAll("[data-check]").forEach((e) => e.removeAttribute("data-check"));
  return [...document.querySelectorAll(NAMED)].filter(seen).map((e, i) => {
    e.dataset.check = i;
    const decorates = e.localName === "img" && e.getAttribute("alt") === "" && e.closest("button") !== null;
    return { number: i, name: called(e), tab: tabbed().includes(e), decorates };
  });
}

// Those of them that are visible still: the page changes all the time.
const marked = () => [...document.querySelectorAll("[data-check]")].filter(seen).map((e) => Number(e.dataset.check));

// The element that has the keyboard, and what is wrong with how that is shown.
function focused() {
  const e = document.activeElement, faults = [];
  if (e === document.body) return null; // between the last control and the first
  const rings = [e, e.closest("label")].filter((part) => part && getComputedStyle(part).opacity > 0);
  const ringed = rings.filter((part) => {
    const style = getComputedStyle(part);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  });
  if (!ringed.length) faults.push("does not show that it has the keyboard");
  const shown = ringed[0] || e, box = shown.getBoundingClientRect();
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + Math.min(box.height, innerHeight) / 2);
  if (!top || !(shown.contains(top) || top.contains(shown) || top.closest("label") === shown)) {
    faults.push("is covered or out of sight when it has the keyboard");
  }
  return { number: e.dataset.check === undefined ? -1 : Number(e.dataset.check), name: called(e), faults };
}

// ---- contrast of text, as WCAG 2 computes it

function colour(text) {
  const [red, green, blue, alpha = 1] = text.match(/[\d.]+/g).map(Number);
  return [red, green, blue, alpha];
}
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
const parents = (e) => (e ? [...parents(e.parentElement), e] : []); // the outermost first
const behind = (e) => parents(e).reduce((below, part) => over(colour(getComputedStyle(part).backgroundColor), below), [255, 255, 255]);
function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
function contrast(e, style) {
  let back = behind(e), ink = over(colour(style.color), back);
  for (const part of parents(e).reverse()) { // what is not opaque is mixed with what is behind it
    const share = Number(getComputedStyle(part).opacity);
    if (share === 1 || !part.parentElement) continue;
    const below = behind(part.parentElement);
    back = over([...back, share], below); ink = over([...ink, share], below);
  }
  const [dark, light] = [luminance(ink), luminance(back)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}
function texts() {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), e = walker.currentNode.parentElement;
    if (text && e.localName !== "option" && !e.matches(".hidden") && seen(e)) found.push([e, getComputedStyle(e), text]);
  }
  for (const e of document.querySelectorAll("input, select, textarea")) {
    if (!seen(e) || ["checkbox", "range", "file"].includes(e.type)) continue;
    const style = getComputedStyle(e, e.placeholder && !e.value ? "::placeholder" : null);
    found.push([e, style, e.value || e.placeholder || ""]);
  }
  return found;
}
function faint() {
  const found = texts().map(([e, style, text]) => [contrast(e, style), text.slice(0, 40)]).filter(([ratio]) => ratio < 4.5);
  return [...new Set(found.map(([ratio, text]) => `the contrast of "${text}" is ${ratio.toFixed(1)}, less than 4.5`))];
}

// ---- what does not fit

function spilt() {
  const wide = document.documentElement.clientWidth, found = [], out = [];
  if (document.documentElement.scrollWidth > wide) found.push("the page is wider than the window");
  for (const e of document.body.querySelectorAll("*")) { // a part comes after what it is in
    if (out.some((part) => part.contains(e))) continue;
    if (!seen(e) || e.matches(".hidden")) continue;
    const box = e.getBoundingClientRect();
    if (box.right > wide + 1 || box.left < -1) { out.push(e); found.push(`${called(e)} reaches out of the window`); }
    const spills = !e.matches("input, select, canvas, meter") && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1;
    if (spills) found.push(`what is in ${called(e)} is wider than it is`);
  }
  return [...new Set(found)];
}
