(() => {
  const data = JSON.parse(document.getElementById("episodes-data").textContent);
  const { $, element, many } = eexpPage;
  const REFUSED = 1, CUT_OFF = 2;
  const [SUCCESS, SCORE, STEPS, INVALID, CUT, FINAL, TURNS] = [0, 1, 2, 3, 4, 5, 6];
  const state = { task: null, left: "0/0", right: "0/0", show: "all", kind: "", q: "" };
  let visible = []; // the tasks that fit

  // -- names ---------------------------------------------------------------------------------------------------

  const keys = data.arms.flatMap((arm, i) => arm.runs.map((_, j) => `${i}/${j}`));
  const armOf = (key) => data.arms[key.split("/")[0]];
  function nameOf(key) {
    const arm = armOf(key), run = arm.runs[key.split("/")[1]];
    return arm.runs.length > 1 ? `${arm.label}, run ${run}` : arm.label;
  }
  /** Write a run as a link does: by its names, which stay when arms are added. */
  const toLink = (key) => `${armOf(key).label}/${armOf(key).runs[key.split("/")[1]]}`;
  const fromLink = (link) => keys.find((key) => toLink(key) === link);
  const idOf = (task) => `${task.env}:${task.id}`;
  /** Tell the two sides apart in a sentence even where one arm is on both. */
  function sideNames() {
    const [left, right] = [armOf(state.left), armOf(state.right)];
    return left === right ? [nameOf(state.left), nameOf(state.right)] : [left.label, right.label];
  }

  // -- which tasks ---------------------------------------------------------------------------------------------

  const OUTCOMES = {
    all: () => true,
    differ: (left, right) => left !== right,
    left: (left, right) => left && !right,
    right: (left, right) => right && !left,
    both: (left, right) => left && right,
    neither: (left, right) => !left && !right,
  };
  function outcomeNames() {
    const [left, right] = sideNames();
    return { all: "All", differ: "Exactly one solves it", left: `Only ${left} solves it`, right: `Only ${right} solves it`,
      both: "Both solve it", neither: "Neither solves it" };
  }
  const solved = (task, key) => Boolean(task.episodes[key] && task.episodes[key][SUCCESS]);
  const fits = (task, outcome) => OUTCOMES[outcome](solved(task, state.left), solved(task, state.right));

  const lowerTexts = data.texts.map(() => null);
  const lowerCase = (i) => (i < 0 ? "" : lowerTexts[i] ?? (lowerTexts[i] = data.texts[i].toLowerCase()));
  function containsWords(task, words) {
    const pair = [task.episodes[state.left], task.episodes[state.right]].filter(Boolean);
    const plain = `${task.id} ${task.instruction} ${task.kind ?? ""}`.toLowerCase();
    return words.every((word) => plain.includes(word) || pair.some((episode) => lowerCase(episode[FINAL]).includes(word) ||
      episode[TURNS].some((turn) => [turn[0], turn[1], turn[2], turn[4] ?? -1].some((i) => lowerCase(i).includes(word)))));
  }
  const searchWords = () => eexpPage.wordsOf(state.q);
  const withMarks = (text) => eexpPage.withMarks(text, searchWords());
  const long = (text, kind) => eexpPage.folded(text, kind, searchWords());
  function select() {
    const words = searchWords();
    const pool = data.tasks.filter((task) => (!state.kind || task.kind === state.kind) && containsWords(task, words));
    visible = pool.filter((task) => fits(task, state.show));
    const counts = Object.fromEntries(Object.keys(OUTCOMES).map((o) => [o, pool.filter((task) => fits(task, o)).length]));
    const names = outcomeNames();
    $("show").replaceChildren(...Object.keys(OUTCOMES).map((o) => element("option", { value: o }, `${names[o]} (${counts[o]})`)));
    $("show").value = state.show;
    if (!visible.some((task) => idOf(task) === state.task)) state.task = visible.length ? idOf(visible[0]) : null;
  }

  // -- drawing -------------------------------------------------------------------------------------------------

  const mark = (success) => element("span", { class: success ? "yes" : "no", "aria-hidden": "true" }, success ? "✓" : "✗");
  const inWords = (success) => (success ? "solved" : "not solved");

  function drawList() {
    const list = $("tasks");
    const names = sideNames();
    const within = list.contains(document.activeElement);
    list.replaceChildren(...visible.map((task) => {
      const [left, right] = [solved(task, state.left), solved(task, state.right)];
      const current = idOf(task) === state.task;
      const label = `${task.instruction || task.id}. ${names[0]}: ${inWords(left)}, ${names[1]}: ${inWords(right)}`;
      const button = element("button", { type: "button", "aria-label": label, "aria-current": current ? "true" : null },
        mark(left), mark(right), element("span", {}, task.instruction || task.id));
      button.addEventListener("click", () => go(task));
      return element("li", {}, button);
    }));
    const current = list.querySelector("[aria-current]");
    if (current) {
      eexpPage.keepInView(list, current);
      if (within) current.focus({ preventScroll: true });
    }
    const at = visible.findIndex((task) => idOf(task) === state.task);
    $("count").textContent = visible.length ? `Task ${at + 1} of ${visible.length}` : "No task";
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at === visible.length - 1;
  }

  function drawTurn(turn, step, parts) {
    const [observation, action, thought, flags, completion] = turn;
    const badge = flags & CUT_OFF ? "✂ cut off at the token limit" : flags & REFUSED ? "✗ refused" : null;
    return element("li", { class: ["turn", flags & REFUSED ? "refused" : "", flags & CUT_OFF ? "cut" : "", parts ? "parts" : ""].join(" "),
      "data-step": String(step) },
      long(data.texts[observation], "seen"),
      thought >= 0 ? long(data.texts[thought], "thought") : null,
      element("p", { class: "action" }, ...withMarks(data.texts[action]), badge ? element("span", { class: "badge" }, badge) : ""),
      completion >= 0 ? long(data.texts[completion], "written") : null);
  }
  function drawEpisode(key, episode, differingStep, rows) {
    const section = element("section", { class: "episode", "aria-label": nameOf(key) });
    section.style.gridRow = `span ${rows}`;
    const header = element("header", {}, element("h4", {}, nameOf(key)));
    section.append(header);
    if (!episode) {
      section.append(element("p", { class: "missing" }, "This run has no episode on this task."));
      return section;
    }
    const success = Boolean(episode[SUCCESS]);
    const score = episode[SCORE] === null || episode[SCORE] === Number(success) ? "" : `, score ${episode[SCORE]}`;
    const facts = `${many(episode[STEPS], "step", "steps")}, ${episode[INVALID]} refused${score}` +
      (episode[CUT] ? `, ${episode[CUT]} cut off` : "");
    header.append(element("p", {}, element("span", { class: `verdict ${success ? "yes" : "no"}` }, `${success ? "✓" : "✗"} ${inWords(success)}`),
      ` ${facts}`));
    const turns = element("ol", { style: "display:contents;list-style:none" },
      ...episode[TURNS].map((turn, i) => drawTurn(turn, i + 1, i > 0 && i === differingStep)));
    if (episode[FINAL] >= 0) turns.append(element("li", { class: "turn last", "data-step": "end" }, long(data.texts[episode[FINAL]], "seen")));
    section.append(turns);
    return section;
  }
  /** Return the first step whose actions differ; -1 where they never do. */
  function firstDifferingStep(left, right) {
    if (!left || !right) return -1;
    const n = Math.max(left[TURNS].length, right[TURNS].length);
    for (let i = 0; i < n; i++) if (left[TURNS][i]?.[1] !== right[TURNS][i]?.[1]) return i;
    return -1;
  }
  function drawPair() {
    const task = visible.find((task) => idOf(task) === state.task);
    $("nothing").hidden = Boolean(task);
    document.querySelector(".sides").hidden = !task;
    $("both").replaceChildren();
    $("instruction").textContent = task ? task.instruction || task.id : "";
    $("task-id").textContent = task ? [task.env, task.id, task.kind].filter(Boolean).join(" · ") : "";
    if (!task) return;
    const [left, right] = [task.episodes[state.left], task.episodes[state.right]];
    const differingStep = state.left === state.right ? -1 : firstDifferingStep(left, right);
    const rows = Math.max(left ? left[TURNS].length : 0, right ? right[TURNS].length : 0) + 2;
    $("both").append(drawEpisode(state.left, left, differingStep, rows), drawEpisode(state.right, right, differingStep, rows));
    const names = sideNames();
    [["left", left], ["right", right]].forEach(([side, episode], i) => {
      const success = Boolean(episode && episode[SUCCESS]);
      $(`side-${side}`).replaceChildren(`${names[i]} `, mark(success), element("span", { class: "visually-hidden" }, inWords(success)));
    });
  }

  // -- moving --------------------------------------------------------------------------------------------------

  function toHash() {
    const link = new URLSearchParams();
    if (state.task) link.set("task", state.task);
    link.set("left", toLink(state.left));
    link.set("right", toLink(state.right));
    for (const name of ["show", "kind", "q"]) if (state[name] && state[name] !== "all") link.set(name, state[name]);
    try {
      history.replaceState(null, "", `#${link}`);
    } catch { /* some browsers refuse it for files; the page works without */ }
  }
  function fromHash() {
    if (!location.hash.includes("=")) return false;
    const link = new URLSearchParams(location.hash.slice(1));
    for (const side of ["left", "right"]) state[side] = fromLink(link.get(side)) ?? state[side];
    state.show = Object.hasOwn(OUTCOMES, link.get("show")) ? link.get("show") : "all";
    state.kind = data.tasks.some((task) => task.kind === link.get("kind")) ? link.get("kind") : "";
    state.q = link.get("q") ?? "";
    state.task = link.get("task") ?? state.task;
    return true;
  }
  function controls() {
    for (const side of ["left", "right"]) $(side).value = state[side];
    $("kind").value = state.kind;
    $("query").value = state.q;
  }
  function draw(link = true) {
    select();
    drawList();
    drawPair();
    if (link) toHash();
  }
  function go(task) {
    if (!task) return;
    state.task = idOf(task);
    draw();
    const names = sideNames(), at = visible.indexOf(task);
    $("announce").textContent = `Task ${at + 1} of ${visible.length}: ${task.instruction || task.id} ${names[0]}: ` +
      `${inWords(solved(task, state.left))}. ${names[1]}: ${inWords(solved(task, state.right))}.`;
    bringIntoView();
  }
  /** Scroll so that the task's name can be read, if it cannot. */
  function bringIntoView() {
    const head = document.querySelector(".head"), place = head.getBoundingClientRect();
    if (place.top < 0 || place.bottom > innerHeight) head.scrollIntoView({ block: "start" });
  }
  const walk = (by) => go(visible[visible.findIndex((task) => idOf(task) === state.task) + by]);
  function side(name) {
    $("pair").dataset.side = name;
    for (const one of ["left", "right"]) $(`side-${one}`).setAttribute("aria-pressed", String(one === name));
  }
  function swap() {
    [state.left, state.right] = [state.right, state.left];
    if (state.show === "left" || state.show === "right") state.show = state.show === "left" ? "right" : "left";
    controls();
    draw();
  }
  function nextOutcome() {
    const all = Object.keys(OUTCOMES);
    state.show = all[(all.indexOf(state.show) + 1) % all.length];
    draw();
    $("announce").textContent = `${outcomeNames()[state.show]}: ${many(visible.length, "task", "tasks")}`;
  }

  // -- setting up ----------------------------------------------------------------------------------------------

  for (const name of ["left", "right"]) {
    $(name).append(...data.arms.map((arm, i) => {
      const options = arm.runs.map((run, j) => element("option", { value: `${i}/${j}` }, nameOf(`${i}/${j}`)));
      return arm.runs.length > 1 ? element("optgroup", { label: arm.label }, ...options) : options[0];
    }));
    $(name).addEventListener("change", () => { state[name] = $(name).value; draw(); });
    $(`side-${name}`).addEventListener("click", () => side(name));
  }
  const kinds = [...new Set(data.tasks.map((task) => task.kind).filter(Boolean))].sort();
  $("kind").append(element("option", { value: "" }, "All"), ...kinds.map((kind) => element("option", { value: kind }, kind)));
  $("kind-label").hidden = kinds.length < 2;
  $("kind").addEventListener("change", () => { state.kind = $("kind").value; draw(); });
  $("show").addEventListener("change", () => { state.show = $("show").value; draw(); });
  $("query").addEventListener("input", () => { state.q = $("query").value; draw(); });
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => walk(-1));
  $("next").addEventListener("click", () => walk(1));

  eexpPage.setUpTools();
  eexpPage.bindKeys({
    j: () => walk(1), k: () => walk(-1), ArrowRight: () => walk(1), ArrowLeft: () => walk(-1), o: nextOutcome, s: swap,
    x: () => side($("pair").dataset.side === "left" ? "right" : "left"),
  });
  addEventListener("hashchange", () => { if (fromHash()) { controls(); draw(false); } });

  if (data.tasks.length) {
    [state.left, state.right] = data.start;
    if (state.left === state.right) state.right = keys[1] ?? keys[0];
    const hasLink = fromHash();
    $("viewer").hidden = false;
    controls();
    draw(false);
    if (hasLink) $("episodes").scrollIntoView({ block: "start" });
  }
})();
