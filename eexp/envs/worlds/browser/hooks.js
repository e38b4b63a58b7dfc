// Runs in every page before the page's own scripts, in their world. It stops the page's clock, which then advances only
// when `eexpClock` is told to, and turns off what moves by itself, draws by itself, or leads away. What the page says is
// read by page.js, in a world of its own: all that a page can change by changing what is here is how it works itself.
(() => {
  "use strict";
  const site = window.eexpSite === true; // whether links and forms lead on, and messages are passed on
  const say = site && typeof window.eexpSay === "function" ? window.eexpSay : () => undefined;
  delete window.eexpSite;
  delete window.eexpSay;
  const START = Date.UTC(2024, 0, 8, 9, 0, 0); // what the page takes for now when it is opened
  const FRAME = 16; // milliseconds between two animation frames
  const FAR = 3600e3; // a timer that is due later than this never is
  const SLICE = 100; // milliseconds of which the timers run at once, before what they have asked for is waited for

  // -- the clock ------------------------------------------------------------------------------------------------------

  const RealDate = Date;
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

  // The clocks of this page and of its frames, without those of frames from elsewhere.
  const { querySelectorAll } = Document.prototype; // a page can hide a document's own by an element's name
  const clocks = () => {
    const frames = [...querySelectorAll.call(document, "iframe")].map((el) => el.contentDocument && el.contentWindow.eexpClock);
    return [clock, ...frames.filter((one) => one && typeof one.due === "function")]; // and no element of this id
  };
  // Let a part of so many milliseconds pass, with the first timers that are due, or all; return how many are left.
  const advancePart = async (milliseconds, whole) => {
    const all = clocks();
    const first = Math.min(...all.map((one) => one.due(milliseconds)));
    const part = whole ? milliseconds : Math.min(milliseconds, first + SLICE);
    for (const one of all) await one.advance(part);
    return milliseconds - part;
  };

  const clock = Object.freeze({
    advance,
    advancePart,
    // The milliseconds until the first timer, at most so many.
    due(most) {
      const first = next(now + most);
      return first ? first.due - now : most;
    },
  });
  Object.defineProperty(window, "eexpClock", { value: clock });

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
    say(`${kind} ${String(text ?? "").slice(0, 300)}`);
    return answer;
  };
  window.alert = asks("alert", undefined);
  window.confirm = asks("confirm", true);
  window.prompt = asks("prompt", null);
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
  const clicked = new WeakMap(), pressed = new WeakMap(); // element -> number of listeners
  const counts = (el, type) => {
    if (!(el instanceof Element)) return null;
    if (MOUSE.has(type)) return clicked;
    return type === "mousedown" && el instanceof SVGElement ? pressed : null; // elsewhere it begins a drag
  };
  const realAdd = EventTarget.prototype.addEventListener, realRemove = EventTarget.prototype.removeEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (site && type === "beforeunload") return undefined; // a page cannot keep its reader
    const listeners = counts(this, type);
    if (listeners) listeners.set(this, (listeners.get(this) || 0) + 1);
    return realAdd.call(this, type, ...rest);
  };
  EventTarget.prototype.removeEventListener = function (type, ...rest) {
    const listeners = counts(this, type);
    if (listeners) listeners.set(this, (listeners.get(this) || 0) - 1);
    return realRemove.call(this, type, ...rest);
  };

  // page.js asks by an event, and gets the numbers of the elements that listen, in document order, and whether something
  // happens by itself later. The two worlds share no values but the browser's own objects, and of these visualViewport
  // keeps its listeners when a page opens its document anew.
  const { dispatchEvent } = EventTarget.prototype, RealEvent = CustomEvent;
  realAdd.call(visualViewport, "eexp-ask", () => {
    const answer = { clicked: [], pressed: [], waiting: false };
    querySelectorAll.call(document, "*").forEach((el, number) => {
      if ((clicked.get(el) || 0) > 0 || typeof el.onclick === "function") answer.clicked.push(number);
      if ((pressed.get(el) || 0) > 0) answer.pressed.push(number);
    });
    answer.waiting = [...timers.values()].some((timer) => timer.due < now + FAR);
    dispatchEvent.call(visualViewport, new RealEvent("eexp-answer", { detail: answer }));
  });
})();
