"use strict";
/** What the scripts of all pages share. Text is always text, never markup. */
const eexpPage = (() => {
  const LONG = 700; // characters of a text that is shown whole
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;

  function element(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === null || value === undefined) continue;
      if (name in node && typeof value !== "string") node[name] = value;
      else node.setAttribute(name === "className" ? "class" : name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const many = (n, one, more) => `${n} ${n === 1 ? one : more}`;

  const wordsOf = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);
  /** Cut a text at the words that are searched for, and mark these. */
  function withMarks(text, words) {
    if (!words.length) return [text];
    const pattern = new RegExp(`(${words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "gi");
    return text.split(pattern).map((part, i) => (i % 2 ? element("mark", {}, part) : part));
  }
  /** Show a text as a paragraph; a long one is folded, and opened where a searched word occurs in it. */
  function folded(text, kind, words) {
    if (text.length <= LONG) return element("p", { class: kind }, ...withMarks(text, words));
    const details = element("details", { class: kind }, element("summary", {}, `${text.slice(0, 240)}… (${text.length} characters)`),
      element("p", {}, ...withMarks(text, words)));
    details.open = words.some((word) => text.toLowerCase().includes(word));
    return details;
  }

  // -- theme and keys --------------------------------------------------------------------------------------------

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const nameTheme = () => { $("theme").textContent = dark() ? "Light" : "Dark"; };
  function toggleTheme() {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("eexp-theme", root.dataset.theme); } catch { /* not kept */ }
    nameTheme();
  }
  function setUpTools() {
    try {
      const stored = localStorage.getItem("eexp-theme");
      if (stored === "light" || stored === "dark") root.dataset.theme = stored;
    } catch { /* as the system has it */ }
    prefersDark.addEventListener("change", nameTheme);
    $("theme").addEventListener("click", toggleTheme);
    $("help").addEventListener("click", () => $("keys").showModal());
    document.querySelector(".tools").hidden = false;
    nameTheme();
  }
  /** Call an action for each key; `t`, `/` and `?` are the same on every page. A field keeps its keys, but for Escape. */
  function bindKeys(actions) {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
      const typing = event.target.closest("input, select, textarea");
      if (typing) {
        if (event.key === "Escape") typing.blur();
        return;
      }
      if (event.target.closest(".box") && event.key.startsWith("Arrow")) return; // arrows scroll a wide table
      const all = { t: toggleTheme, "/": () => $("query").focus(), "?": () => $("keys").showModal(), ...actions };
      if (!Object.hasOwn(all, event.key)) return;
      event.preventDefault();
      all[event.key]();
    });
  }
  /** Scroll a list so that its current element is seen. */
  function keepInView(list, current) {
    const [top, bottom] = [current.offsetTop - list.offsetTop, current.offsetTop - list.offsetTop + current.offsetHeight];
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));

  return { $, element, many, wordsOf, withMarks, folded, setUpTools, bindKeys, keepInView };
})();
