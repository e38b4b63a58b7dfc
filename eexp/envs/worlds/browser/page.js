// Runs in every page before the page's own scripts. It stops the page's clock, which then advances only when `settle`
// is called, turns off what moves by itself, and describes the page in words: `eexpPage.read`.
(() => {
  "use strict";
  const site = window.eexpSite === true; // whether links and forms lead on, and messages are passed on
  const say = site && typeof window.eexpSay === "function" ? window.eexpSay : () => undefined;
  delete window.eexpSite;
  const MOST_LINES = 5000, LONGEST = 4000; // of a page of a site: characters of one text
  const START = Date.UTC(2024, 0, 8, 9, 0, 0); // what the page takes for now when it is opened
  const FRAME = 16; // milliseconds between two animation frames
  const FAR = 3600e3; // a timer that is due later than this never is

  // -- the clock ------------------------------------------------------------------------------------------------------

  const RealDate = Date, realFrame = window.requestAnimationFrame.bind(window);
  const realTimeout = window.setTimeout.bind(window);
  let now = START, count = 0;
  const timers = new Map(); // number -> {due, order, run, every}

  window.Date = new Proxy(RealDate, {
    construct: (target, args, type) => Reflect.construct(target, args.length ? args : [now], type),
    apply: () => new RealDate(now).toString(),
    get: (target, name) => (name === "now" ? () => now : Reflect.get(target, name)),
  });
  RealDate.prototype.constructor = window.Date;
  performance.now = () => now - START;

  const add = (run, delay, every) => {
    const number = ++count;
    timers.set(number, { due: now + Math.max(1, Number(delay) || 0), order: number, run, every });
    return number;
  };
  const callback = (run, args) => (typeof run === "function" ? () => run(...args) : () => (0, eval)(String(run)));
  window.setTimeout = (run, delay, ...args) => add(callback(run, args), delay, null);
  window.setInterval = (run, delay, ...args) => add(callback(run, args), delay, Math.max(1, Number(delay) || 0));
  window.requestAnimationFrame = (run) => add(() => run(now - START), FRAME - ((now - START) % FRAME), null);
  window.requestIdleCallback = (run) => add(() => run({ didTimeout: false, timeRemaining: () => 50 }), 1, null);
  window.clearTimeout = window.clearInterval = (number) => void timers.delete(number);
  window.cancelAnimationFrame = window.cancelIdleCallback = window.clearTimeout;

  const next = (until) => {
    let first = null;
    for (const [number, timer] of timers) {
      if (timer.due > until) continue;
      if (!first || timer.due < first.due || (timer.due === first.due && timer.order < first.order)) {
        first = { number, ...timer };
      }
    }
    return first;
  };
  const advance = async (milliseconds) => {
    const until = now + milliseconds;
    for (let timer = next(until); timer; timer = next(until)) {
      now = timer.due;
      if (timer.every === null) timers.delete(timer.number);
      else timers.set(timer.number, { ...timer, due: now + timer.every, order: ++count });
      try {
        timer.run();
      } catch (error) {
        console.error(error);
      }
      await null; // promises that the callback has resolved
    }
    now = until;
  };

  // A frame, with what the browser does in it: before, it sends events of scrolling and of what is under the mouse by
  // now, for which the layout has to be there; after, it takes the focus from what can no longer have it.
  const frame = () => {
    document.documentElement.getBoundingClientRect();
    return new Promise((done) => realFrame(() => realTimeout(done, 0)));
  };

  // -- pictures ---------------------------------------------------------------------------------------------------------

  // The browser loads what a style names once the style is used. An element may have no size until then.
  const pictures = new Map(); // URL -> Image, which keeps it in the browser's memory
  const pictureUrls = function* () {
    for (const el of document.querySelectorAll("body, body *")) {
      for (const part of [null, "::before", "::after"]) {
        const { content, backgroundImage, listStyleImage } = getComputedStyle(el, part);
        for (const value of [content, backgroundImage, part ? "" : listStyleImage]) {
          if (value.includes("url(")) yield* [...value.matchAll(/url\("(.*?)"\)/g)].map((match) => match[1]);
        }
      }
      if (el.localName === "img" && el.src) yield el.src;
    }
  };
  const picturesLoaded = async () => {
    const loading = [];
    for (const url of pictureUrls()) {
      if (pictures.has(url)) continue;
      const picture = new Image();
      pictures.set(url, picture);
      loading.push(new Promise((done) => (picture.onload = picture.onerror = done)));
      picture.src = url;
    }
    await Promise.all(loading);
  };

  // -- what moves by itself, draws by itself, or leads away ---------------------------------------------------------------

  let drawn = 1; // numbers drawn while the page is loaded, before the task's own seed
  Math.random = () => (drawn = (drawn * 48271) % 2147483647) / 2147483647;

  const still = new CSSStyleSheet();
  still.replaceSync(
    "*, ::before, ::after { transition: none !important; animation: none !important;" +
      " scroll-behavior: auto !important; caret-color: transparent !important }"
  );
  document.adoptedStyleSheets = [still];

  const asks = (kind, answer) => (text) => {
    say(`${kind}: ${String(text ?? "").slice(0, 300)}`);
    return answer;
  };
  window.alert = asks("alert", undefined);
  window.confirm = asks("confirm, answered with OK", true);
  window.prompt = asks("prompt, answered with nothing", null);
  window.open = (url) => {
    if (site && url) location.href = url; // a page of a site stays in its tab
    return null;
  };
  window.print = () => undefined;
  const stay = (event) => {
    const link = event.type === "click" && event.target.closest && event.target.closest("a[href]");
    if (event.type === "submit" || (link && !link.getAttribute("href").startsWith("#"))) event.preventDefault();
  };
  const inThisTab = (event) => {
    const el = event.target.closest && event.target.closest("a[target], area[target], form[target]");
    if (el) el.removeAttribute("target");
  };
  for (const type of ["submit", "click"]) {
    if (site) window.addEventListener(type, inThisTab, true);
    else window.addEventListener(type, stay);
  }
  if (site) Object.defineProperty(window, "onbeforeunload", { set: () => undefined });

  // -- which elements listen to the mouse -------------------------------------------------------------------------------

  const MOUSE = new Set(["click", "mouseup", "pointerup"]);
  const listening = new WeakMap(); // element -> number of listeners
  // Pressing the button alone counts for shapes; elsewhere it begins a drag.
  const listensTo = (el, type) => el instanceof Element && (MOUSE.has(type) || (isShape(el) && type === "mousedown"));
  const realAdd = EventTarget.prototype.addEventListener, realRemove = EventTarget.prototype.removeEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (site && type === "beforeunload") return undefined; // a page cannot keep its reader
    if (listensTo(this, type)) listening.set(this, (listening.get(this) || 0) + 1);
    return realAdd.call(this, type, ...rest);
  };
  EventTarget.prototype.removeEventListener = function (type, ...rest) {
    if (listensTo(this, type)) listening.set(this, (listening.get(this) || 0) - 1);
    return realRemove.call(this, type, ...rest);
  };

  // -- the page in words ------------------------------------------------------------------------------------------------

  const ids = new WeakMap(), elements = new Map();
  let lastId = 0, skipped = "script, style, noscript, template";

  const ROLES = {
    button: "button", textarea: "textbox", summary: "button", img: "image", option: "option", canvas: "canvas",
    dialog: "dialog", table: "table", tr: "row", ul: "list", ol: "list", fieldset: "group",
    h1: "heading", h2: "heading", h3: "heading", h4: "heading", h5: "heading", h6: "heading",
  };
  const INPUTS = {
    checkbox: "checkbox", radio: "radio", range: "slider", number: "spinbutton", button: "button", submit: "button",
    reset: "button", image: "button", file: "file", hidden: null,
  };
  const SHAPES = new Set(["circle", "rect", "ellipse", "polygon", "polyline", "path", "line", "text"]);
  const ACTIVE = new Set([
    "button", "link", "textbox", "checkbox", "radio", "slider", "spinbutton", "combobox", "listbox", "tab", "menuitem",
    "treeitem", "switch", "option", "clickable", "file",
  ]);
  const CONTAINERS = new Set(["dialog", "table", "row", "list", "menu", "tablist", "tree", "group", "listitem"]);
  const LANDMARKS = new Set(["main", "nav", "header", "footer", "section", "article", "aside", "form", "table", "pre"]);
  const CLICKED = new Set(["button", "link", "checkbox", "radio", "tab", "menuitem", "treeitem", "switch", "option"]);

  const clean = (text) => text.replace(/\s+/g, " ").trim();
  const isShape = (el) => el instanceof SVGElement && SHAPES.has(el.localName);

  const roleOf = (el) => {
    const explicit = (el.getAttribute("role") || "").trim().split(/\s+/)[0];
    if (["presentation", "none", "tabpanel", "document", "status", "log"].includes(explicit)) return null;
    if (explicit === "dialog" || ACTIVE.has(explicit) || CONTAINERS.has(explicit)) return explicit;
    const tag = el.localName;
    if (tag === "input") return el.type in INPUTS ? INPUTS[el.type] : "textbox";
    if (tag === "select") return el.multiple || el.size > 1 ? "listbox" : "combobox";
    if (tag === "a") return el.hasAttribute("href") || listens(el) ? "link" : null;
    if (el.isContentEditable && !(el.parentElement && el.parentElement.isContentEditable)) return "textbox";
    return ROLES[tag] || null;
  };
  const listens = (el) => (listening.get(el) || 0) > 0 || typeof el.onclick === "function";
  const isClickable = (el, style) => {
    if (el === document.body || el === document.documentElement) return false;
    // Parts of a page that can have the focus, for readers that go by keys, are not for clicking.
    if (listens(el) || (el.hasAttribute("tabindex") && el.tabIndex >= 0 && !(site && LANDMARKS.has(el.localName)))) return true;
    return style.cursor === "pointer" && el.parentElement && getComputedStyle(el.parentElement).cursor !== "pointer";
  };

  const idOf = (el) => {
    if (!ids.has(el)) {
      ids.set(el, ++lastId);
      elements.set(lastId, new WeakRef(el));
    }
    return ids.get(el);
  };

  const isHidden = (el, style) => {
    if (style.display === "none" || Number(style.opacity) === 0 || el.getAttribute("aria-hidden") === "true") return true;
    if (style.display === "contents" || el instanceof SVGElement) return false;
    const cuts = style.overflowX !== "visible" || style.overflowY !== "visible";
    return cuts && (el.clientWidth === 0 || el.clientHeight === 0) && el.getClientRects().length > 0 &&
      !(el instanceof HTMLInputElement) && style.display !== "inline";
  };

  // Where to click on an element: {x, y}; "scroll" where it has to be scrolled into view first; null where it cannot be.
  const pointOf = (el, mayScroll) => {
    let clipped = false;
    for (const rect of el.getClientRects()) {
      if (rect.width < 1 || rect.height < 1) {
        if (!isShape(el)) continue;
      }
      for (const [across, down] of [[0.5, 0.5], [0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75], [0.1, 0.5], [0.9, 0.5], [0.2, 0.2], [0.8, 0.8], [0.2, 0.8], [0.8, 0.2]]) {
        const x = rect.left + rect.width * across, y = rect.top + rect.height * down;
        const cut = clipAt(el, x, y);
        if (cut) {
          clipped = clipped || cut === "scroll";
          continue;
        }
        const hit = document.elementFromPoint(x, y);
        if (hit && belongs(el, hit)) return { x, y };
      }
    }
    return clipped && mayScroll ? "scroll" : null;
  };
  const belongs = (el, hit) => {
    if (hit === el) return true;
    if (el.contains(hit)) {
      const generic = !ACTIVE.has(roleOf(el));
      for (let inner = hit; inner !== el; inner = inner.parentElement) {
        if ((generic && listens(inner)) || (CLICKED.has(roleOf(inner)) && inner.localName !== "option")) return false;
      }
      return true;
    }
    const label = hit.closest("label");
    return Boolean(label && label.control === el);
  };
  // What keeps a point of an element from being seen: "scroll" where scrolling helps, "hidden" where not; null for nothing.
  const clipAt = (el, x, y) => {
    let clip = x < 0 || y < 0 || x >= innerWidth || y >= innerHeight ? "scroll" : null;
    for (let outer = el.parentElement; outer && outer !== document.body; outer = outer.parentElement) {
      const { overflowX, overflowY } = getComputedStyle(outer);
      if (overflowX === "visible" && overflowY === "visible") continue;
      const rect = outer.getBoundingClientRect();
      if (x >= rect.left && x < rect.right && y >= rect.top && y < rect.bottom) continue;
      if (!/auto|scroll/.test(overflowX + overflowY)) return "hidden";
      clip = "scroll";
    }
    return clip;
  };

  // The visible text of an element, without that of elements in it which have lines of their own.
  const textOf = (el, generic = !ACTIVE.has(roleOf(el))) => {
    let text = "";
    for (const child of el.childNodes) {
      if (child instanceof Text) text += getComputedStyle(el).visibility === "visible" ? child.data : "";
      else if (child instanceof Element && !child.matches(skipped)) {
        const style = getComputedStyle(child);
        if (isHidden(child, style) || ACTIVE.has(roleOf(child))) continue;
        if (generic && isClickable(child, style)) continue;
        const block = !style.display.startsWith("inline");
        text += (block ? " " : "") + (child.localName === "br" ? " " : textOf(child, generic)) + (block ? " " : "");
      }
    }
    return text;
  };
  const labelText = (el) => {
    for (const label of el.labels || []) {
      const text = clean(textOf(label));
      if (text) return text;
    }
    return "";
  };
  const nameOf = (el, role) => {
    const named = (el.getAttribute("aria-labelledby") || "").split(/\s+/).map((id) => id && document.getElementById(id));
    const given = clean(named.filter(Boolean).map((other) => other.textContent).join(" "));
    if (given || el.getAttribute("aria-label")) return given || clean(el.getAttribute("aria-label"));
    if (el instanceof HTMLInputElement && role === "button") return el.value || el.alt || el.type;
    if (["checkbox", "radio", "textbox", "combobox", "listbox", "slider", "spinbutton", "file"].includes(role)) {
      return labelText(el) || el.getAttribute("placeholder") || clean(el.title || "");
    }
    return clean(textOf(el)) || el.getAttribute("alt") || clean(el.title || "");
  };
  // What an element without a name is called in the page's source: its id, a field's name, or its classes.
  const sourceName = (el) => {
    if (el.id && !/^ui-id-/.test(el.id)) return "#" + el.id;
    const field = site && ["input", "select", "textarea"].includes(el.localName) && el.getAttribute("name");
    if (field) return "name=" + field.trim().replace(/[\s"]+/g, "_").slice(0, 80);
    return [...el.classList].slice(0, 2).map((name) => "." + name).join("");
  };

  const NAMES = {
    "0,0,0": "black", "255,255,255": "white", "255,0,0": "red", "0,128,0": "green", "0,255,0": "lime", "0,0,255": "blue",
    "255,255,0": "yellow", "0,255,255": "cyan", "255,0,255": "magenta", "255,165,0": "orange", "128,0,128": "purple",
    "255,192,203": "pink", "165,42,42": "brown", "128,128,128": "grey", "192,192,192": "silver", "128,0,0": "maroon",
    "128,128,0": "olive", "0,0,128": "navy", "0,128,128": "teal", "238,130,238": "violet", "75,0,130": "indigo",
  };
  const colorName = (color) => {
    const parts = (color.match(/[\d.]+/g) || []).map(Number);
    if (parts.length < 3 || parts[3] === 0) return "";
    const key = parts.slice(0, 3).join(",");
    return NAMES[key] || "#" + parts.slice(0, 3).map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");
  };
  const shapeOf = (el) => {
    const corners = (el.getAttribute("points") || "").trim().split(/[\s,]+/).length / 2;
    const kind = el.localName === "polygon" && corners === 3 ? "triangle" : el.localName;
    const style = getComputedStyle(el), size = (value) => Math.round(Number(value) || 0);
    const sizes = {
      circle: [2 * el.getAttribute("r")], rect: [el.getAttribute("width"), el.getAttribute("height")],
      text: [parseFloat(style.fontSize)],
    };
    const box = el.getBBox(), number = (name) => Number(el.getAttribute(name)) || 0;
    const at = el.localName === "text" ? [number("x"), number("y")] : [box.x + box.width / 2, box.y + box.height / 2];
    return {
      place: at.map(Math.round).join(","),
      name: el.localName === "text" ? clean(el.textContent) : "",
      shape: `${kind}${kind === "polygon" ? ` with ${corners} corners` : ""}`,
      color: colorName(style.fill) || colorName(style.stroke),
      size: (sizes[el.localName] || [box.width, box.height]).map(size).join("x"),
    };
  };

  const statesOf = (el, role) => {
    const states = [], aria = (name) => el.getAttribute("aria-" + name);
    if (role === "checkbox" || role === "radio" || role === "switch") {
      states.push((el.checked ?? aria("checked") === "true") ? "checked" : "not checked");
    }
    if (aria("selected") === "true") states.push("selected");
    if (aria("expanded") === "true") states.push("expanded");
    if (aria("expanded") === "false") states.push("collapsed");
    if (aria("pressed") === "true") states.push("pressed");
    if (el.disabled || aria("disabled") === "true") states.push("disabled");
    if (el.localName === "textarea" || el.isContentEditable) states.push("many lines");
    if (el.readOnly) states.push("read only");
    if (document.activeElement === el) states.push("focused");
    return states;
  };
  const valueOf = (el, role) => {
    if (el instanceof HTMLInputElement && el.type === "password") return "•".repeat(el.value.length);
    if (["textbox", "slider", "spinbutton"].includes(role)) return "value" in el ? el.value : clean(el.innerText || "");
    if (role === "slider") return el.getAttribute("aria-valuenow");
    if (role === "combobox" && el.selectedOptions) return [...el.selectedOptions].map((one) => clean(one.text)).join(", ");
    return null;
  };

  const read = () => {
    const lines = [];
    let words = "";
    const flush = (depth) => {
      const text = site ? clean(words).slice(0, LONGEST) : clean(words);
      if (site ? /[\p{L}\p{N}]/u.test(text) : text) lines.push({ depth, text });
      words = "";
    };
    const describe = (el, role, depth) => {
      const disabled = el.disabled || el.getAttribute("aria-disabled") === "true";
      const point = disabled ? null : pointOf(el, true);
      const chosen = role === "combobox" || role === "listbox";
      const line = { depth, role, name: nameOf(el, role), states: statesOf(el, role), value: valueOf(el, role) };
      line.element = point ? el : null; // its number follows when all lines are there
      line.editable = Boolean(point) && ["textbox", "spinbutton"].includes(role) && !el.readOnly;
      line.clickable = Boolean(point) && !(chosen && el.options);
      line.range = el.localName === "input" && ["range", "color"].includes(el.type);
      if (isShape(el)) Object.assign(line, shapeOf(el));
      if (!line.name && !isShape(el)) {
        line.source = sourceName(el);
        const color = role === "clickable" && !/ui-/.test(line.source) ? colorName(getComputedStyle(el).backgroundColor) : "";
        if (color) line.color = color;
      }
      if (chosen && el.options) {
        const options = [...el.options].filter((one) => !one.disabled);
        line.options = options.map((one) => clean(one.text));
        if (role === "listbox") line.selected = options.map((one) => one.selected);
      }
      if (el.localName === "input" && ["date", "time", "color", "month", "week", "datetime-local"].includes(el.type)) {
        line.kind = el.type;
      }
      lines.push(line);
    };
    const walk = (el, depth) => {
      if (el.matches(skipped) || (site && lines.length >= MOST_LINES)) return;
      const style = getComputedStyle(el);
      if (isHidden(el, style)) return;
      const seen = style.visibility === "visible";
      let role = seen ? roleOf(el) : null;
      if (el.localName === "br") words += " ";
      if (el.localName === "option" || el.localName === "optgroup") return;
      if (site && el instanceof SVGElement && !listens(el)) return; // icons
      if (seen && el instanceof SVGElement && isShape(el)) {
        flush(depth);
        describe(el, isClickable(el, style) || listens(el) ? "clickable" : "shape", depth);
        return;
      }
      if (seen && !ACTIVE.has(role) && role !== "dialog" && isClickable(el, style)) role = "clickable";
      const block = !style.display.startsWith("inline");
      if (role && ACTIVE.has(role)) {
        if (role === "clickable" && !el.getClientRects().length) role = null;
      }
      if (role && ACTIVE.has(role)) {
        flush(depth);
        const at = lines.length;
        describe(el, role, depth);
        if (["textbox", "combobox", "listbox"].includes(role)) return;
        for (const child of el.children) walkActive(child, depth + 1, role === "clickable");
        words = "";
        if (role === "clickable" && !lines[at].name && lines.length > at + 1) dissolve(at);
        return;
      }
      if (site && el.localName === "iframe") {
        flush(depth);
        const texts = frameTexts(el);
        if (texts.length) lines.push({ depth, role: "frame", name: clean(el.title || "") });
        for (const text of texts) lines.push({ depth: depth + 1, text });
        return;
      }
      if (role === "image") {
        flush(depth);
        const file = (el.getAttribute("src") || "").split("/").pop();
        lines.push({ depth, role, name: el.alt || clean(el.title || ""), source: file.length < 40 ? file : "" });
        return;
      }
      if (role === "heading") {
        flush(depth);
        for (const child of el.childNodes) visit(child, depth);
        const text = clean(words);
        words = "";
        if (text) lines.push({ depth, role, name: text });
        return;
      }
      if (block) flush(depth);
      if (role && CONTAINERS.has(role)) {
        flush(depth);
        const at = lines.length;
        lines.push({ depth, role, name: ["dialog", "group"].includes(role) ? nameOfContainer(el) : "" });
        for (const child of el.childNodes) visit(child, depth + 1);
        flush(depth + 1);
        if (lines.length === at + 1) lines.pop();
        return;
      }
      if (!(el instanceof HTMLLabelElement && el.control && !el.contains(el.control) && labelText(el.control))) {
        for (const child of el.childNodes) visit(child, depth, el);
      }
      if (block) flush(depth);
      else if (style.display === "inline-block" || el.localName === "td") words += " ";
    };
    // Leave out the line of an element that only holds others and listens for them.
    const dissolve = (at) => {
      lines.splice(at, 1);
      for (let i = at; i < lines.length; i++) lines[i].depth -= 1;
    };
    // Within an active element only what is active itself has a line: its text is the element's name.
    const walkActive = (el, depth, generic) => {
      const style = getComputedStyle(el);
      if (el.matches(skipped) || isHidden(el, style)) return;
      if (ACTIVE.has(roleOf(el)) || (generic && (isShape(el) || isClickable(el, style)))) walk(el, depth);
      else for (const child of el.children) walkActive(child, depth, generic);
    };
    const visit = (node, depth, parent) => {
      if (node instanceof Element) walk(node, depth);
      else if (node instanceof Text && !(parent instanceof HTMLLabelElement && parent.control && labelText(parent.control))) {
        if (getComputedStyle(node.parentElement).visibility === "visible") words += node.data;
      }
    };
    const nameOfContainer = (el) => {
      const titled = document.getElementById(el.getAttribute("aria-labelledby") || "");
      return clean(titled ? titled.textContent : el.getAttribute("aria-label") || "");
    };
    if (document.body) walk(document.body, 0);
    flush(0);
    for (const line of lines) {
      if (!("element" in line)) continue;
      line.id = line.element && idOf(line.element);
      delete line.element;
    }
    const waiting = [...timers.values()].some((timer) => timer.due < now + FAR);
    return { lines, waiting, focused: document.activeElement !== document.body };
  };

  // The lines of text in a frame of this site; none of a frame from elsewhere, into which a page cannot look.
  const frameTexts = (el) => {
    const inside = el.contentDocument;
    const text = inside && inside.body ? inside.body.innerText : "";
    return text.split("\n").map((line) => clean(line).slice(0, LONGEST)).filter(Boolean).slice(0, MOST_LINES);
  };

  const elementOf = (id) => {
    const el = elements.get(id) && elements.get(id).deref();
    return el && el.isConnected ? el : null;
  };

  // Let frames of this site go on as well.
  const settleFrames = async (milliseconds) => {
    for (const el of document.querySelectorAll("iframe")) {
      const inside = el.contentDocument && el.contentWindow.eexpPage;
      if (inside) await inside.advance(milliseconds);
    }
  };

  window.eexpPage = {
    advance,
    clearTimers: () => timers.clear(),

    // Leave elements out of what is read.
    skip(selector) {
      skipped += ", " + selector;
    },

    // Let the page go on for so many milliseconds of its own time, and return what `read` says then. The browser's own
    // events, which come with its frames, are let in before and after and not in between.
    async settle(milliseconds) {
      await frame();
      await advance(milliseconds);
      if (site) await settleFrames(milliseconds);
      if (!site) await picturesLoaded(); // of a site, requests are watched from outside
      await frame();
      await frame();
      return read();
    },

    read,

    // The number of an element, or of the nearest one around it that has one; null where none has.
    numberOf(el) {
      for (let one = el; one; one = one.parentElement) if (ids.has(one)) return ids.get(one);
      return null;
    },

    // Scroll an element into view where it has to be; return where to click on it, null where it cannot be clicked.
    async locate(id) {
      const el = elementOf(id);
      if (!el) return null;
      let point = pointOf(el, true);
      if (point === "scroll") {
        el.scrollIntoView({ block: "nearest", inline: "nearest" });
        await frame();
        point = pointOf(el, false);
      }
      return point;
    },

    // Give a field all at once what cannot be typed key by key; return whether the field has taken it.
    fill(id, value) {
      const el = elementOf(id), before = el.value;
      el.focus();
      el.value = value;
      if (el.value !== value) {
        el.value = before;
        return false;
      }
      for (const type of ["input", "change"]) el.dispatchEvent(new Event(type, { bubbles: true }));
      return true;
    },

    // Choose an option of a list; where several may be chosen, its choice is turned around.
    choose(id, index) {
      const el = elementOf(id);
      el.focus();
      const option = [...el.options].filter((one) => !one.disabled)[index];
      option.selected = el.multiple ? !option.selected : true;
      for (const type of ["input", "change"]) el.dispatchEvent(new Event(type, { bubbles: true }));
    },
  };
})();
