// Runs after page.js in the pages of a recording, in the same world. It tells what a person does, each time with the page as it is read
// then: a capturing listener on the window comes before all listeners of the page.
(() => {
  "use strict";
  const tell = window.eexpRecord;
  delete window.eexpRecord;
  if (window.top !== window || typeof tell !== "function") return; // the content of an iframe is not read
  const page = window.eexpPage;
  const send = (kind, more) => tell(JSON.stringify({ kind, ...more }));
  const seen = (el) => ({ lines: page.read().lines, id: page.numberOf(el) });
  const clean = (text) => text.replace(/\s+/g, " ").trim();
  const isText = (el) =>
    el instanceof HTMLTextAreaElement || el.isContentEditable ||
    (el instanceof HTMLInputElement && !["checkbox", "radio", "button", "submit", "reset", "image", "file"].includes(el.type));

  let dirty = null; // the field that is being typed into, as the page was read before
  const finishTyping = () => {
    if (!dirty) return;
    const { el, view } = dirty;
    dirty = null;
    send("type", { ...view, text: "value" in el ? el.value : el.innerText });
  };
  let submitting = false; // whether ENTER is pressed: a click on the form's button then follows by itself
  const chosen = new WeakMap(); // list of choices -> which were chosen before

  addEventListener("input", (event) => {
    const el = event.target;
    if (!event.isTrusted || !isText(el)) return;
    if (dirty && dirty.el !== el) finishTyping();
    if (!dirty) dirty = { el, view: seen(el) };
    send("typing");
  }, true);

  addEventListener("change", (event) => {
    const el = event.target;
    if (!event.isTrusted) return;
    if (dirty && dirty.el === el) finishTyping();
    if (!(el instanceof HTMLSelectElement)) return;
    const options = [...el.options].filter((one) => !one.disabled), before = chosen.get(el) || [];
    const turned = el.multiple ? options.filter((one, i) => one.selected !== Boolean(before[i])) : [...el.selectedOptions];
    const view = seen(el);
    for (const option of turned) send("select", { ...view, text: clean(option.text) });
    chosen.set(el, options.map((one) => one.selected));
  }, true);

  addEventListener("mousedown", (event) => {
    const list = event.target.closest && event.target.closest("select");
    if (list) chosen.set(list, [...list.options].filter((one) => !one.disabled).map((one) => one.selected));
  }, true);

  addEventListener("click", (event) => {
    const el = event.target;
    if (!event.isTrusted || submitting || !(el instanceof Element)) return;
    const label = el.closest("label");
    if (label && label.control && !label.control.contains(el)) return; // a click on its control follows
    if (el.closest("select, option")) return; // its change is told
    finishTyping();
    send("click", seen(el));
  }, true);

  const KEYS = { Escape: "ESCAPE", ArrowUp: "ARROW_UP", ArrowDown: "ARROW_DOWN" };
  addEventListener("keydown", (event) => {
    const el = event.target;
    if (!event.isTrusted || event.isComposing) return;
    const enters = event.key === "Enter" && el instanceof HTMLInputElement && isText(el);
    const moves = event.key in KEYS && (event.key === "Escape" || (el instanceof HTMLInputElement && el.type === "text"));
    if (!enters && !moves) return;
    finishTyping();
    submitting = enters;
    send("key", { text: enters ? "ENTER" : KEYS[event.key] });
  }, true);
  addEventListener("keyup", () => (submitting = false), true);
})();
