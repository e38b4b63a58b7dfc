// Runs in every page in a world of its own: it shares the document with the page's scripts, and no value, object or
// function. It describes the page in words, `eexpPage.read`, and finds where to click. The page's clock, and what
// listens to the mouse, are in the page's own world (hooks.js).
(() => {
  "use strict";
  const site = window.eexpSite === true; // whether it is a page of a site
  delete window.eexpSite;
  const MOST_LINES = 5000, LONGEST = 4000; // of a page of a site: characters of one text
  const LONGEST_FRAME = 2000; // milliseconds after which a frame of a page of a site is not waited for

  // A form's fields, and some elements of a document, hide its properties by their names: `<input name=children>`.
  const get = (el, name) => (el instanceof HTMLFormElement ? Reflect.get(HTMLElement.prototype, name, el) : el[name]);
  const attribute = (el, name) => Element.prototype.getAttribute.call(el, name);
  const ofDocument = (name) => Reflect.get(Document.prototype, name, document);
  const select = (selector) => Document.prototype.querySelectorAll.call(document, selector);

  // A frame, with what the browser does in it: before, it sends events of scrolling and of what is under the mouse by
  // now, for which the layout has to be there; after, it takes the focus from what can no longer have it.
  // A document of a site that is left or was stopped may have none.
  const frame = () => {
    const root = ofDocument("documentElement");
    if (root) root.getBoundingClientRect();
    return new Promise((done) => {
      requestAnimationFrame(() => setTimeout(done, 0));
      if (site) setTimeout(done, LONGEST_FRAME);
    });
  };

  // How often the document has changed, frames of this site included.
  let ownChanges = 0;
  const observer = site ? new MutationObserver((records) => (ownChanges += records.length)) : null;
  if (site) observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  const frames = () => {
    const inside = [...select("iframe")].map((el) => el.contentDocument && el.contentWindow.eexpPage);
    return inside.filter((one) => one && typeof one.changes === "function"); // and not an element of this id
  };
  const changes = () => {
    if (observer) ownChanges += observer.takeRecords().length;
    return frames().reduce((sum, one) => sum + one.changes(), ownChanges);
  };
  const isLoaded = () => ofDocument("readyState") === "complete" && frames().every((one) => one.isLoaded());

  // -- pictures ---------------------------------------------------------------------------------------------------------

  // The browser loads what a style names once the style is used. An element may have no size until then.
  const pictures = new Map(); // URL -> Image, which keeps it in the browser's memory
  const pictureUrls = function* () {
    for (const el of select("body, body *")) {
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

  // The elements that listen to the mouse, as hooks.js says when it is asked.
  let listening = new Set(), waiting = false;
  const ask = () => {
    const hear = ({ detail }) => {
      const all = [...select("*")], elementsOf = (numbers) => [...numbers].map((number) => all[number]);
      listening = new Set([...elementsOf(detail.clicked), ...elementsOf(detail.pressed).filter((el) => el && isShape(el))]);
      waiting = Boolean(detail.waiting);
    };
    listening = new Set();
    waiting = false;
    visualViewport.addEventListener("eexp-answer", hear, { once: true });
    visualViewport.dispatchEvent(new CustomEvent("eexp-ask"));
    visualViewport.removeEventListener("eexp-answer", hear);
  };

  const clean = (text) => text.replace(/\s+/g, " ").trim();
  const isShape = (el) => el instanceof SVGElement && SHAPES.has(el.localName);

  const roleOf = (el) => {
    const explicit = (attribute(el, "role") || "").trim().split(/\s+/)[0];
    if (["presentation", "none", "tabpanel", "document", "status", "log"].includes(explicit)) return null;
    if (explicit === "dialog" || ACTIVE.has(explicit) || CONTAINERS.has(explicit)) return explicit;
    const tag = get(el, "localName");
    if (tag === "input") return el.type in INPUTS ? INPUTS[el.type] : "textbox";
    if (tag === "select") return el.multiple || el.size > 1 ? "listbox" : "combobox";
    if (tag === "a") return hasAttribute(el, "href") || listens(el) ? "link" : null;
    if (isEditable(el) && !isEditable(get(el, "parentElement"))) return "textbox";
    return ROLES[tag] || null;
  };
  const listens = (el) => listening.has(el);
  const hasAttribute = (el, name) => attribute(el, name) !== null;
  const isEditable = (el) => Boolean(el && get(el, "isContentEditable"));
  const isSkipped = (el) => Element.prototype.matches.call(el, skipped);
  const rectsOf = (el) => Element.prototype.getClientRects.call(el);
  const byId = (id) => ofDocument("getElementById").call(document, id);
  const isClickable = (el, style) => {
    if (el === ofDocument("body") || el === ofDocument("documentElement")) return false;
    // Parts of a page that can have the focus, for readers that go by keys, are not for clicking.
    if (listens(el) || (hasAttribute(el, "tabindex") && get(el, "tabIndex") >= 0 && !(site && LANDMARKS.has(get(el, "localName"))))) return true;
    const parent = get(el, "parentElement");
    return style.cursor === "pointer" && parent && getComputedStyle(parent).cursor !== "pointer";
  };

  const idOf = (el) => {
    if (!ids.has(el)) {
      ids.set(el, ++lastId);
      elements.set(lastId, new WeakRef(el));
    }
    return ids.get(el);
  };

  const isHidden = (el, style) => {
    if (style.display === "none" || Number(style.opacity) === 0 || attribute(el, "aria-hidden") === "true") return true;
    if (style.display === "contents" || el instanceof SVGElement) return false;
    const cuts = style.overflowX !== "visible" || style.overflowY !== "visible";
    return cuts && (get(el, "clientWidth") === 0 || get(el, "clientHeight") === 0) && rectsOf(el).length > 0 &&
      !(el instanceof HTMLInputElement) && style.display !== "inline";
  };

  // Where to click on an element: {x, y}; "scroll" where it has to be scrolled into view first; null where it cannot be.
  const pointOf = (el, mayScroll) => {
    let clipped = false;
    for (const rect of rectsOf(el)) {
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
        const hit = ofDocument("elementFromPoint").call(document, x, y);
        if (hit && belongs(el, hit)) return { x, y };
      }
    }
    return clipped && mayScroll ? "scroll" : null;
  };
  const belongs = (el, hit) => {
    if (hit === el) return true;
    if (get(el, "contains").call(el, hit)) {
      const generic = !ACTIVE.has(roleOf(el));
      for (let inner = hit; inner !== el; inner = get(inner, "parentElement")) {
        if ((generic && listens(inner)) || (CLICKED.has(roleOf(inner)) && get(inner, "localName") !== "option")) return false;
      }
      return true;
    }
    const label = get(hit, "closest").call(hit, "label");
    return Boolean(label && label.control === el);
  };
  // What keeps a point of an element from being seen: "scroll" where scrolling helps, "hidden" where not; null for nothing.
  const clipAt = (el, x, y) => {
    let clip = x < 0 || y < 0 || x >= innerWidth || y >= innerHeight ? "scroll" : null;
    for (let outer = get(el, "parentElement"); outer && outer !== ofDocument("body"); outer = get(outer, "parentElement")) {
      const { overflowX, overflowY } = getComputedStyle(outer);
      if (overflowX === "visible" && overflowY === "visible") continue;
      const rect = get(outer, "getBoundingClientRect").call(outer);
      if (x >= rect.left && x < rect.right && y >= rect.top && y < rect.bottom) continue;
      if (!/auto|scroll/.test(overflowX + overflowY)) return "hidden";
      clip = "scroll";
    }
    return clip;
  };

  // The visible text of an element, without that of elements in it which have lines of their own.
  const textOf = (el, generic = !ACTIVE.has(roleOf(el))) => {
    let text = "";
    for (const child of get(el, "childNodes")) {
      if (child instanceof Text) text += getComputedStyle(el).visibility === "visible" ? child.data : "";
      else if (child instanceof Element && !isSkipped(child)) {
        const style = getComputedStyle(child);
        if (isHidden(child, style) || ACTIVE.has(roleOf(child))) continue;
        if (generic && isClickable(child, style)) continue;
        const block = !style.display.startsWith("inline");
        text += (block ? " " : "") + (get(child, "localName") === "br" ? " " : textOf(child, generic)) + (block ? " " : "");
      }
    }
    return text;
  };
  const labelText = (el) => {
    for (const label of get(el, "labels") || []) {
      const text = clean(textOf(label));
      if (text) return text;
    }
    return "";
  };
  const nameOf = (el, role) => {
    const named = (attribute(el, "aria-labelledby") || "").split(/\s+/).map((id) => id && byId(id));
    const given = clean(named.filter(Boolean).map((other) => get(other, "textContent")).join(" "));
    if (given || attribute(el, "aria-label")) return given || clean(attribute(el, "aria-label"));
    if (el instanceof HTMLInputElement && role === "button") return el.value || el.alt || el.type;
    if (["checkbox", "radio", "textbox", "combobox", "listbox", "slider", "spinbutton", "file"].includes(role)) {
      return labelText(el) || attribute(el, "placeholder") || clean(get(el, "title") || "");
    }
    return clean(textOf(el)) || attribute(el, "alt") || clean(get(el, "title") || "");
  };
  // What an element without a name is called in the page's source: its id, a field's name, or its classes.
  const sourceName = (el) => {
    const id = get(el, "id");
    if (id && !/^ui-id-/.test(id)) return "#" + id;
    const field = site && ["input", "select", "textarea"].includes(get(el, "localName")) && attribute(el, "name");
    if (field) return "name=" + field.trim().slice(0, 80);
    return [...get(el, "classList")].slice(0, 2).map((name) => "." + name).join("");
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
    const corners = (attribute(el, "points") || "").trim().split(/[\s,]+/).length / 2;
    const kind = el.localName === "polygon" && corners === 3 ? "triangle" : el.localName;
    const style = getComputedStyle(el), size = (value) => Math.round(Number(value) || 0);
    const sizes = {
      circle: [2 * attribute(el, "r")], rect: [attribute(el, "width"), attribute(el, "height")],
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
    const states = [], aria = (name) => attribute(el, "aria-" + name);
    if (role === "checkbox" || role === "radio" || role === "switch") {
      states.push((get(el, "checked") ?? aria("checked") === "true") ? "checked" : "not checked");
    }
    if (aria("selected") === "true") states.push("selected");
    if (aria("expanded") === "true") states.push("expanded");
    if (aria("expanded") === "false") states.push("collapsed");
    if (aria("pressed") === "true") states.push("pressed");
    if (get(el, "disabled") || aria("disabled") === "true") states.push("disabled");
    if (get(el, "localName") === "textarea" || isEditable(el)) states.push("many lines");
    if (get(el, "readOnly")) states.push("read only");
    if (ofDocument("activeElement") === el) states.push("focused");
    return states;
  };
  const valueOf = (el, role) => {
    if (el instanceof HTMLInputElement && el.type === "password") return "•".repeat(el.value.length);
    if (["textbox", "slider", "spinbutton"].includes(role)) return get(el, "value") ?? clean(get(el, "innerText") || "");
    if (role === "slider") return attribute(el, "aria-valuenow");
    if (role === "combobox" && get(el, "selectedOptions")) return [...el.selectedOptions].map((one) => clean(one.text)).join(", ");
    return null;
  };

  const read = () => {
    ask();
    const lines = [];
    let words = "";
    const flush = (depth) => {
      const text = site ? clean(words).slice(0, LONGEST) : clean(words);
      if (site ? /[\p{L}\p{N}]/u.test(text) : text) lines.push({ depth, text });
      words = "";
    };
    const describe = (el, role, depth) => {
      const disabled = get(el, "disabled") || attribute(el, "aria-disabled") === "true";
      const point = disabled ? null : pointOf(el, true);
      const chosen = role === "combobox" || role === "listbox";
      const line = { depth, role, name: nameOf(el, role), states: statesOf(el, role), value: valueOf(el, role) };
      line.element = point ? el : null; // its number follows when all lines are there
      line.editable = Boolean(point) && ["textbox", "spinbutton"].includes(role) && !get(el, "readOnly");
      line.clickable = Boolean(point) && !(chosen && get(el, "options"));
      line.range = get(el, "localName") === "input" && ["range", "color"].includes(el.type);
      if (isShape(el)) Object.assign(line, shapeOf(el));
      if (!line.name && !isShape(el)) {
        line.source = sourceName(el);
        const color = role === "clickable" && !/ui-/.test(line.source) ? colorName(getComputedStyle(el).backgroundColor) : "";
        if (color) line.color = color;
      }
      if (chosen && get(el, "options")) {
        const options = [...el.options].filter((one) => !one.disabled);
        line.options = options.map((one) => clean(one.text));
        if (role === "listbox") line.selected = options.map((one) => one.selected);
      }
      if (get(el, "localName") === "input" && ["date", "time", "color", "month", "week", "datetime-local"].includes(el.type)) {
        line.kind = el.type;
      }
      lines.push(line);
    };
    const walk = (el, depth) => {
      if (isSkipped(el) || (site && lines.length >= MOST_LINES)) return;
      const style = getComputedStyle(el);
      if (isHidden(el, style)) return;
      const seen = style.visibility === "visible";
      let role = seen ? roleOf(el) : null;
      if (get(el, "localName") === "br") words += " ";
      if (["option", "optgroup"].includes(get(el, "localName"))) return;
      if (site && el instanceof SVGElement && !listens(el)) return; // icons
      if (seen && el instanceof SVGElement && isShape(el)) {
        flush(depth);
        describe(el, isClickable(el, style) || listens(el) ? "clickable" : "shape", depth);
        return;
      }
      if (seen && !ACTIVE.has(role) && role !== "dialog" && isClickable(el, style)) role = "clickable";
      const block = !style.display.startsWith("inline");
      if (role && ACTIVE.has(role)) {
        if (role === "clickable" && !rectsOf(el).length) role = null;
      }
      if (role && ACTIVE.has(role)) {
        flush(depth);
        const at = lines.length;
        describe(el, role, depth);
        if (["textbox", "combobox", "listbox"].includes(role)) return;
        for (const child of get(el, "children")) walkActive(child, depth + 1, role === "clickable");
        words = "";
        if (role === "clickable" && !lines[at].name && lines.length > at + 1) dissolve(at);
        return;
      }
      if (site && get(el, "localName") === "iframe") {
        flush(depth);
        const texts = frameTexts(el);
        if (texts.length) lines.push({ depth, role: "frame", name: clean(get(el, "title") || "") });
        for (const text of texts) lines.push({ depth: depth + 1, text });
        return;
      }
      if (role === "image") {
        flush(depth);
        const file = (attribute(el, "src") || "").split("/").pop();
        lines.push({ depth, role, name: el.alt || clean(get(el, "title") || ""), source: file.length < 40 ? file : "" });
        return;
      }
      if (role === "heading") {
        flush(depth);
        for (const child of get(el, "childNodes")) visit(child, depth);
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
        for (const child of get(el, "childNodes")) visit(child, depth + 1);
        flush(depth + 1);
        if (lines.length === at + 1) lines.pop();
        return;
      }
      if (!(el instanceof HTMLLabelElement && el.control && !el.contains(el.control) && labelText(el.control))) {
        for (const child of get(el, "childNodes")) visit(child, depth, el);
      }
      if (block) flush(depth);
      else if (style.display === "inline-block" || get(el, "localName") === "td") words += " ";
    };
    // Leave out the line of an element that only holds others and listens for them.
    const dissolve = (at) => {
      lines.splice(at, 1);
      for (let i = at; i < lines.length; i++) lines[i].depth -= 1;
    };
    // Within an active element only what is active itself has a line: its text is the element's name.
    const walkActive = (el, depth, generic) => {
      const style = getComputedStyle(el);
      if (isSkipped(el) || isHidden(el, style)) return;
      if (ACTIVE.has(roleOf(el)) || (generic && (isShape(el) || isClickable(el, style)))) walk(el, depth);
      else for (const child of get(el, "children")) walkActive(child, depth, generic);
    };
    const visit = (node, depth, parent) => {
      if (node instanceof Element) walk(node, depth);
      else if (node instanceof Text && !(parent instanceof HTMLLabelElement && parent.control && labelText(parent.control))) {
        if (getComputedStyle(get(node, "parentElement")).visibility === "visible") words += node.data;
      }
    };
    const nameOfContainer = (el) => {
      const titled = byId(attribute(el, "aria-labelledby") || "");
      return clean(titled ? get(titled, "textContent") : attribute(el, "aria-label") || "");
    };
    const root = ofDocument("body");
    if (root) walk(root, 0);
    flush(0);
    for (const line of lines) {
      if (!("element" in line)) continue;
      line.id = line.element && idOf(line.element);
      delete line.element;
    }
    return { lines, waiting };
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

  window.eexpPage = {
    frame,
    read,
    changes,
    isLoaded,

    // Leave elements out of what is read.
    skip(selector) {
      skipped += ", " + selector;
    },

    // Let the browser do what it does with its frames, and return whether the page stands still: it has been loaded, and
    // nothing in it has changed meanwhile. Where it does, or `always` unless it is being parsed, return what it says, too.
    async pause(reads, always) {
      const before = changes();
      await frame();
      await frame();
      const still = isLoaded() && changes() === before;
      const ready = still || (always && ofDocument("readyState") !== "loading");
      return reads && ready ? { still, ready, ...read(), title: ofDocument("title"), url: location.href } : { still, ready };
    },

    // Wait for the pictures that the page shows, and return what `read` says then. Those of a site are requests that are
    // watched from outside.
    async readWithPictures() {
      await picturesLoaded();
      await frame();
      await frame();
      return read();
    },

    // The number of an element, or of the nearest one around it that has one; null where none has.
    numberOf(el) {
      for (let one = el; one; one = one.parentElement) if (ids.has(one)) return ids.get(one);
      return null;
    },

    // Scroll an element into view where it has to be; return where to click on it, null where it cannot be clicked.
    async locate(id) {
      const el = elementOf(id);
      if (!el) return null;
      ask();
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
